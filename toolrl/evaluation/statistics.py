"""Estimates and their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist

import numpy

from toolrl.errors import ConfigError


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
    if not 1 <= k <= samples or not 0 <= successes <= samples:
        raise ConfigError(f"pass@{k} needs 1 <= k <= samples and successes <= samples; got {successes} of {samples}")
    if samples - successes < k:
        return 1.0
    return 1.0 - math.prod((samples - successes - i) / (samples - i) for i in range(k))


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Interval for the success rate of independent trials, valid near 0 and 1 too; `z` = 1.96 gives 95 %.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if trials == 0:
        return 0.0, 1.0
    rate, square = successes / trials, z * z
    centre = (rate + square / (2 * trials)) / (1 + square / trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + square / (4 * trials * trials)) / (1 + square / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(
    groups: Sequence[Sequence[float]],
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> tuple[float, float]:
    """Percentile interval for the mean of the groups' means, resampling whole groups.

    Samples of one task are not independent, so whole tasks are resampled. If all groups have the same mean, resampling
    would give an interval of width 0. Then the interval assumes that as many unseen tasks differ, by as much as the
    bounds allow, as Wilson's interval allows for zero successes. At 0 and 1 this is Wilson's interval over tasks.

    Args:
        groups: The values of each task.
        resamples: Number of bootstrap samples.
        seed: Of the bootstrap.
        level: Coverage.
        bounds: The smallest and the largest possible value.
    """
    means = numpy.array([sum(group) / len(group) for group in groups if group])
    if not len(means):
        return bounds
    if numpy.ptp(means) < 1e-12:
        unseen = wilson_interval(0, len(means), NormalDist().inv_cdf((1 + level) / 2))[1]
        common = float(means[0])
        return common - unseen * (common - bounds[0]), common + unseen * (bounds[1] - common)
    rng = numpy.random.default_rng(seed)
    estimates = sorted(float(rng.choice(means, len(means)).mean()) for _ in range(resamples))
    tail = (1 - level) / 2
    return estimates[int(tail * resamples)], estimates[min(resamples - 1, math.ceil((1 - tail) * resamples) - 1)]
