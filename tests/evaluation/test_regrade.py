"""Promises about regrading: the current score of a saved episode, or a reason why there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from toolrl import (
    Episode,
    RolloutEngine,
    RolloutRequest,
    Score,
    StopReason,
    Task,
    ToolEnv,
    Trajectory,
    call,
    per_episode,
    say,
    tool,
)
from toolrl.evaluation.regrade import regrade, summary
from toolrl.policy import ScriptedChatPolicy

TASK = Task("seven", "Add up to 7.", 7)


def counter_env(reward: Callable[[Task, Episode], Any], step: int = 1, task: Task = TASK) -> ToolEnv:
    @tool
    def add(amount: int, counter: list[int] = per_episode(lambda task: [0])) -> int:
        """Add to the counter.

        Args:
            amount: How much.
        """
        counter[0] += amount * step
        return counter[0]

    return ToolEnv(tasks=[task], tools=[add], reward=reward)


def state_reward(task: Task, episode: Episode) -> float:
    return float(episode.state["counter"][0] == task.answer)


def kind_reward(task: Task, episode: Episode) -> float:
    return 1.0


def play(env: ToolEnv, *script: Any) -> Trajectory:
    engine = RolloutEngine(ScriptedChatPolicy(list(script)), None)
    return engine.run([RolloutRequest(env, env.tasks[0], "counter")])[0]


def of(env: ToolEnv) -> Callable[[Trajectory], ToolEnv]:
    return lambda trajectory: env


SCRIPT = (call("add", amount=3), call("add", amount=4), say("done"))


def test_the_state_that_a_reward_inspects_is_restored() -> None:
    played = [
        play(counter_env(kind_reward), *SCRIPT),
        play(counter_env(kind_reward), call("add", amount=3), say("done")),
    ]
    results = list(regrade(played, of(counter_env(state_reward))))
    assert [result.trajectory.score.value for result in results] == [1.0, 0.0]
    assert [result.changed for result in results] == [False, True]
    assert [result.before.value for result in results] == [1.0, 1.0]
    assert results[0].trajectory == dataclasses.replace(played[0], score=Score(1.0))
    assert summary(results) == [
        {"env": "counter", "episodes": 2, "before": 1.0, "after": 0.5, "scored": 2, "up": 0, "down": 1, "without": 0}
    ]


def test_a_tool_that_returns_another_result_leaves_the_score_unchanged() -> None:
    played = play(counter_env(state_reward), *SCRIPT)
    result = next(regrade([played], of(counter_env(state_reward, step=2))))
    assert result.problem == "add now returns '6', not '3'"
    assert result.trajectory == played
    assert not result.changed


@pytest.mark.parametrize("other", [Task("eight", "Add up to 7.", 8), Task("seven", "Add up to 8.", 8)])
def test_another_task_is_not_graded(other: Task) -> None:
    played = play(counter_env(state_reward), *SCRIPT)
    result = next(regrade([played], of(counter_env(state_reward, task=other))))
    assert "no task 'seven' with this prompt" in result.problem


def test_what_a_program_played_is_left_as_it_is() -> None:
    played = dataclasses.replace(play(counter_env(state_reward), *SCRIPT), results=())
    result = next(regrade([played], of(counter_env(state_reward))))
    assert "a program played it" in result.problem
    assert result.trajectory == played


def test_an_episode_that_ended_in_a_fault_stays_unscored() -> None:
    played = dataclasses.replace(play(counter_env(kind_reward), *SCRIPT), stop=StopReason.FAULT, score=Score(None))
    result = next(regrade([played], of(counter_env(kind_reward))))
    assert (result.trajectory.score.value, result.problem) == (None, "it ended in a fault")
