"""Promises about stated confidence: it is read or missing, never guessed; honesty pays most and reorders nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, strategies as st

from toolrl import Episode, Score, StopReason, Task, ToolEnv, make
from toolrl.errors import ConfigError
from toolrl.rewards import answer_reward, with_call_cost
from toolrl.rewards.confidence import read_confidence, with_confidence
from toolrl.types import ToolCall, ToolResult

ANSWER = "<answer>4</answer>"
chances = st.floats(0, 1)


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        (f"{ANSWER}<confidence>0.8</confidence>", 0.8),
        (f"<confidence> 80 % </confidence>\n{ANSWER}", 0.8),
        (f"{ANSWER}<Confidence>1</Confidence>", 1.0),
        (f"{ANSWER} <confidence>.5</confidence><confidence>0.50</confidence>", 0.5),
        (f"{ANSWER}<confidence>0.8</confidence><confidence>0.9</confidence>", None),
        (f"{ANSWER}<confidence>1.2</confidence>", None),
        (f"{ANSWER}<confidence>120%</confidence>", None),
        (f"{ANSWER}<confidence>-0.1</confidence>", None),
        (f"{ANSWER}<confidence>high</confidence>", None),
        (f"{ANSWER}<confidence>nan</confidence>", None),
        (f"{ANSWER}<confidence></confidence>", None),
        (f"{ANSWER}<confidence>0.5", None),
        (ANSWER, None),
        ("", None),
    ],
)
def test_a_confidence_is_one_number_in_a_tag(text: str, stated: float | None) -> None:
    rest, found = read_confidence(text)
    assert found == stated
    if "</" in text.replace(ANSWER, ""):
        assert rest == ANSWER


@given(chances, chances, st.floats(0, 0.49))
def test_the_chance_of_being_right_is_the_best_confidence_to_state(chance: float, other: float, weight: float) -> None:
    def expected(stated: float) -> float:
        right, wrong = (with_confidence(Score(value), stated, weight).value for value in (1.0, 0.0))
        assert right is not None
        assert wrong is not None
        return chance * right + (1 - chance) * wrong

    assert expected(chance) >= expected(other) - 1e-12


@given(chances | st.none(), chances | st.none(), st.floats(0, 0.499), st.integers(0, 20))
def test_no_wrong_answer_comes_to_lie_above_a_right_one(
    of_right: float | None, of_wrong: float | None, weight: float, calls: int
) -> None:
    episode = Episode("x", tuple(ToolResult(ToolCall("f"), "") for _ in range(calls)))
    dear = with_confidence(with_call_cost(Score(1.0, {"correct": 1.0}), episode, 0.1), of_right, weight)
    cheap = with_confidence(Score(0.0, {"correct": 0.0}), of_wrong, weight)
    assert dear.value is not None
    assert cheap.value is not None
    assert dear.value > cheap.value
    assert dear.success
    assert not cheap.success


def test_nothing_stated_costs_as_much_as_the_worst_and_unscored_stays_unscored() -> None:
    assert with_confidence(Score(1.0), None, 0.3).value == pytest.approx(0.7)
    assert with_confidence(Score(0.0), None, 0.3).value == pytest.approx(-0.3)
    assert with_confidence(Score(None, reason="fault"), 0.5, 0.3) == Score(None, reason="fault")


@pytest.mark.parametrize("weight", [-0.1, 0.5, 1, True, "0.3", None, float("nan")])
def test_a_weight_that_would_reorder_answers_is_refused(weight: Any) -> None:
    env = ToolEnv(tasks=[Task("t", "?", "4")], reward=answer_reward())
    with pytest.raises(ConfigError, match=r"confidence must be a weight from 0 to less than 0.5"):
        env.ask_confidence(weight)


def score(env: ToolEnv, answer: str) -> Score:
    task = env.tasks[0]
    return asyncio.run(env.grader.score(task, Episode(answer, stop=StopReason.ANSWER), "here", 5.0))


def test_no_reward_sees_the_confidence() -> None:
    seen: list[str | None] = []

    def reward(task: Task, episode: Episode) -> float:
        seen.append(episode.answer)
        return float(episode.answer == "4")

    env = ToolEnv(tasks=[Task("t", "?", "4")], reward=reward, gold=reward, system_prompt="Answer.")
    env.ask_confidence(0.2)
    found = score(env, "4 <confidence>0.5</confidence>")
    assert seen == ["4", "4"]
    assert found.value == pytest.approx(1 - 0.2 * 0.25)
    assert found.parts == {"hack": 0.0, "correct": 1.0, "confidence": 0.5, "calibration": 0.75, "gold": 1.0}
    assert env.system_prompt.startswith("Answer. Beside it, give the chance that it is right")


def test_a_group_is_judged_without_confidences() -> None:
    seen: list[str | None] = []

    def judge(task: Task, episodes: Any) -> list[float]:
        seen.extend(episode.answer for episode in episodes)
        return [1.0] * len(episodes)

    env = ToolEnv(tasks=[Task("t", "?", "4")], reward=lambda task, episode: 1.0, group_reward=judge)
    env.ask_confidence()
    members = [Episode(f"{n}<confidence>0.{n}</confidence>", score=Score(1.0)) for n in range(2)]
    asyncio.run(env.grader.score_group(env.tasks[0], members, "here", 5.0))
    assert seen == ["0", "1"]


def test_every_environment_can_be_asked_and_its_oracle_states_any_confidence() -> None:
    """A warm start on always the same one would leave reinforcement learning nothing to compare."""
    env = make("toolrl/PythonMath-v0", confidence=0.3)
    try:
        stated = set()
        for task in env.tasks.take(60):
            (*_, last) = env.oracle(task)
            assert env.oracle(task)[-1] == last
            answer, confidence = read_confidence(last.content)
            assert answer == f"<answer>{task.answer}</answer>"
            assert confidence is not None
            stated.add(confidence)
        first = env.oracle(env.tasks[0])[-1].content  # of the task that `score` scores
        found = score(env, first)
        assert found.success
        assert found.value == pytest.approx(1 - 0.3 * (1 - (read_confidence(first)[1] or 0.0)) ** 2)
    finally:
        env.close()
    assert stated == {n / 10 for n in range(11)}
