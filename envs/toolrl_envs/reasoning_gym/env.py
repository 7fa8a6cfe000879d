"""The `toolrl/ReasoningGym-v0` environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolrl import ConfigError, Episode, Limits, Message, Score, Task, ToolEnv, say
from toolrl.rewards import check_call_cost, partial_value, tagged_answer, with_call_cost
from toolrl.tools import python_tool
from toolrl_envs.common import CALL_COST, SYSTEM_PROMPT, Split
from toolrl_envs.reasoning_gym.generators import Problem, make_problems
from toolrl_envs.reasoning_gym.guards import is_safe_to_score


class ReasoningGymEnv(ToolEnv):
    """Problems of reasoning-gym's generators, graded by their own scorers."""

    def __init__(
        self,
        split: Split = "train",
        *,
        dataset: str | Sequence[str] = "basic_arithmetic",
        config: Mapping[str, Any] | None = None,
        size: int = 500,
        seed: int = 0,
        python: bool = True,
        partial_credit: bool = False,
        call_cost: float = CALL_COST,
        render_mode: str | None = None,
    ):
        """Make the environment.

        Args:
            split: "train" or "test"; the splits use different seeds and share no question.
            dataset: The name of a generator of reasoning-gym, or several names, whose problems alternate.
            config: Settings of the generator; with several, a mapping from each name to its settings.
            size: Number of problems; fewer if the generators run out of questions.
            seed: Fixes the problems.
            python: Whether to offer a python tool.
            partial_credit: Give partial credit to answers that the generator's scorer gives less than 1. Many scorers
                give some to any text that contains the answer, so by default such answers earn nothing.
            call_cost: Deducted from a right answer for each call.
            render_mode: See `ToolEnv`.

        Raises:
            MissingExtra: reasoning-gym is not installed.
            ConfigError: The generator does not exist, or rejects the settings.
        """
        problems = make_problems(split, _configs(dataset, config), size, seed)
        super().__init__(
            tasks=[problem.task for problem in problems],
            tools=[python_tool()] if python else [],
            reward=_reward({problem.task.id: problem for problem in problems}, partial_credit, call_cost),
            system_prompt=SYSTEM_PROMPT if python else "End with <answer>...</answer>.",
            limits=Limits(turns=4, tool_calls=4, completion_tokens=4096, turn_tokens=2048),
            oracle=solve,
            render_mode=render_mode,
        )


def solve(task: Task) -> Sequence[Message]:
    """Give the generator's own answer."""
    return [say(f"<answer>{task.answer}</answer>")]


def _configs(dataset: str | Sequence[str], config: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    config = config or {}
    if isinstance(dataset, str):
        return {dataset: config}
    names = list(dataset)
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"dataset must name generators, each once, got {names}")
    for name, settings in config.items():
        if name not in names or not isinstance(settings, Mapping):
            raise ConfigError(
                f"with several generators, config must map their names to settings, got {name!r}: {settings!r}"
            )
    return {name: config.get(name, {}) for name in names}


def _reward(
    problems: Mapping[str, Problem], partial_credit: bool, call_cost: float
) -> Callable[[Task, Episode], Score]:
    check_call_cost(call_cost)

    def reward(task: Task, episode: Episode) -> Score:
        answer = tagged_answer(episode.answer)
        if answer is None:
            reason = "no final message" if episode.answer is None else "no single <answer>...</answer> in it"
            return Score(0.0, {"correct": 0.0, "answered": 0.0}, None, reason)
        if task.id not in problems:
            raise ConfigError(f"task {task.id!r} does not belong to this environment, so it has no scorer")
        if not is_safe_to_score(task.kind, answer):
            return Score(0.0, {"correct": 0.0, "answered": 1.0}, answer, "not in the form of an answer")
        credit = problems[task.id].score(answer)
        parts = {"correct": float(credit >= 1.0), "credit": credit, "answered": 1.0}
        if credit >= 1.0:
            return with_call_cost(Score(1.0, parts, answer, "right"), episode, call_cost)
        value = partial_value(credit, call_cost) if partial_credit else 0.0
        return Score(value, parts, answer, f"expected {task.answer!r}")

    return reward
