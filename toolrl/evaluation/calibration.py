"""Does it know what it knows? Confidences against what was right.

A confidence is what the answer states (`toolrl.rewards.confidence`), the mean probability of the answer's tokens, or
the share of a task's other samples that give the same answer.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from rich.table import Table

from toolrl.errors import ConfigError
from toolrl.evaluation.tables import number
from toolrl.rewards.answers import normalise
from toolrl.rewards.confidence import CONFIDENCE
from toolrl.trajectory import Trajectory

BINS = 10
_DRAWS, _AT_ONCE = 1_000, 50  # draws of tasks, and how many are in memory
_CHANCES = 200  # of what chance alone would show


@dataclass(frozen=True, slots=True)
class Bin:
    """Predictions of about the same confidence.

    Attributes:
        count: How many.
        confidence: Their mean confidence.
        accuracy: The share that was right.
    """

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well confidences tell right from wrong.

    Attributes:
        count: Predictions.
        missing: Scored episodes without a confidence, which are left out.
        accuracy: The share that was right.
        confidence: The mean confidence; more than the accuracy is over-confidence.
        ece: Expected calibration error: the mean distance of accuracy and confidence over `bins`.
        ece_interval: Its 95 % interval, by drawing tasks again.
        ece_by_chance: The error that this number of predictions would show if each confidence were the true chance: a
            binned error is never 0.
        brier: The mean squared distance of confidence and truth.
        reliability: The part of it that recalibration could take away.
        resolution: The part that telling right from wrong has taken away.
        uncertainty: What it would be for a constant confidence: accuracy (1 - accuracy). Of binned predictions, brier =
            reliability - resolution + uncertainty (Murphy 1973, "A new vector partition of the probability score").
        auroc: The chance that a right answer has more confidence than a wrong one; None if all are right, or none.
        aurc: The mean risk over all coverages; see `risk_coverage`.
        bins: Of about equal counts, by rising confidence.
        risks: At most 101 points of `risk_coverage`.
    """

    count: int
    missing: int
    accuracy: float
    confidence: float
    ece: float
    ece_interval: tuple[float, float]
    ece_by_chance: float
    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    auroc: float | None
    aurc: float
    bins: tuple[Bin, ...]
    risks: tuple[tuple[float, float], ...]


def calibration(
    confidences: Sequence[float],
    correct: Sequence[float],
    *,
    tasks: Sequence[str] | None = None,
    missing: int = 0,
    bins: int = BINS,
    seed: int = 0,
) -> Calibration:
    """Measure calibration.

    Args:
        confidences: From 0 to 1 (N,).
        correct: Whether each was right, 0 or 1 (N,).
        tasks: The task of each (N,), whose samples are drawn together; by default each is a task of its own.
        missing: Noted in the result.
        bins: The most bins; equal confidences share one.
        seed: Of what is drawn.

    Raises:
        ConfigError: There are none, or a confidence is not from 0 to 1.
    """
    stated, right = numpy.asarray(confidences, float), numpy.asarray(correct, float)
    if not len(stated) or len(stated) != len(right):
        raise ConfigError(f"calibration needs as many confidences as verdicts, got {len(stated)} and {len(right)}")
    if not ((stated >= 0) & (stated <= 1)).all():
        raise ConfigError(f"a confidence is from 0 to 1, got {stated[~((stated >= 0) & (stated <= 1))][0]}")
    places = _places(stated, bins)
    rng = numpy.random.default_rng(seed)
    by_chance = [_ece(stated, rng.random(len(stated)) < stated, places) for _ in range(_CHANCES)]
    drawn = _drawn_errors(stated - right, places, tasks, rng)
    inside = [places == place for place in numpy.unique(places)]
    shown = [Bin(int(found.sum()), float(stated[found].mean()), float(right[found].mean())) for found in inside]
    accuracy = float(right.mean())
    coverage = risk_coverage(stated, right)
    return Calibration(
        count=len(stated),
        missing=missing,
        accuracy=accuracy,
        confidence=float(stated.mean()),
        ece=_ece(stated, right, places),
        ece_interval=(float(numpy.quantile(drawn, 0.025)), float(numpy.quantile(drawn, 0.975))),
        ece_by_chance=float(numpy.mean(by_chance)),
        brier=float(((stated - right) ** 2).mean()),
        reliability=sum(one.count * (one.confidence - one.accuracy) ** 2 for one in shown) / len(stated),
        resolution=sum(one.count * (one.accuracy - accuracy) ** 2 for one in shown) / len(stated),
        uncertainty=accuracy * (1 - accuracy),
        auroc=_auroc(stated, right),
        aurc=float(numpy.mean([risk for _, risk in coverage])),
        bins=tuple(shown),
        risks=tuple(coverage[place] for place in numpy.unique(numpy.linspace(0, len(coverage) - 1, 101).astype(int))),
    )


def risk_coverage(confidences: Any, correct: Any) -> list[tuple[float, float]]:
    """What abstaining buys: coverage, and the share of wrong answers in it, if the least confident are left out.

    Equal confidences count as if they came in the mean of all orders, so that ties gain nothing.
    Source: El-Yaniv and Wiener 2010, "On the Foundations of Noise-free Selective Classification".

    Args:
        confidences: (N,).
        correct: Whether each was right, 0 or 1 (N,).
    """
    stated, wrong = numpy.asarray(confidences, float), 1 - numpy.asarray(correct, float)
    order = numpy.argsort(-stated, kind="stable")
    stated, wrong = stated[order], wrong[order]
    same = numpy.unique(stated, return_inverse=True)[1]
    wrong = (numpy.bincount(same, weights=wrong) / numpy.bincount(same))[same]
    counts = numpy.arange(1, len(wrong) + 1)
    return list(zip((counts / len(wrong)).tolist(), (wrong.cumsum() / counts).tolist(), strict=True))


