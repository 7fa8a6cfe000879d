"""Does it need the tool? The same tasks, played where tools are missing, find nothing, are mixed up, lie or fail.

Of each task it is known then whether the model solves it without tools, and whether it calls one. Calls on tasks that
it solves without are over-use, answers without a call on tasks that it does not are under-use, as Wu et al. 2025
("Search Wisely: Mitigating Sub-optimal Agentic Searches By Reducing Uncertainty") define over- and under-search of
steps. Productivity, right answers per call, is that of Wang et al. 2025 ("OTC: Optimal Tool Calls via Reinforcement
Learning").
"""

from __future__ import annotations

import inspect
import random
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.table import Table

from toolrl.chat import Renderer
from toolrl.env import ToolEnv
from toolrl.errors import ConfigError, ToolError
from toolrl.evaluation.evaluate import EnvReport, evaluate, summarise
from toolrl.evaluation.statistics import difference_interval, mean, success_interval
from toolrl.evaluation.tables import number, short_name, with_interval
from toolrl.policy import ChatPolicy, Policy
from toolrl.tools.definition import Tool
from toolrl.tools.resources import Resource
from toolrl.trajectory import Trajectory
from toolrl.types import Episode, Score, Task

if TYPE_CHECKING:
    import pandas

TOOLS, NONE, EMPTY, RANDOM, HOSTILE, BROKEN = "tools", "none", "empty", "random", "hostile", "broken"
CONDITIONS = {
    TOOLS: "the tools as they are",
    NONE: "no tools, and no word of them, but those that end the episode",
    EMPTY: "every call finds nothing",
    RANDOM: "a call returns what the tool returned in another task",
    HOSTILE: "a call returns what it returned, with another task's answer in place of the right one",
    BROKEN: "every call fails",
}
MODE = "counterfactual"  # of episodes under any other condition
BELIEVED = "believed"  # part of a score: the answer is the one that a hostile tool gave
_NOTHING_FOUND, _NO_OUTPUT = "No results.", "(no output)"


@dataclass(frozen=True, slots=True)
class Share:
    """A share of episodes, with its 95 % interval over tasks; `value` is None, and the interval [0, 1], without any."""

    value: float | None
    interval: tuple[float, float]
    tasks: int

    @classmethod
    def of(cls, groups: Sequence[Sequence[float]]) -> Share:
        """The share of ones in the groups of tasks."""
        filled = [group for group in groups if group]
        return cls(mean(sum(group) / len(group) for group in filled), success_interval(filled), len(filled))

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        return f"{self.value:.2f} [{self.interval[0]:.2f}, {self.interval[1]:.2f}] of {self.tasks:,}"


@dataclass(frozen=True)
class Counterfactuals:
    """What tools are worth in one environment.

    Attributes:
        env_id: The environment.
        reports: Reports by condition; see `CONDITIONS`.
        differences: Of each other condition: success with tools minus success there, paired by task, and its 95 %
            interval. That of "none" is the benefit of tools.
        need: Of all tasks: failure without tools.
        over_use: Of tasks that are solved without tools, in at least half of the samples: episodes with a call.
        under_use: Of the other tasks: episodes without a call.
        trust: Of tasks in which a hostile tool was called: answers that are its own.
        productivity: Right answers per call; None without calls.
        tasks: One row per task: `env`, `task`, `kind`, success by condition, `calls` (the share of episodes with a
            call), and `use`: "over" or "under" where most episodes are, else "right".
    """

    env_id: str
    reports: dict[str, EnvReport]
    differences: dict[str, tuple[float, tuple[float, float]]]
    need: Share
    over_use: Share
    under_use: Share
    trust: Share
    productivity: float | None
    tasks: pandas.DataFrame


