"""Promises about a judge in the arena: it decides ties only, its bias for a position cancels out and is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas
import pytest

from tests.rewards.test_group import ranking
from tests.rewards.test_judge import Reply, says, verdict
from toolrl import Message, Sample, Score, StopReason, Trajectory, call, say
from toolrl.errors import ConfigError
from toolrl.evaluation import Arena, Preferences, arena, judge_ties
from toolrl.rewards import JudgeFault
from toolrl.trajectory import Turn

TASKS = 40


def longer(answers: dict[str, Any]) -> Reply:
    lengths = len(answers["first"]), len(answers["second"])
    return verdict(0.5 if lengths[0] == lengths[1] else float(lengths[0] > lengths[1]))


def side(answer: Callable[[int], str | None], reward: float | None = 1.0) -> list[Trajectory]:
    return [episode(n, answer(n), reward) for n in range(TASKS)]


def episode(task: int, answer: str | None, reward: float | None) -> Trajectory:
    """One that ends with a message; or, without an answer, with a call."""
    message = say(answer) if answer is not None else call("look")
    prompt = (Message("system", "Answer."), Message("user", f"question {task}?"))
    turns = (Turn(Sample([1], [-0.1]), message),)
    return Trajectory("id", "a/One-v0", f"t{task}", prompt, [1], turns, Score(reward), StopReason.ANSWER)


def order(sides: Mapping[str, Sequence[Trajectory]], preferences: Preferences | None = None) -> Arena:
    rows = {
        name: [{"env": t.env_id, "task": t.task_id, "reward": t.score.value} for t in episodes]
        for name, episodes in sides.items()
    }
    return arena({name: pandas.DataFrame(found) for name, found in rows.items()}, preferences=preferences)


def test_a_judge_orders_sides_that_rewards_do_not_tell_apart() -> None:
    sides = {
        name: side(lambda n, length=length: f"{n}: {'x' * length}") for name, length in (("s", 1), ("m", 5), ("l", 9))
    }
    assert {row.ranks for row in order(sides).standings} == {(1, 3)}
    with ranking(longer) as (judge, server):
        found = judge_ties(sides, judge)
    assert (found.pairs, found.first, found.contradicted) == (TASKS * 3, 0.5, 0.0)
    assert len(server.requests) == TASKS * 6
    assert server.sent["question"].startswith("question")
    judged = order(sides, found)
    assert [(row.name, row.ranks) for row in judged.standings] == [("l", (1, 1)), ("m", (2, 2)), ("s", (3, 3))]
    assert {row.ties for row in judged.standings} == {1.0}  # by reward
    assert judged.wins.loc["l", "s"] == 1.0
    assert "preferred the first of two in 0.50" in str(judged.table().caption)


def test_rewards_come_first() -> None:
    sides = {"right": side(lambda n: "x"), "long": side(lambda n: "x" * 99, 0.0)}
    with ranking(longer) as (judge, server):
        found = judge_ties(sides, judge)
    assert server.requests == []
    assert (found.pairs, found.first, found.contradicted) == (0, None, None)
    assert "was not asked" in str(found)
    assert order(sides, found).wins.loc["right", "long"] == 1.0


@pytest.mark.parametrize(("score", "first"), [(1.0, 1.0), (0.0, 0.0)])
def test_a_bias_for_a_position_is_measured_and_cancels_out(score: float, first: float) -> None:
    sides = {"a": side(lambda n: f"a{n}"), "b": side(lambda n: f"b{n}")}
    with ranking(lambda answers: verdict(score)) as (judge, _):
        found = judge_ties(sides, judge)
    assert (found.first, found.contradicted) == (first, 1.0)
    low, high = found.first_interval
    assert 0.5 < low < high == 1.0 if first else 0.0 == low < high < 0.5
    assert {row.ranks for row in order(sides, found).standings} == {(1, 2)}
    assert order(sides, found).wins.loc["a", "b"] == 0.5


def test_a_judge_that_always_ties_has_no_bias_and_does_not_contradict_itself() -> None:
    sides = {"a": side(lambda n: f"a{n}"), "b": side(lambda n: f"b{n}")}
    with ranking(lambda answers: verdict(0.5)) as (judge, _):
        found = judge_ties(sides, judge)
    assert (found.first, found.contradicted) == (0.5, 0.0)


def test_samples_are_compared_one_by_one_and_no_answer_loses() -> None:
    a = side(lambda n: "xx") + side(lambda n: "x")
    b = side(lambda n: "x") + side(lambda n: None)
    unscored = side(lambda n: "x" * 50, None)
    with ranking(longer) as (judge, _):
        found = judge_ties({"a": a, "b": unscored + b}, judge)
    assert found.shares[("a/One-v0", "t0"), "a", "b"] == 1.0
    assert found.shares[("a/One-v0", "t0"), "b", "a"] == 0.0
    assert found.pairs == TASKS  # without an answer, nothing is asked


def test_a_judge_that_fails_is_one_clear_error_and_its_verdicts_are_kept(tmp_path: Path) -> None:
    sides = {"a": side(lambda n: f"{n}"), "b": side(lambda n: f"{n} longer")}
    asked: list[str] = []

    def fails_late(answers: dict[str, Any]) -> Reply:
        asked.append(answers.get("question", ""))
        return (401, "{}", {}) if len(asked) == 60 else longer(answers)

    with ranking(fails_late, cache=tmp_path / "verdicts.sqlite") as (judge, _):
        with pytest.raises(ConfigError, match="401"):
            judge_ties(sides, judge)
        before = len(asked)
        assert judge_ties(sides, judge).pairs == TASKS
        assert len(asked) - before < 2 * TASKS - 10  # not all was asked again
    with ranking(None) as (judge, server):
        server.replies = [says("no idea")]
        with pytest.raises(JudgeFault, match="gave no verdict"):
            judge_ties(sides, judge)