def _places(stated: Any, bins: int) -> Any:
    """The bin of each confidence (N,): of about equal counts, with equal confidences together."""
    values = numpy.unique(stated)
    edges = (
        values if len(values) <= bins else numpy.unique(numpy.quantile(stated, numpy.linspace(0, 1, bins + 1)[1:-1]))
    )
    return numpy.searchsorted(edges, stated)


def _ece(stated: Any, right: Any, places: Any) -> float:
    gaps = numpy.bincount(places, weights=stated - right)
    return float(numpy.abs(gaps).sum() / len(stated))


def _drawn_errors(gaps: Any, places: Any, tasks: Sequence[str] | None, rng: Any) -> Any:
    """The error (D,) for tasks that are drawn again, from each episode's gap and bin; 0 and 1 if there is one task."""
    task = numpy.arange(len(gaps)) if tasks is None else numpy.unique(numpy.asarray(tasks), return_inverse=True)[1]
    count, bins = int(task.max()) + 1, int(places.max()) + 1
    if count < 2:
        return [0.0, 1.0]
    sums = numpy.bincount(task * bins + places, weights=gaps, minlength=count * bins).reshape(count, bins)  # (T, B)
    sizes = numpy.bincount(task)  # (T,)
    found = []
    for _ in range(_DRAWS // _AT_ONCE):
        times = rng.multinomial(count, numpy.full(count, 1 / count), _AT_ONCE)  # (D, T)
        found.append(numpy.abs(times @ sums).sum(1) / (times @ sizes))
    return numpy.concatenate(found)


def _auroc(stated: Any, right: Any) -> float | None:
    from scipy.stats import mannwhitneyu

    good, bad = stated[right > 0.5], stated[right <= 0.5]
    if not len(good) or not len(bad):
        return None
    return float(mannwhitneyu(good, bad).statistic / (len(good) * len(bad)))


# ---- confidences of episodes


def stated_confidence(trajectories: Sequence[Trajectory]) -> list[float | None]:
    """What answers state; None where they state nothing."""
    return [trajectory.score.parts.get(CONFIDENCE) for trajectory in trajectories]


def token_confidence(trajectories: Sequence[Trajectory]) -> list[float | None]:
    """The geometric mean of the probabilities of the last turn's sampled tokens; None without tokens."""
    found: list[float | None] = []
    for trajectory in trajectories:
        sample = trajectory.turns[-1].sample if trajectory.turns else None
        values = [] if sample is None else [v for v, bit in zip(sample.logprobs, sample.mask, strict=True) if bit]
        found.append(min(1.0, math.exp(sum(values) / len(values))) if values else None)
    return found


def agreement(trajectories: Sequence[Trajectory]) -> list[float | None]:
    """The share of the other samples of the task with the same answer; None without other samples.

    An episode without an answer agrees with no other.
    """
    answers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    keys = [(t.env_id, t.task_id) for t in trajectories]
    given = [normalise(t.score.answer) if t.score.answer is not None else None for t in trajectories]
    for key, answer in zip(keys, given, strict=True):
        answers[key][str(answer) if answer is not None else ""] += 1
    found: list[float | None] = []
    for key, answer in zip(keys, given, strict=True):
        others = answers[key].total() - 1
        same = 0 if answer is None else answers[key][answer] - 1
        found.append(same / others if others else None)
    return found


SOURCES: dict[str, Callable[[Sequence[Trajectory]], list[float | None]]] = {
    "stated": stated_confidence,
    "tokens": token_confidence,
    "agreement": agreement,
}


def calibrate(trajectories: Iterable[Trajectory], source: str = "stated") -> Calibration | None:
    """The calibration of scored episodes by one of `SOURCES`; None if none of them has such a confidence.

    Raises:
        ConfigError: There is no such source.
    """
    if source not in SOURCES:
        raise ConfigError(f"there is no confidence {source!r}; the sources are {', '.join(SOURCES)}")
    scored = [t for t in trajectories if t.score.value is not None]
    known = [(c, t) for c, t in zip(SOURCES[source](scored), scored, strict=True) if c is not None]
    if not known:
        return None
    return calibration(
        [confidence for confidence, _ in known],
        [float(bool(t.score.success)) for _, t in known],
        tasks=[f"{t.env_id}/{t.task_id}" for _, t in known],
        missing=len(scored) - len(known),
    )


def calibration_table(measured: dict[str, Calibration]) -> Table:
    """For a terminal: a row per name."""
    table = Table(title="does it know what it knows? ECE in brackets: 95 %, and what chance alone would show")
    for column in (
        "", "episodes", "no confidence", "right", "confidence", "ECE", "Brier", "reliability", "resolution", "AUROC",
        "AURC",
    ):  # fmt: skip
        table.add_column(column, overflow="fold")
    for name, one in measured.items():
        low, high = one.ece_interval
        table.add_row(
            name, f"{one.count:,}", f"{one.missing:,}", number(one.accuracy), number(one.confidence),
            f"{one.ece:.3f} [{low:.3f}, {high:.3f}; {one.ece_by_chance:.3f}]", f"{one.brier:.3f}",
            f"{one.reliability:.3f}", f"{one.resolution:.3f}", number(one.auroc), f"{one.aurc:.3f}",
        )  # fmt: skip
    return table