def counterfactuals(
    environments: Mapping[str, ToolEnv],
    policy: Policy | ChatPolicy,
    renderer: Renderer | None,
    *,
    conditions: Sequence[str] = tuple(CONDITIONS),
    on_trajectory: Callable[[Trajectory], None] | None = None,
    info: Mapping[str, Any] | None = None,
    **playing: Any,
) -> dict[str, Counterfactuals]:
    """Play the first tasks of each environment under several conditions.

    Args:
        environments: By id. Those without tools are refused.
        policy: Plays the tasks.
        renderer: Of the policy's tokenizer; None for a `ChatPolicy`.
        conditions: Names in `CONDITIONS`; "tools" and "none" are always played. A hostile tool needs tasks with answers
            in words or numbers, and is left out otherwise.
        on_trajectory: Called with each trajectory; its `info` has the `condition`, and but for "tools" the mode
            "counterfactual".
        info: Recorded with each trajectory.
        playing: Further arguments of `evaluate`.

    Raises:
        ConfigError: A condition is unknown, or an environment has no tools.
    """
    if unknown := [name for name in conditions if name not in CONDITIONS]:
        raise ConfigError(f"there is no condition {unknown[0]!r}; the conditions are {', '.join(CONDITIONS)}")
    if without := [env_id for env_id, env in environments.items() if not env.toolbox.tools]:
        raise ConfigError(f"{without[0]} has no tools, so nothing can be done without them")
    played: dict[str, list[Trajectory]] = {}
    for condition in (TOOLS, NONE, *(name for name in conditions if name not in (TOOLS, NONE))):
        kept = played.setdefault(condition, [])
        chosen = {
            env_id: changed
            for env_id, env in environments.items()
            if (changed := under(env, condition, [t for t in played[TOOLS] if t.env_id == env_id])) is not None
        }

        def keep(trajectory: Trajectory, kept: list[Trajectory] = kept) -> None:
            kept.append(trajectory)
            if on_trajectory is not None:
                on_trajectory(trajectory)

        about = {**(info or {}), "condition": condition}
        if condition != TOOLS:  # reports and comparisons are about the tools as they are
            about["mode"] = MODE
        evaluate(chosen, policy, renderer, on_trajectory=keep, info=about, **playing)
    return {
        env_id: measure(env_id, {name: [t for t in found if t.env_id == env_id] for name, found in played.items()})
        for env_id in environments
    }


def under(env: ToolEnv, condition: str, played: Sequence[Trajectory]) -> ToolEnv | None:
    """The environment under a condition, after episodes that were played with its tools; None if it cannot be."""
    if condition == TOOLS:
        return env
    kept = [tool for tool in env.toolbox.tools.values() if _may_end(tool, played)]
    if condition == NONE:
        return env.with_tools(kept)
    recorded: dict[str, dict[str, list[str]]] = {task.id: defaultdict(list) for task in env.tasks}  # by task and tool
    for trajectory in played:
        for result in trajectory.tool_results:
            if result.failure is None:
                recorded[trajectory.task_id][result.call.name].append(result.content)
    wrong = _wrong_answers(env) if condition == HOSTILE else {}
    if condition == HOSTILE and not wrong:
        return None

    def answers_of(task: Task, tool: Tool) -> list[str]:
        if condition == RANDOM:
            others = [texts for name, found in recorded.items() if name != task.id and (texts := found.get(tool.name))]
            return list(random.Random(task.id).choice(others)) if others else []
        if condition == HOSTILE:
            lie = wrong[task.id]
            right = re.compile(rf"(?<![\w.]){re.escape(str(task.answer))}(?![\w.])")
            texts = recorded[task.id].get(tool.name, [])
            told = [right.sub(lambda _: lie, text) for text in texts if right.search(text)]
            return told or [f"The answer is {lie}."]
        return []

    tools = [
        tool if tool in kept else _stand_in(tool, answers_of, fails=condition == BROKEN)
        for tool in env.toolbox.tools.values()
    ]
    return env.with_tools(tools, _noting_belief(env.grader.reward, wrong) if condition == HOSTILE else None)


