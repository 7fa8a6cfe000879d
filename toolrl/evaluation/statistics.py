"""Estimates and their intervals.

Samples of one task are not independent, so the unit is the task: each has one value, the mean over its samples. The
intervals cover what they promise with few tasks, and at 0 and 1, where resampling tasks does not: for five tasks with
four samples each, a bootstrap's 95 % interval holds the true rate in 10 to 92 of 100 cases, these in 90 or more
(`python -m tests.benchmarks intervals`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist

import numpy

from toolrl.errors import ConfigError

_DRAWS = 9_999  # of a test by random signs; all signs are tried where there are fewer
_MANY_TASKS = 2_000  # from which on the distribution under random signs is taken as normal


def mean(values: Iterable[float]) -> float | None:
    """The mean; None for no values."""
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers) if numbers else None


def pass_at_k(samples: int, successes: int, k: int) -> float:
    """Unbiased estimate of the probability that at least one of `k` samples succeeds.

    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1.

    Args:
        samples: Samples drawn for the task, at least `k`.
        successes: Successful samples.
        k: Samples allowed.

    Raises:
        ConfigError: `k` or `successes` is larger than `samples`.
    """
    return 1.0 - pass_all_k(samples, _failures(samples, successes, k), k)


def pass_all_k(samples: int, successes: int, k: int) -> float:
    """Unbiased estimate of pass^k, the probability that `k` samples all succeed.

    Source: Yao et al. 2024, "tau-bench: A Benchmark for Tool-Agent-User Interaction in Real-World Domains", section 4.

    Args:
        samples: Samples drawn for the task, at least `k`.
        successes: Successful samples.
        k: Samples that must succeed.

    Raises:
        ConfigError: `k` or `successes` is larger than `samples`.
    """
    _failures(samples, successes, k)
    return math.prod((max(0, successes - i)) / (samples - i) for i in range(k))


def _failures(samples: int, successes: int, k: int) -> int:
    if not 1 <= k <= samples or not 0 <= successes <= samples:
        raise ConfigError(f"pass@{k} needs 1 <= k <= samples and successes <= samples; got {successes} of {samples}")
    return samples - successes


def wilson_interval(successes: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """Interval for the success rate of independent trials, valid near 0 and 1 too.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if trials == 0:
        return 0.0, 1.0
    z, rate = NormalDist().inv_cdf((1 + level) / 2), successes / trials
    centre = (rate + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    # At the ends, rounding leaves a little.
    return 0.0 if successes <= 0 else centre - half, 1.0 if successes >= trials else centre + half


def success_interval(groups: Sequence[Sequence[float]], level: float = 0.95) -> tuple[float, float]:
    """Interval for the mean of tasks' success rates.

    With one sample per task this is Wilson's interval. With several, it is Wilson's for as many independent trials as
    have the same variance, fewer by the doubt about it: at least the number of tasks, at most that of samples.
    Source: Korn and Graubard 1998, "Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data"; Dean and Pagano 2015, "Evaluating confidence interval methods for binomial proportions
    in clustered surveys".

    Args:
        groups: The successes, 0 or 1, of each task's samples.
        level: Coverage.
    """
    rates = numpy.array([sum(group) / len(group) for group in groups if len(group)])
    tasks, samples = len(rates), sum(len(group) for group in groups)
    if not tasks:
        return 0.0, 1.0
    rate, trials = float(rates.mean()), float(tasks)
    if samples > tasks > 1 and 0 < rate < 1:
        from scipy import stats

        tail = (1 + level) / 2
        doubt = float(stats.norm.ppf(tail) / stats.t.ppf(tail, tasks - 1)) ** 2
        variance = max(float(rates.var(ddof=1)), 1e-12)
        trials = min(max(doubt * rate * (1 - rate) * tasks / variance, tasks), samples)
    return wilson_interval(rate * trials, trials, level)


def difference_interval(
    differences: Sequence[float], *, largest: float = 1.0, level: float = 0.95
) -> tuple[float, float]:
    """Interval for the mean of tasks' differences.

    Student's, after two tasks were added: one without a difference, and half a task at each end of the range. So it has
    a width where all tasks agree.
    Source: Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions", who add as
    much to the four cells of McNemar's table, and use the normal distribution.

    Args:
        differences: One per task (N,).
        largest: The largest possible difference.
        level: Coverage.
    """
    from scipy import stats

    centre, deviation = padded(differences, largest)
    trials = len(differences) + 2
    half = float(stats.t.ppf((1 + level) / 2, trials - 2)) if len(differences) else math.inf
    half *= deviation / math.sqrt(trials)
    return max(-largest, centre - half), min(largest, centre + half)


def padded(differences: Sequence[float], largest: float = 1.0) -> tuple[float, float]:
    """Mean and standard deviation of differences with the two tasks of `difference_interval`."""
    values = numpy.asarray(differences, float)
    count = len(values) + 2
    centre = float(values.sum()) / count
    return centre, math.sqrt(max(0.0, (float((values**2).sum()) + largest**2) / count - centre**2))


def difference_p_value(differences: Sequence[float]) -> float:
    """The probability, if neither side is better, of a mean at least as far from 0.

    Each difference could as well have had the other sign. With one sample of each side per task that is McNemar's exact
    test. Otherwise signs are drawn (all of them, if they are few), and from 2000 differences on the mean is taken as
    normal.
    """
    from scipy import stats

    values = numpy.asarray(differences, float)
    values = values[numpy.abs(values) > 1e-12]
    if not len(values):
        return 1.0
    if numpy.ptp(numpy.abs(values)) < 1e-12:
        return float(stats.binomtest(int((values > 0).sum()), len(values)).pvalue)
    if len(values) >= _MANY_TASKS:
        return float(2 * stats.norm.sf(abs(values.sum()) / math.sqrt((values**2).sum())))
    return float(
        stats.permutation_test(
            (values, numpy.zeros_like(values)),
            lambda a, b, axis: numpy.abs((a - b).mean(axis)),
            permutation_type="samples",
            alternative="greater",
            n_resamples=_DRAWS,
            vectorized=True,
            batch=1_000,
            rng=numpy.random.default_rng(0),
        ).pvalue
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests at once, so that the chance of any false alarm is bounded.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(list(p_values), method="holm")[1]] if len(p_values) else []


def power(differences: Sequence[float], *, largest: float = 1.0) -> tuple[float | None, int | None]:
    """The smallest mean difference that this many tasks show, and the tasks that the mean difference needs.

    Shown means: found by a paired t-test at 0.05 in four of five repetitions, if tasks differ as these do.

    Returns:
        The smallest difference, None if the tasks are too few to show any; and the number of tasks, None without a
        difference.
    """
    from statsmodels.stats.power import TTestPower

    tasks = len(differences)
    if tasks < 2:
        return None, None
    deviation = padded(differences, largest)[1]
    found = deviation * float(TTestPower().solve_power(nobs=tasks, alpha=0.05, power=0.8))
    smallest = found if found <= largest else None
    effect = abs(float(numpy.mean(differences))) / deviation
    if effect < 1e-3:  # a million tasks and more
        return smallest, None
    # For an effect so large that any number would do, there is nothing to solve.
    needed = 2 if effect > 10 else math.ceil(float(TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8)))
    return smallest, max(2, needed)
