"""Whether intervals of success hold what they promise, and what a small suite gains: simulations.

The 95 % interval of `success_interval` beside a bootstrap over tasks, for few tasks, for rates near the ends, and for
samples of a task that are alike; and the error of suites beside that of as many random tasks.
"""

from __future__ import annotations

import numpy

from tests.benchmarks.common import table
from tests.evaluation.test_suite import errors
from toolrl.evaluation import success_interval

REPETITIONS, RESAMPLES = 400, 400


def main() -> str:
    rows = [_coverage(*case) for case in CASES]
    held = [[float(cell) for cell in row[4:6]] for row in rows]
    rows.append(["lowest", "", "", "", *(f"{min(column):.3f}" for column in zip(*held, strict=True))])
    rows.append(["highest", "", "", "", *(f"{max(column):.3f}" for column in zip(*held, strict=True))])
    suites = [_suites(known, size) for known in (4, 20) for size in (40, 80)]
    return "\n\n".join(
        [
            table(
                f"How often a 95 % interval holds the true rate, of {REPETITIONS}",
                ["tasks", "samples", "rate", "correlation", "success_interval", "bootstrap over tasks"],
                rows,
            ),
            table(
                "Suites of 600 simulated tasks",
                ["models known", "tasks", "error", "of random tasks", "ratio", "interval holds the truth"],
                suites,
            ),
        ]
    )


CASES = [
    (tasks, samples, rate, correlation)
    for tasks in (3, 5, 10, 30, 100)
    for samples in (1, 4, 8)
    for rate in (0.02, 0.1, 0.5, 0.9)
    for correlation in ((0.0,) if samples == 1 else (0.0, 0.3, 0.9))
]


def _coverage(tasks: int, samples: int, rate: float, correlation: float) -> list[str]:
    rng = numpy.random.default_rng(0)
    rates = numpy.full((REPETITIONS, tasks), rate)
    if correlation:
        scale = 1 / correlation - 1
        rates = rng.beta(rate * scale, (1 - rate) * scale, rates.shape)
    played = (rng.random((*rates.shape, samples)) < rates[..., None]).astype(float)  # (R, N, S)
    ours = [low <= rate <= high for low, high in map(success_interval, played.tolist())]
    means = played.mean(2)
    drawn = numpy.stack([one[rng.integers(0, tasks, (RESAMPLES, tasks))].mean(1) for one in means])  # (R, B)
    low, high = numpy.quantile(drawn, [0.025, 0.975], axis=1)
    shares = numpy.mean(ours), numpy.mean((low <= rate) & (rate <= high))
    return [str(tasks), str(samples), f"{rate}", f"{correlation}", *(f"{share:.3f}" for share in shares)]


def _suites(known: int, size: int) -> list[str]:
    found, simple, covered = errors(known, size, repetitions=200)
    ours, theirs = (float(numpy.sqrt((one**2).mean())) for one in (found, simple))
    return [str(known), str(size), f"{ours:.3f}", f"{theirs:.3f}", f"{ours / theirs:.2f}", f"{covered.mean():.2f}"]