def _stand_in(tool: Tool, answers_of: Callable[[Task, Tool], list[str]], *, fails: bool) -> Tool:
    """A tool with the same schema that opens nothing, and returns its answers in turn, the last one again and again."""
    nothing = _NOTHING_FOUND if "retriever" in tool.resources else _NO_OUTPUT
    name = f"(answers of {tool.name})"  # injected under a name that no parameter has

    async def call(**arguments: Any) -> str:
        if fails:
            raise ToolError(f"{tool.name} is not available")
        answers = arguments[name]
        return str(answers.pop(0) if len(answers) > 1 else (answers or [nothing])[0])

    return replace(tool, function=call, resources={name: Resource(lambda task: answers_of(task, tool), "episode")})


def _may_end(tool: Tool, played: Sequence[Trajectory]) -> bool:
    """Whether the tool is a way to end the episode, such as `submit`: by its hint, or by what it did."""
    hint = inspect.get_annotations(inspect.unwrap(tool.function)).get("return")
    did = any(result.ended and result.call.name == tool.name for t in played for result in t.tool_results)
    return did or "Ended" in str(hint)


def _wrong_answers(env: ToolEnv) -> dict[str, str]:
    """Another task's answer for each task, of the same kind if there is one; empty if tasks have no plain answers."""
    by_kind: dict[str, dict[str, None]] = defaultdict(dict)  # distinct answers, in the order of the tasks
    for task in env.tasks:
        if isinstance(task.answer, bool) or not isinstance(task.answer, (str, int, float)) or task.answer == "":
            return {}
        by_kind[task.kind][str(task.answer)] = None
    everything = list(dict.fromkeys(answer for answers in by_kind.values() for answer in answers))
    if len(everything) < 2:
        return {}
    distinct = {kind: list(answers) if len(answers) > 1 else everything for kind, answers in by_kind.items()}
    found = {}
    for task in env.tasks:
        answers, place = distinct[task.kind], random.Random(task.id).randrange(len(distinct[task.kind]))
        # The next one, if it is the right one itself.
        found[task.id] = answers[place] if answers[place] != str(task.answer) else answers[(place + 1) % len(answers)]
    return found


def _noting_belief(reward: Callable[..., Any], wrong: Mapping[str, str]) -> Callable[[Task, Episode], Any]:
    """A reward with a part that says whether the answer is the wrong one."""

    def graded(task: Task, episode: Episode) -> Any:
        verdicts = reward(task, episode), reward(replace(task, answer=wrong[task.id]), episode)
        return _awaited(verdicts) if inspect.isawaitable(verdicts[0]) else _noted(*verdicts)

    async def _awaited(verdicts: tuple[Any, Any]) -> Score:
        return _noted(await verdicts[0], await verdicts[1])

    return graded


def _noted(verdict: Any, believed: Any) -> Score:
    score, other = (one if isinstance(one, Score) else Score(one) for one in (verdict, believed))
    parts = score.parts or ({} if score.value is None else {"correct": float(bool(score.success))})
    return replace(score, parts={**parts, BELIEVED: float(bool(other.success) and not score.success)})


