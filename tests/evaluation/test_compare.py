"""Promises about comparisons and the arena: sides are paired by task, chance is no difference, order is found."""

from __future__ import annotations

import numpy
import pandas
import pytest

from toolrl.errors import ConfigError
from toolrl.evaluation import arena, compare


def side(successes: dict[str, list[float]], env: str = "a/One-v0", **facts: str) -> pandas.DataFrame:
    rows = [
        {"env": env, "task": task, "success": bool(value), "reward": value, **facts}
        for task, values in successes.items()
        for value in values
    ]
    return pandas.DataFrame(rows)


def test_sides_are_paired_by_task_whatever_else_they_played() -> None:
    a = side({"t1": [0.0, 1.0], "t2": [1.0], "only-a": [1.0]})
    b = side({"t2": [1.0], "t1": [1.0, 1.0, 1.0], "only-b": [0.0]})
    (row,) = compare({"old": a, "new": b}).differences
    assert (row.a, row.b, row.part, row.tasks) == ("old", "new", "all", 2)
    assert (row.mean_a, row.mean_b, row.difference) == (0.75, 1.0, 0.25)
    assert (row.better, row.worse) == (1, 0)
    assert not row.is_shown
    assert "all: old 0.750, new 1.000, difference +0.250" in str(row)


def test_two_sides_that_do_not_differ_are_not_called_different_and_two_that_do_are() -> None:
    rng = numpy.random.default_rng(0)
    rates = rng.uniform(0, 1, 200)
    tasks = [f"t{number}" for number in range(200)]
    same, other, better = (
        side({task: [float(rng.random() < rate)] for task, rate in zip(tasks, shifted, strict=True)})
        for shifted in (rates, rates, rates + 0.2)
    )
    equal, gain = compare({"base": same, "twin": other, "better": better}).differences
    assert not equal.is_shown
    assert equal.interval[0] < 0 < equal.interval[1]
    assert gain.is_shown
    assert gain.interval[0] > 0


def test_parts_are_compared_within_environments_and_p_values_are_corrected_for_all() -> None:
    frames = [
        pandas.concat(
            [
                side({f"t{n}": [float(n < easy)] for n in range(20)}, kind="sum"),
                side({f"u{n}": [1.0] for n in range(5)}, kind="other"),
                side({f"t{n}": [0.0] for n in range(5)}, env="a/Two-v0", kind="sum"),
            ]
        )
        for easy in (5, 15)
    ]
    comparison = compare(dict(zip("ab", frames, strict=True)), by=("env", "kind"))
    parts = {row.part: row for row in comparison.differences}
    assert list(parts) == ["all", "a/One-v0", "a/Two-v0", "One, other", "One, sum", "Two, sum"]
    assert parts["One, sum"].difference == 0.5
    assert parts["a/Two-v0"].difference == 0.0
    assert parts["One, sum"].adjusted > 2 * parts["One, sum"].p_value
    assert comparison.tasks["difference"].tolist()[:10] == [1.0] * 10
    assert set(comparison.tasks["task"][:10]) == {f"t{n}" for n in range(5, 15)}


def test_rewards_of_any_range_are_compared() -> None:
    a, b = (side({f"t{n}": [scale * n] for n in range(30)}) for scale in (100.0, 110.0))
    (row,) = compare({"a": a, "b": b}, value="reward").differences
    assert row.difference == pytest.approx(145.0)
    assert 50 < row.interval[0] < 145 < row.interval[1] < 250
    (row,) = compare({"a": a, "b": a}, value="reward").differences
    assert (row.difference, row.p_value, row.needed) == (0.0, 1.0, None)


def test_one_side_or_no_common_task_is_refused() -> None:
    a, b = side({"t1": [1.0]}), side({"t2": [1.0]})
    for call in (compare, arena):
        with pytest.raises(ConfigError, match="two sides, got a"):
            call({"a": a})
    with pytest.raises(ConfigError, match="no task was played in both: 1 scored tasks of 'a', 1 of 'b'"):
        compare({"a": a, "b": b})
    with pytest.raises(ConfigError, match="'a' shares no task"):
        arena({"a": a, "b": b})


def players(strengths: list[float], tasks: int, seed: int = 0) -> dict[str, pandas.DataFrame]:
    """Sides whose rewards on each task are ordered as by Bradley and Terry: with Gumbel noise."""
    rng = numpy.random.default_rng(seed)
    rewards = numpy.array(strengths) * numpy.log(10) / 400 + rng.gumbel(size=(tasks, len(strengths)))
    return {
        f"s{number}": pandas.DataFrame({"env": "a/One-v0", "task": [f"t{n}" for n in range(tasks)], "reward": column})
        for number, column in enumerate(rewards.T)
    }


def test_known_strengths_are_found() -> None:
    true = [800.0, 950.0, 1050.0, 1200.0]
    found = arena(players(true, 4_000))
    assert [row.name for row in found.standings] == ["s3", "s2", "s1", "s0"]
    assert [row.strength for row in found.standings] == pytest.approx(true[::-1], abs=20)
    assert [row.ranks for row in found.standings] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert found.wins.loc["s3", "s0"] == pytest.approx(1 / (1 + 10**-1), abs=0.03)


def test_intervals_of_strengths_cover() -> None:
    true = [900.0, 1000.0, 1100.0]
    covered = [
        row.interval[0] <= true[int(row.name[1])] <= row.interval[1]
        for seed in range(60)
        for row in arena(players(true, 100, seed)).standings
    ]
    assert numpy.mean(covered) >= 0.88


def test_equal_sides_share_their_ranks_and_ties_are_halves() -> None:
    told_apart = [arena(players([1000.0, 1000.0], 100, seed)).standings[0].ranks == (1, 1) for seed in range(60)]
    assert numpy.mean(told_apart) < 0.15  # 0.05 if it is right
    rewards = [1.0, 0.0, 0.5, 0.5] * 30  # a quarter won, a quarter lost, half tied
    sides = [
        side({f"t{n}": [value] for n, value in enumerate(values)}) for values in (rewards, [1 - r for r in rewards])
    ]
    found = arena(dict(zip("ab", sides, strict=True)))
    assert {row.ranks for row in found.standings} == {(1, 2)}
    assert {row.ties for row in found.standings} == {0.5}
    assert sum(row.wins for row in found.standings) == pytest.approx(1)
    same = players([1000.0], 50)["s0"]
    tied = arena({"a": same, "b": same, "c": same})
    assert [row.strength for row in tied.standings] == pytest.approx([1000.0] * 3)
    assert {row.ties for row in tied.standings} == {1.0}


def test_a_side_that_wins_all_has_a_finite_strength() -> None:
    best, worst = (side({f"t{n}": [value] for n in range(30)}) for value in (1.0, 0.0))
    first, last = arena({"worst": worst, "best": best}).standings
    assert (first.name, last.name) == ("best", "worst")
    assert first.interval[1] < 2000
    assert (first.ranks, last.ranks) == ((1, 1), (2, 2))


def test_sides_need_not_have_played_all_tasks() -> None:
    a, b, c = players([1100.0, 1000.0, 900.0], 300).values()
    found = arena({"a": a[:200], "b": b, "c": c[200:]})  # a and c never met
    assert [row.name for row in found.standings] == ["a", "b", "c"]
    assert numpy.isnan(found.wins.loc["a", "c"])
    assert {row.name: row.tasks for row in found.standings} == {"a": 200, "b": 300, "c": 100}
