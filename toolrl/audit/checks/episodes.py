"""Checks that play episodes: the oracle, worthless answers, broken calls, leaked resources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from toolrl.audit.case import final_form, is_right, solution_of
from toolrl.audit.checks.footprint import Footprint, footprint, settled_footprint
from toolrl.audit.play import Played, play_all
from toolrl.audit.report import Finding
from toolrl.audit.schemas import dummy_arguments
from toolrl.audit.subject import Subject, options_of
from toolrl.chat import HermesDialect
from toolrl.env import ToolEnv, call
from toolrl.support.event_loop import run_sync
from toolrl.types import Message, Task, ToolCall

_ROUNDS = 3
_BATCHES = 4
_WORTHLESS = ("", "   \n", ".", "I do not know.", "I cannot help with that.", "qzxv-wrong-answer")
_BROKEN = (
    "<tool_call>",
    "<tool_call>{",
    "</tool_call>",
    "<tool_call>[]</tool_call>",
    '<tool_call>{"name": 3, "arguments": []}</tool_call>',
    '<tool_call>{"name": "no_such_tool", "arguments": {}}</tool_call>',
)


def check_oracle(subject: Subject, env: ToolEnv, tasks: Sequence[Task]) -> Iterator[Finding]:
    """The oracle solves every task."""
    remedy = "fix the oracle, the task's answer or the grader"
    scripts = [(task, solution) for task in tasks if (solution := solution_of(env, task))]
    for played in play_all(env, scripts):
        if played.crash:
            yield Finding("oracle", f"a tool or the grader raised {played.crash}", remedy, played.task_id)
        elif played.score.value is None:
            yield Finding("oracle", f"the oracle is unscored: {played.score.reason}", remedy, played.task_id)
        elif not (played.score.success and played.reward > 0 and played.stop.terminated):
            why = f"reward {played.reward:g}, stop {played.stop}, {played.score.reason or dict(played.score.parts)}"
            yield Finding("oracle", f"the oracle fails: {why}", remedy, played.task_id)
    if not scripts:
        remedy = "pass oracle= to ToolEnv: nothing else shows that the tasks can be solved"
        yield Finding("oracle", "no task has an oracle's solution", remedy, severity="warning")


def check_worthless_answers(subject: Subject, env: ToolEnv, tasks: Sequence[Task]) -> Iterator[Finding]:
    """Empty, wrong and refusing answers earn nothing."""
    earned: dict[str, list[Played]] = {}
    for text in _WORTHLESS:
        for written in (False, True):
            scripts = []
            for task in tasks:
                form = final_form(env, task, solution_of(env, task))
                if not is_right(text, task):
                    scripts.append((task, [form.write(text) if written else text]))
            for played in play_all(env, scripts):
                earned.setdefault(text, []).append(played)
    for episodes in earned.values():
        crashed = next((played for played in episodes if played.crash), None)
        if crashed:
            message = f"the grader raised {crashed.crash} on {crashed.final!r}"
            yield Finding(
                "worthless", message, "a grader must accept any text; return 0 for what it cannot read", crashed.task_id
            )
            continue
        mean = sum(played.reward for played in episodes) / len(episodes)
        paid = max(episodes, key=lambda played: played.reward)
        if mean > options_of(env).chance:
            message = f"{paid.final!r} earns {paid.reward:g} (mean over tasks {mean:.3g})"
            yield Finding("worthless", message, "return 0 unless the answer is right", paid.task_id)


def check_group_reward(subject: Subject, env: ToolEnv, tasks: Sequence[Task]) -> Iterator[Finding]:
    """Compared with others of its task, a right answer is worth more than a wrong one, in whatever order they come."""
    solved = [(task, solution) for task in tasks if (solution := solution_of(env, task))]
    if env.grader.group_reward is None or not solved:
        return
    right = play_all(env, solved)
    wrong = play_all(env, [(task, [_WORTHLESS[-1]]) for task, _ in solved])
    for (task, _), one, other in zip(solved, right, wrong, strict=True):
        if one.episode is None or other.episode is None or not one.score.success or other.score.success:
            continue  # other checks say so
        for order in (1, -1):
            episodes = [one.episode, other.episode][::order]
            scores = run_sync(env.grader.score_group(task, episodes, f"task {task.id!r}", env.limits.reward_seconds))[
                ::order
            ]
            best, worst = (score.value for score in scores)
            if best is not None and worst is not None and best <= worst:
                message = f"beside a wrong answer worth {worst:g}, the oracle's is worth {best:g}"
                yield Finding("group_reward", message, "use toolrl.rewards.prefer for comparisons", task.id)
                break


def check_broken_calls(subject: Subject, env: ToolEnv, tasks: Sequence[Task]) -> Iterator[Finding]:
    """Malformed, unknown and misdirected calls get an observation, and the episode continues."""
    turns: list[str | Message] = [*_BROKEN] if isinstance(env.dialect, HermesDialect) else []
    for schema in env.toolbox.schemas:
        name = schema["function"]["name"]
        turns += [call(name), call(name, no_such_parameter=1), Message("assistant", "", (ToolCall(name, {"": None}),))]
        parameters = schema["function"]["parameters"]["properties"]
        turns += [call(name, **dict.fromkeys(parameters)), call(name, **{key: [[]] for key in parameters})]
        turns.append(call(name, **dummy_arguments(schema, text="", number=-1)))
    for turn, played in zip(turns, play_all(env, [(tasks[0], [turn]) for turn in turns]), strict=True):
        if played.crash:
            message = f"{turn if isinstance(turn, str) else turn.tool_calls[0]!r} raised {played.crash}"
            yield Finding("broken_calls", message, "raise ToolError for the model's mistakes", played.task_id)
        elif isinstance(turn, str) and not any(result.failure for result in played.results):
            yield Finding(
                "broken_calls", f"{turn!r} is not recognised as broken", "report the error to the model", played.task_id
            )
        elif played.reward > options_of(env).chance:
            message = f"{turn!r} and an empty answer earn {played.reward:g}"
            yield Finding("broken_calls", message, "do not reward calls", played.task_id)


def check_resources(subject: Subject, env: ToolEnv, tasks: Sequence[Task]) -> Iterator[Finding]:
    """Threads, processes and file descriptors are released at the end of an episode and at close."""
    _play_round(subject, env, tasks)  # a process may keep what it opens once
    found: dict[str, tuple[int, list[str]]] = {}
    for _ in range(_BATCHES):
        before = footprint()
        for _ in range(_ROUNDS):
            _play_round(subject, env, tasks)
        found = _left_behind(before)
        if not found:  # a pool grows too, but not forever
            return
    for kind, (more, names) in found.items():
        message = f"{_ROUNDS} rounds of episodes leave {more} {kind} behind: {', '.join(names)}"
        yield Finding("resources", message, "close it in the resource's close(), and wait there until it has ended")


def _left_behind(before: Footprint) -> dict[str, tuple[int, list[str]]]:
    """What has grown in every round, after waiting a while for it to end."""

    def growth(now: Footprint) -> dict[str, tuple[int, list[str]]]:
        return {kind: grown for kind, grown in now.growth_since(before).items() if grown[0] >= _ROUNDS}

    return growth(settled_footprint(lambda now: not growth(now)))


def _play_round(subject: Subject, env: ToolEnv, tasks: Sequence[Task]) -> None:
    """Play a few episodes that open every tool's resources, in a separate environment if one can be made."""
    with subject.open() as made:
        calls = [call(schema["function"]["name"], **dummy_arguments(schema)) for schema in made.toolbox.schemas]
        scripts: list[tuple[Task, Sequence[Message]]] = [(task, calls) for task in tasks[:1]]
        scripts += [(task, solution_of(made, task)) for task in tasks[:2]]
        play_all(made, scripts)
        made.reset(seed=0)
