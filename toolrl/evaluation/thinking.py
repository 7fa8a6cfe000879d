"""Is thinking worth it? The same tasks with thinking off, on, and under budgets."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.table import Table

from toolrl.chat import Renderer
from toolrl.env import ToolEnv
from toolrl.errors import ConfigError
from toolrl.evaluation.compare import Comparison, compare
from toolrl.evaluation.evaluate import evaluate
from toolrl.evaluation.statistics import mean, success_interval
from toolrl.evaluation.tables import number, short_name
from toolrl.players import renderer_of
from toolrl.policy import ChatPolicy, Policy
from toolrl.tasks import TaskSet
from toolrl.trajectory import Trajectory
from toolrl.types import Message

OFF, ON = "off", "on"
SWITCH = "enable_thinking"  # the variable of chat templates that can leave thinking out: Qwen 3, GLM 4.5, SmolLM3 ...


@dataclass(frozen=True, slots=True)
class Mode:
    """A way to think, in one environment.

    Attributes:
        name: "off", "on", or the budget of a turn in tokens.
        success: The mean over tasks; None if nothing was scored.
        interval: Its 95 % interval.
        tokens: Tokens that the policy sampled in an episode, on average.
        thought: The share of episodes with thinking in them.
        called: The share of episodes with a tool call.
        calls: Tool calls of an episode, on average.
        is_best: Whether no other way succeeds as often with as few tokens: the points of the Pareto front.
    """

    name: str
    success: float | None
    interval: tuple[float, float]
    tokens: float
    thought: float
    called: float
    calls: float
    is_best: bool = False


@dataclass(frozen=True)
class Thinking:
    """What thinking is worth in one environment.

    Attributes:
        env_id: The environment.
        modes: The ways to think, in the order given.
        success: Each later way against the first, paired by task.
        calls: The same for the number of calls: where thinking takes the place of a tool, or leads to it.
    """

    env_id: str
    modes: tuple[Mode, ...]
    success: Comparison
    calls: Comparison


def compare_thinking(
    environments: Mapping[str, ToolEnv],
    policy: Policy | ChatPolicy,
    renderer: Renderer | None,
    *,
    modes: Sequence[str] = (OFF, ON),
    on_trajectory: Callable[[Trajectory], None] | None = None,
    info: Mapping[str, Any] | None = None,
    **playing: Any,
) -> dict[str, Thinking]:
    """Play the first tasks of each environment with thinking off, on, and under budgets.

    Args:
        environments: By id.
        policy: Plays the tasks.
        renderer: Of the policy's tokenizer; None for a `ChatPolicy`, which has budgets of its own and no such switch.
        modes: At least two of "off", "on" and budgets of a turn in tokens, such as "256".
        on_trajectory: Called with each trajectory; its `info` says how it thought, as `thinking`.
        info: Recorded with each trajectory.
        playing: Further arguments of `evaluate`.

    Raises:
        ConfigError: A mode is unknown, or there is one only; the policy is a chat API; or "off" is asked for, and the
            chat template cannot leave thinking out.
    """
    if len(set(modes)) < 2:
        raise ConfigError(f"two ways to think are needed, such as 'off,on' or 'off,256,on'; got {','.join(modes)!r}")
    if renderer is None:
        raise ConfigError("a model behind a chat API thinks as its server tells it to; set that in its --request")
    if OFF in modes:
        for env_id, env in environments.items():
            _check_switch(env_id, env, renderer)
    played: dict[str, list[Trajectory]] = {mode: [] for mode in modes}
    for mode, kept in played.items():

        def keep(trajectory: Trajectory, kept: list[Trajectory] = kept) -> None:
            kept.append(trajectory)
            if on_trajectory is not None:
                on_trajectory(trajectory)

        changed = {env_id: think(env, mode) for env_id, env in environments.items()}
        evaluate(changed, policy, renderer, on_trajectory=keep, info={**(info or {}), "thinking": mode}, **playing)
    return {
        env_id: _measure(env_id, {mode: [t for t in found if t.env_id == env_id] for mode, found in played.items()})
        for env_id in environments
    }


def think(env: ToolEnv, mode: str) -> ToolEnv:
    """The environment with tasks that say how to think; it shares its resources with the original, which closes them.

    Raises:
        ConfigError: The mode is unknown.
    """
    if mode not in (OFF, ON) and not (mode.isdecimal() and int(mode)):
        raise ConfigError(f"thinking is 'off', 'on', or a budget of a turn in tokens such as '256', got {mode!r}")
    budget = int(mode) if mode.isdecimal() else 0
    other = copy.copy(env)
    other.tasks = TaskSet(
        [
            replace(
                task, thinking_tokens=budget, template_options={**(task.template_options or {}), SWITCH: mode != OFF}
            )
            for task in env.tasks
        ]
    )
    return other


def _check_switch(env_id: str, env: ToolEnv, renderer: Renderer) -> None:
    """Refuse to compare a prompt with itself.

    Raises:
        ConfigError: The prompt is the same with thinking off and on.
    """
    prompts = []
    for mode in (OFF, ON):
        changed = think(env, mode)
        task = changed.tasks[0]
        messages = [
            *([Message("system", env.system_prompt)] if env.system_prompt else []),
            Message("user", task.prompt),
        ]
        prompts.append(renderer_of(renderer, changed, task).prompt_ids(messages, env.toolbox.schemas))
    if prompts[0] == prompts[1]:
        raise ConfigError(
            f"{env_id}: the chat template has no {SWITCH!r}, so its prompts with thinking off and on are the same; "
            "compare 'on' with budgets, as in '256,on'"
        )


def _measure(env_id: str, played: Mapping[str, Sequence[Trajectory]]) -> Thinking:
    import pandas

    frames = {
        mode: pandas.DataFrame(
            {
                "env": env_id,
                "task": t.task_id,
                "success": bool(t.score.success),
                "calls": float(len(t.tool_results)),
            }
            for t in found
            if t.score.value is not None
        ).reindex(columns=["env", "task", "success", "calls"])  # which are there even if faults left nothing scored
        for mode, found in played.items()
    }
    modes = [_mode(mode, found) for mode, found in played.items()]
    return Thinking(
        env_id,
        tuple(replace(mode, is_best=not any(_dominates(other, mode) for other in modes)) for mode in modes),
        compare(frames, value="success"),
        compare(frames, value="calls"),
    )


def _mode(name: str, found: Sequence[Trajectory]) -> Mode:
    by_task: dict[str, list[float]] = {}
    for trajectory in found:
        if trajectory.score.value is not None:
            by_task.setdefault(trajectory.task_id, []).append(float(bool(trajectory.score.success)))
    return Mode(
        name=name,
        success=mean(sum(group) / len(group) for group in by_task.values()),
        interval=success_interval(list(by_task.values())),
        tokens=mean(sum(sum(turn.sample.mask) for turn in t.turns) for t in found) or 0.0,
        thought=mean(any(turn.message.thinking for turn in t.turns) for t in found) or 0.0,
        called=mean(bool(t.tool_results) for t in found) or 0.0,
        calls=mean(len(t.tool_results) for t in found) or 0.0,
    )


def _dominates(one: Mode, other: Mode) -> bool:
    ours, theirs = (one.success or 0.0, -one.tokens), (other.success or 0.0, -other.tokens)
    return ours != theirs and ours[0] >= theirs[0] and ours[1] >= theirs[1]


def thinking_tables(measured: Mapping[str, Thinking]) -> list[Table]:
    """For a terminal: the ways to think, and their differences from the first one."""
    table = Table(title="is thinking worth it? * is on the front: none succeeds as often with as few tokens")
    for column in ("environment", "thinking", "success [95 %]", "tokens", "with thoughts", "with a call", "calls"):
        table.add_column(column, overflow="fold")
    for env_id, one in measured.items():
        for mode in one.modes:
            low, high = mode.interval
            table.add_row(
                short_name(env_id), f"{mode.name}{' *' if mode.is_best else ''}",
                f"{number(mode.success)} [{low:.2f}, {high:.2f}]", f"{mode.tokens:,.0f}", number(mode.thought),
                number(mode.called), number(mode.calls),
            )  # fmt: skip
    return [table, *(comparison.table() for one in measured.values() for comparison in (one.success, one.calls))]
