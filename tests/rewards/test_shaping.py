"""Promises about shaping terms: they are named and weighted, and being right comes first."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, strategies as st

from toolrl import ConfigError, Episode, Score, Task, ToolCall, ToolResult
from toolrl.rewards import Term, answer_reward, shaped_reward

TASK = Task("t", "2+2?", "4")
RIGHT, WRONG = Episode("<answer>4</answer>"), Episode("<answer>5</answer>")

weights = st.floats(0.001, 1000)
numbers = st.floats(0, 1)


def giving(value: Any) -> Term:
    return lambda task, episode: value


def value(score: Score) -> float:
    assert score.value is not None
    return score.value


def test_terms_are_weighted_and_become_parts() -> None:
    reward = shaped_reward(answer_reward(), {"short": (0.5, giving(1.0)), "cited": (0.5, giving(Score(0.5)))})
    score = reward(TASK, RIGHT)
    assert score.value == pytest.approx((1 + 0.5 + 0.25) / 2)
    assert score.parts == {"correct": 1.0, "answered": 1.0, "short": 1.0, "cited": 0.5}
    assert (score.answer, score.success) == ("4", True)


@given(weight=weights, term=numbers)
def test_a_wrong_answer_earns_nothing_from_terms(weight: float, term: float) -> None:
    score = shaped_reward(answer_reward(), {"short": (weight, giving(term))})(TASK, WRONG)
    assert (score.value, score.success, score.parts["short"]) == (0.0, False, term)


@given(
    weights=st.lists(weights, min_size=1, max_size=4),
    right=numbers.filter(lambda x: x > 0.01),
    wrong=st.floats(-1, 1),
    terms=st.lists(st.tuples(numbers, numbers), min_size=4, max_size=4),
)
def test_shaping_never_reorders_right_and_wrong(
    weights: list[float], right: float, wrong: float, terms: list[tuple[float, float]]
) -> None:
    """For any terms, even if `correct` gives wrong answers partial credit."""
    wrong = min(wrong, right * 0.99)

    def reward_of(verdict: Score, which: int) -> float:
        shaping = {str(i): (weight, giving(terms[i][which])) for i, weight in enumerate(weights)}
        return value(shaped_reward(lambda task, episode: verdict, shaping)(TASK, RIGHT))

    above = reward_of(Score(right, {"correct": 1.0}), 0)
    below = reward_of(Score(wrong, {"correct": 0.0}), 1)
    assert above > below
    assert above <= max(right, 0) * (1 + 1e-9)


@given(better=numbers, worse=numbers, weight=weights)
def test_a_better_term_never_pays_less(better: float, worse: float, weight: float) -> None:
    better, worse = max(better, worse), min(better, worse)
    rewards = [
        shaped_reward(answer_reward(), {"short": (weight, giving(term))})(TASK, RIGHT) for term in (better, worse)
    ]
    assert value(rewards[0]) >= value(rewards[1])


def test_a_term_without_a_value_leaves_the_episode_unscored_right_or_wrong() -> None:
    for missing in (None, Score(None)):
        reward = shaped_reward(answer_reward(), {"judge": (1.0, giving(missing)), "short": (1.0, giving(1.0))})
        for episode in (RIGHT, WRONG):
            score = reward(TASK, episode)
            assert (score.value, score.success, score.reason) == (None, None, "no value for judge")
            assert score.parts["short"] == 1.0
    unscored = shaped_reward(giving(Score(None, reason="sandbox died")), {"short": (1.0, giving(1.0))})(TASK, RIGHT)  # type: ignore[arg-type]
    assert (unscored.value, unscored.reason) == (None, "sandbox died")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.1, "1", [1.0]])
def test_anything_but_a_number_from_zero_to_one_is_rejected(bad: Any) -> None:
    reward = shaped_reward(answer_reward(), {"short": (1.0, giving(bad))})
    for episode in (RIGHT, WRONG):
        with pytest.raises(ConfigError, match="the term 'short' returned"):
            reward(TASK, episode)


def test_the_cost_of_calls_still_counts() -> None:
    reward = shaped_reward(answer_reward(call_cost=0.1), {"short": (1.0, giving(0.5))})
    rewards = []
    for calls in range(7):
        results = tuple(ToolResult(ToolCall("python"), "") for _ in range(calls))
        rewards.append(value(reward(TASK, Episode("<answer>4</answer>", results))))
    assert rewards == pytest.approx([0.75 * share for share in (1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.5)])


async def a_coroutine(task: Task, episode: Episode) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"short": (0, giving(1))}, "the weight of 'short' must be positive and finite, got 0"),
        ({"short": (-1, giving(1))}, "must be positive"),
        ({"short": (math.nan, giving(1))}, "must be positive"),
        ({"correct": (1, giving(1))}, "a term cannot be called 'correct'"),
        ({"short": (1, a_coroutine)}, "the term 'short' must be a plain function"),
        ({"short": (1, 0.5)}, "the term 'short' must be a plain function"),
    ],
)
def test_invalid_terms_are_rejected_when_the_reward_is_made(terms: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shaped_reward(answer_reward(), terms)


def test_a_reward_that_returns_no_score_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"must return a Score, got 1\.0"):
        shaped_reward(giving(1.0), {})(TASK, RIGHT)  # type: ignore[arg-type]
