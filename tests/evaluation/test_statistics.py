"""Promises about the estimates: pass@k is what counting gives, intervals have their known values."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, strategies as st

from toolrl.errors import ConfigError
from toolrl.evaluation import bootstrap_interval, pass_at_k, wilson_interval


@pytest.mark.parametrize(
    ("samples", "successes", "k"), [(n, c, k) for n in range(1, 8) for c in range(n + 1) for k in range(1, n + 1)]
)
def test_pass_at_k_is_the_share_of_draws_with_a_success(samples: int, successes: int, k: int) -> None:
    draws = list(combinations([True] * successes + [False] * (samples - successes), k))
    assert pass_at_k(samples, successes, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize(("samples", "successes", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1), (0, 0, 1)])
def test_pass_at_k_refuses_what_it_cannot_estimate(samples: int, successes: int, k: int) -> None:
    with pytest.raises(ConfigError, match=f"pass@{k}"):
        pass_at_k(samples, successes, k)


# 81 of 263: Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_the_wilson_interval_has_its_known_values(successes: int, trials: int, low: float, high: float) -> None:
    interval = wilson_interval(successes, trials)
    assert interval == pytest.approx((low, high), abs=1e-4)
    for rate in interval:  # each end is a rate 1.96 of its own standard deviations away from the observed one
        assert (successes / trials - rate) ** 2 == pytest.approx(1.96**2 * rate * (1 - rate) / trials, abs=1e-9)


def test_no_trials_give_the_whole_interval() -> None:
    assert wilson_interval(0, 0) == bootstrap_interval([]) == bootstrap_interval([[]]) == (0.0, 1.0)


groups = st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=5), min_size=1, max_size=8)


@given(groups)
def test_the_bootstrap_is_reproducible_and_contains_the_mean(values: list[list[float]]) -> None:
    low, high = bootstrap_interval(values, resamples=200)
    assert (low, high) == bootstrap_interval(values, resamples=200)
    mean = sum(sum(group) / len(group) for group in values) / len(values)
    assert 0.0 <= low <= mean + 1e-9
    assert mean - 1e-9 <= high <= 1.0


def test_the_bootstrap_resamples_tasks_not_samples() -> None:
    tasks = [[1.0] * 100, [0.0] * 100]  # two tasks say little, however often they were tried
    assert bootstrap_interval(tasks) == (0.0, 1.0)


def test_more_tasks_and_a_lower_level_give_a_narrower_bootstrap() -> None:
    few, many = [[0.0], [1.0]] * 10, [[0.0], [1.0]] * 200
    widths = [high - low for low, high in (bootstrap_interval(few), bootstrap_interval(many))]
    low, high = bootstrap_interval(few, level=0.5)
    assert widths[1] < widths[0] / 2
    assert high - low < widths[0]


@pytest.mark.parametrize("samples", [1, 2, 8])
@pytest.mark.parametrize("tasks", [1, 5, 58])
def test_tasks_that_all_agree_have_an_interval_that_depends_on_their_number(samples: int, tasks: int) -> None:
    assert bootstrap_interval([[0.0] * samples] * tasks) == pytest.approx(wilson_interval(0, tasks), abs=1e-4)
    assert bootstrap_interval([[1.0] * samples] * tasks) == pytest.approx(wilson_interval(tasks, tasks), abs=1e-4)
    low, high = bootstrap_interval([[0.0, 1.0] * samples] * tasks)
    assert 0.0 <= low < 0.5 < high <= 1.0
    low, high = bootstrap_interval([[0.0]] * tasks, bounds=(-1.0, 1.0))
    assert low == -high
    assert 0 < high < 1