def measure(env_id: str, played: Mapping[str, Sequence[Trajectory]]) -> Counterfactuals:
    """Counterfactuals from the episodes of an environment under each condition."""
    import pandas

    success = {name: _by_task(found, lambda t: float(bool(t.score.success))) for name, found in played.items() if found}
    calls = _by_task(played[TOOLS], lambda t: float(bool(_calls(t))))
    kinds = {t.task_id: str(t.info.get("kind") or "") for t in played[TOOLS]}
    rates = {name: {task: sum(found) / len(found) for task, found in by.items()} for name, by in success.items()}
    alone, common = rates[NONE], [task for task in calls if task in rates[NONE]]
    solved = {task: alone[task] >= 0.5 for task in common}
    differences = {}
    for name in rates:
        if name != TOOLS:
            gaps = [rates[TOOLS][task] - rates[name][task] for task in rates[TOOLS] if task in rates[name]]
            differences[name] = (mean(gaps) or 0.0, difference_interval(gaps))
    asked = [t for t in played.get(HOSTILE, ()) if _calls(t)]
    use = {
        task: "over" if solved[task] and share > 0.5 else "under" if not solved[task] and share < 0.5 else "right"
        for task, share in ((task, sum(calls[task]) / len(calls[task])) for task in common)
    }
    made = sum(_calls(t) for t in played[TOOLS] if t.score.value is not None)
    return Counterfactuals(
        env_id=env_id,
        reports={name: summarise(env_id, found) for name, found in played.items() if found},
        differences=differences,
        need=Share.of([[1 - value for value in success[NONE][task]] for task in common]),
        over_use=Share.of([calls[task] for task in common if solved[task]]),
        under_use=Share.of([[1 - value for value in calls[task]] for task in common if not solved[task]]),
        trust=Share.of(list(_by_task(asked, lambda t: t.score.parts.get(BELIEVED, 0.0)).values())),
        productivity=sum(sum(found) for found in success[TOOLS].values()) / made if made else None,
        tasks=pandas.DataFrame(
            {
                "env": env_id,
                "task": common,
                "kind": [kinds[task] for task in common],
                **{name: [by.get(task) for task in common] for name, by in rates.items()},
                "calls": [sum(calls[task]) / len(calls[task]) for task in common],
                "use": [use[task] for task in common],
            }
        ),
    )


def _calls(trajectory: Trajectory) -> int:
    """Calls, without the one that ended the episode."""
    return sum(result.ended is None for result in trajectory.tool_results)


def _by_task(found: Sequence[Trajectory], value: Callable[[Trajectory], float]) -> dict[str, list[float]]:
    """A value of the scored episodes, by task."""
    values: dict[str, list[float]] = defaultdict(list)
    for trajectory in found:
        if trajectory.score.value is not None:
            values[trajectory.task_id].append(value(trajectory))
    return values


def counterfactual_tables(measured: Mapping[str, Counterfactuals]) -> list[Table]:
    """For a terminal: success under each condition, what follows, and the tasks of each kind if there are several."""
    conditions = [name for name in CONDITIONS if any(name in one.reports for one in measured.values())]
    success = Table(title="success under each condition; in brackets, 95 %; below, tools minus the condition")
    success.add_column("environment")
    for name in conditions:
        success.add_column(name, overflow="fold")
    use = Table(title="does it need its tools? shares of tasks, with 95 % intervals")
    for column in ("environment", "need", "over-use", "under-use", "trust in wrong results", "right per call"):
        use.add_column(column, overflow="fold")
    for env_id, one in measured.items():
        cells = []
        for name in conditions:
            cell = with_interval(one.reports[name]) if name in one.reports else "-"
            if name in one.differences:
                gap, (low, high) = one.differences[name]
                cell += f"\n{gap:+.2f} [{low:+.2f}, {high:+.2f}]"
            cells.append(cell)
        success.add_row(short_name(env_id), *cells)
        shares = (one.need, one.over_use, one.under_use, one.trust)
        use.add_row(short_name(env_id), *map(str, shares), number(one.productivity))
    return [success, use, *_kinds_table(measured, conditions)]


def _kinds_table(measured: Mapping[str, Counterfactuals], conditions: Sequence[str]) -> list[Table]:
    """Success and tool use of each kind, the most often solved without tools first."""
    table = Table(title="by kind of task: success, and episodes with a call")
    for column in ("environment", "kind", "tasks", *conditions, "calls", "over-used", "under-used"):
        table.add_column(column)
    for env_id, one in measured.items():
        by_kind = one.tasks.groupby("kind")
        for kind in by_kind[NONE].mean().sort_values(ascending=False, kind="stable").index:
            rows = by_kind.get_group(kind)
            shares = [number(float(rows[name].mean())) if name in rows else "-" for name in (*conditions, "calls")]
            used = [str(int((rows["use"] == use).sum())) for use in ("over", "under")]
            table.add_row(short_name(env_id), kind or "-", f"{len(rows):,}", *shares, *used)
    return [table] if any(one.tasks["kind"].nunique() > 1 for one in measured.values()) else []
