"""Promises about the estimates: they are unbiased, intervals cover what they say, and p-values are fair."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import numpy
import pytest
from hypothesis import given, strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from toolrl.errors import ConfigError
from toolrl.evaluation import pass_all_k, pass_at_k, success_interval, wilson_interval
from toolrl.evaluation.statistics import difference_interval, difference_p_value, holm, power

REPETITIONS = 400
# Fewer than 0.9 of 400 intervals of true coverage 0.95 hold the value in one of 200,000 simulations.
LEAST = 0.9


@pytest.mark.parametrize("estimate", [pass_at_k, pass_all_k])
@pytest.mark.parametrize(
    ("samples", "successes", "k"), [(n, c, k) for n in range(1, 8) for c in range(n + 1) for k in range(1, n + 1)]
)
def test_pass_at_k_and_pass_all_k_are_shares_of_draws(
    estimate: Callable[[int, int, int], float], samples: int, successes: int, k: int
) -> None:
    draws = list(combinations([True] * successes + [False] * (samples - successes), k))
    passed = map(any if estimate is pass_at_k else all, draws)
    assert estimate(samples, successes, k) == pytest.approx(sum(passed) / len(draws))


@pytest.mark.parametrize("estimate", [pass_at_k, pass_all_k])
@pytest.mark.parametrize(("samples", "successes", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1), (0, 0, 1)])
def test_what_cannot_be_estimated_is_refused(
    estimate: Callable[[int, int, int], float], samples: int, successes: int, k: int
) -> None:
    with pytest.raises(ConfigError, match=f"{successes} of {samples}"):
        estimate(samples, successes, k)


def test_pass_at_k_and_pass_all_k_are_unbiased() -> None:
    rate, samples, k = 0.3, 6, 3
    counts = numpy.random.default_rng(0).binomial(samples, rate, 20_000)
    for estimate, expected in ((pass_at_k, 1 - (1 - rate) ** k), (pass_all_k, rate**k)):
        assert numpy.mean([estimate(samples, int(c), k) for c in counts]) == pytest.approx(expected, abs=0.01)


# 81 of 263: Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_the_wilson_interval_has_its_known_values(successes: int, trials: int, low: float, high: float) -> None:
    interval = wilson_interval(successes, trials)
    assert interval == pytest.approx((low, high), abs=1e-4)
    assert success_interval([[1.0]] * successes + [[0.0]] * (trials - successes)) == interval


def test_no_trials_give_the_whole_interval() -> None:
    assert wilson_interval(0, 0) == success_interval([]) == success_interval([[]]) == (0.0, 1.0)
    assert difference_interval([]) == (-1.0, 1.0)


groups = st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=5), min_size=1, max_size=8)


@given(groups)
def test_an_interval_of_success_holds_its_estimate_and_is_no_wider_than_that_of_one_sample_a_task(
    values: list[list[float]],
) -> None:
    low, high = success_interval(values)
    rate = sum(sum(group) / len(group) for group in values) / len(values)
    assert 0.0 <= low <= rate + 1e-9
    assert rate - 1e-9 <= high <= 1.0
    widest = wilson_interval(rate * len(values), len(values))
    assert high - low <= widest[1] - widest[0] + 1e-9


@given(st.lists(st.floats(-1, 1), max_size=8))
def test_an_interval_of_differences_is_within_the_range_and_turns_with_the_sides(values: list[float]) -> None:
    low, high = difference_interval(values)
    assert -1 <= low < high <= 1
    assert difference_interval([-value for value in values]) == pytest.approx((-high, -low))
    assert difference_p_value(values) == pytest.approx(difference_p_value([-value for value in values]))


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("rate", [0.0, 0.02, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("tasks", "samples"), [(5, 1), (5, 4), (10, 8), (30, 1), (30, 4), (100, 8)])
def test_intervals_of_success_cover_also_at_the_ends_with_few_tasks_and_correlated_samples(
    tasks: int, samples: int, rate: float, correlation: float
) -> None:
    rng = numpy.random.default_rng(0)
    rates = numpy.full((REPETITIONS, tasks), rate)
    if correlation and 0 < rate < 1:
        scale = 1 / correlation - 1
        rates = rng.beta(rate * scale, (1 - rate) * scale, rates.shape)
    played = rng.random((*rates.shape, samples)) < rates[..., None]
    intervals = [success_interval(one) for one in played.astype(float).tolist()]
    least = 0.86 if tasks == 5 else LEAST  # Wilson's own exact coverage is 0.904 at 0.02 of 5
    assert numpy.mean([low <= rate <= high for low, high in intervals]) >= least


@pytest.mark.parametrize(("gain", "loss"), [(0.0, 0.0), (0.05, 0.05), (0.3, 0.1), (0.9, 0.0), (1.0, 0.0)])
@pytest.mark.parametrize("tasks", [3, 5, 30, 100])
def test_intervals_of_differences_cover(tasks: int, gain: float, loss: float) -> None:
    drawn = numpy.random.default_rng(0).random((REPETITIONS, tasks))
    differences = (drawn < gain) * 1.0 - (drawn > 1 - loss)
    intervals = [difference_interval(one) for one in differences]
    assert numpy.mean([low - 1e-9 <= gain - loss <= high + 1e-9 for low, high in intervals]) >= LEAST


def pairs(tasks: int, samples: int, gap: float = 0.0) -> Any:
    """Differences (R, N) of two sides, of which the second is better by `gap` in a task."""
    rng = numpy.random.default_rng(0)
    rates = rng.uniform(0.1, 0.9 - gap, (REPETITIONS, tasks))
    return (rng.binomial(samples, rates + gap) - rng.binomial(samples, rates)) / samples


@pytest.mark.parametrize(
    ("tasks", "samples"),
    [(10, 1), pytest.param(10, 4, marks=pytest.mark.slow), (60, 1), pytest.param(60, 4, marks=pytest.mark.slow)],
)
def test_p_values_are_fair_where_neither_side_is_better(tasks: int, samples: int) -> None:
    values = numpy.array([difference_p_value(one) for one in pairs(tasks, samples)])
    for level in (0.05, 0.2, 0.5):
        # Three standard deviations of a share above it; below, values are discrete and may be rarer.
        assert (values <= level).mean() <= level + 3 * math.sqrt(level * (1 - level) / REPETITIONS)
    if tasks * samples > 100:
        assert (values <= 0.5).mean() > 0.38


def test_one_sample_a_task_is_mcnemars_exact_test() -> None:
    for better, worse, equal in ((5, 0, 3), (7, 2, 0), (4, 4, 9), (1, 0, 0)):
        known = mcnemar([[equal, worse], [better, 0]], exact=True).pvalue
        assert difference_p_value([1.0] * better + [-1.0] * worse + [0.0] * equal) == pytest.approx(known)


def test_few_differences_try_all_signs_and_many_are_normal() -> None:
    few = [0.5, 0.25, -0.75, 1.0, 0.5]
    flipped = [
        abs(sum(sign * value for sign, value in zip(signs, few, strict=True))) for signs in product((1, -1), repeat=5)
    ]
    assert difference_p_value(few) == pytest.approx(numpy.mean([value >= 1.5 for value in flipped]))
    many = numpy.random.default_rng(0).normal(0.05, 1, 5_000)
    assert difference_p_value(many) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, rel=0.05)


def test_holms_correction_orders_and_bounds() -> None:
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    # Thirty true null hypotheses: the chance of any false alarm stays at 0.05, where it would be 0.8.
    values = numpy.random.default_rng(0).random((60, 30))
    assert numpy.mean([min(holm(one)) < 0.05 for one in values]) < 0.2


@pytest.mark.slow
def test_the_smallest_difference_is_found_in_four_of_five_cases_and_needs_as_many_tasks() -> None:
    differences = pairs(80, 4, gap=0.1)
    smallest, needed = power(differences[0])
    assert smallest is not None
    assert needed is not None
    found = [difference_p_value(one) < 0.05 for one in pairs(80, 4, gap=smallest)[:200]]
    assert 0.7 < numpy.mean(found) < 0.93
    typical = [power(one)[1] or 10_000 for one in differences]
    found = [difference_p_value(one) < 0.05 for one in pairs(int(numpy.median(typical)), 4, gap=0.1)[:200]]
    assert 0.7 < numpy.mean(found) < 0.93


def test_tasks_that_are_too_few_show_nothing() -> None:
    assert power([1.0]) == (None, None)
    assert power([1.0, -1.0])[0] is None
    assert power([0.0] * 50)[1] is None
    assert power([1.0] * 50)[1] == 3
