"""Promises about the cost of calls: it ranks right answers, and never puts a wrong one above."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from toolrl import ConfigError, Episode, Score, Task, ToolCall, ToolFailure, ToolResult
from toolrl.rewards import answer_reward, with_call_cost

TASK = Task("t", "2+2?", "4")


def episode(calls: int, answer: str = "<answer>4</answer>", failure: ToolFailure | None = None) -> Episode:
    return Episode(answer, tuple(ToolResult(ToolCall("f"), "", failure) for _ in range(calls)))


def value(score: Score) -> float:
    assert score.value is not None
    return score.value


def test_a_right_answer_with_more_calls_scores_lower() -> None:
    reward = answer_reward(call_cost=0.1)
    values = [value(reward(TASK, episode(calls))) for calls in range(6)]
    assert values == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5])


def test_failed_calls_cost_the_same() -> None:
    reward = answer_reward(call_cost=0.1)
    assert reward(TASK, episode(2, failure=ToolFailure.MALFORMED)).value == reward(TASK, episode(2)).value


@given(cost=st.floats(0, 1e6), floor=st.floats(0.01, 1), right=st.integers(0, 1000), wrong=st.integers(0, 1000))
def test_any_right_answer_scores_above_any_wrong_one(cost: float, floor: float, right: int, wrong: int) -> None:
    good = with_call_cost(Score(1.0, {"correct": 1.0}), episode(right), cost, floor)
    bad = with_call_cost(Score(0.0, {"correct": 0.0}), episode(wrong), cost, floor)
    assert value(good) >= floor > value(bad)


@given(cost=st.floats(0, 2), calls=st.integers(0, 50))
def test_another_call_never_pays(cost: float, calls: int) -> None:
    score = Score(1.0)
    assert value(with_call_cost(score, episode(calls + 1), cost)) <= value(with_call_cost(score, episode(calls), cost))


@pytest.mark.parametrize("score", [Score(0.0), Score(-1.0), Score(None)], ids=str)
def test_wrong_and_unscored_answers_are_not_charged(score: Score) -> None:
    assert with_call_cost(score, episode(9), 0.1) == score


def test_the_remaining_share_is_recorded_and_success_is_unchanged() -> None:
    score = answer_reward(call_cost=0.2)(TASK, episode(9))
    assert score.value == 0.5
    assert score.parts == {"correct": 1.0, "answered": 1.0, "economy": 0.5}
    assert score.success


@pytest.mark.parametrize(("cost", "floor"), [(-0.1, 0.5), (float("nan"), 0.5), (0.1, 0.0), (0.1, 1.5)])
def test_a_cost_that_could_reorder_right_and_wrong_is_rejected(cost: float, floor: float) -> None:
    with pytest.raises(ConfigError, match=r"call cost must be >= 0 and floor within \(0, 1\], got cost="):
        with_call_cost(Score(1.0), episode(1), cost, floor)
