"""A run's curves, from the rows of its `metrics.jsonl`, as points for an SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolrl.view.rendering import number

WIDTH, HEIGHT = 320, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 8, 8, 22
_POINTS = 400
_SERIES = 6
_WINDOW = 5

# Of an environment's metrics (`ENV/name`) those that are shown first, and the names of those that need one.
_FIRST = ("success", "reward", "call_share_needed", "call_share_needless")
_TITLES = {
    "call_share_needed": "tool use where a tool is needed",
    "call_share_needless": "tool use where none is needed",
    "zero_variance_group_share": "groups without variance",
    "failed_call_share": "calls that fail",
}
_SHARES = ("success", "share", "rate", "reward", "part_")
_TRAINER = ("loss", "grad_norm", "entropy", "kl", "reward_std", "learning_rate")

_LARGEST = 1e300


@dataclass(frozen=True, slots=True)
class Dot:
    """One measurement, at a place of the drawing."""

    x: float
    y: float
    label: str


@dataclass(frozen=True, slots=True)
class Series:
    """A line: running means over five steps; the measurements themselves are dots."""

    name: str
    line: str
    dots: tuple[Dot, ...]
    last: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing.

    Attributes:
        title: What is measured.
        series: At most six lines.
        rules: Heights and labels of the horizontal lines.
        ticks: Places and labels below.
    """

    title: str
    series: tuple[Series, ...]
    rules: tuple[tuple[float, str], ...]
    ticks: tuple[tuple[float, str], ...]


def panels(rows: Sequence[dict[str, Any]], *, further: bool = False) -> list[Panel]:
    """The drawings of a run: of what it learns, or of all the further metrics."""
    names = sorted({name for row in rows for name, value in row.items() if _is_number(value)} - {"step", "time"})
    # Metrics that TRL names with a slash (`completions/mean_length`) are no environment's.
    environments = {name.split("/")[0] for name in names if name.endswith("/unscored_share")}
    of_environments: dict[str, list[tuple[str, str]]] = {}
    of_trainer: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        env, _, metric = name.partition("/")
        if env in environments:
            of_environments.setdefault(metric, []).append((env, name))
        else:
            of_trainer[name] = [("", name)]
    first = [metric for metric in _FIRST if metric in of_environments]
    rest = [metric for metric in of_environments if metric not in first]
    trainer = sorted(of_trainer, key=lambda name: (_TRAINER.index(name) if name in _TRAINER else len(_TRAINER), name))
    order = [*((metric, of_environments) for metric in (*first, *rest)), *((name, of_trainer) for name in trainer)]
    count = len(first or _FIRST)
    return [
        _panel(rows, _TITLES.get(metric, metric.replace("_", " ")), group[metric])
        for metric, group in (order[count:] if further else order[:count])
    ]


def _panel(rows: Sequence[dict[str, Any]], title: str, named: Sequence[tuple[str, str]]) -> Panel:
    points = {
        label: [(row["step"], float(row[name])) for row in rows if _is_number(row.get(name))]
        for label, name in named[:_SERIES]
    }
    values = [value for pairs in points.values() for _, value in pairs]
    steps = [step for pairs in points.values() for step, _ in pairs]
    low, high = min(values), max(values)
    if low >= 0 and high <= 1 and any(part in named[0][1] for part in _SHARES):
        low, high = 0.0, 1.0
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    marks = _round_marks(low, high)
    low, high = min(low, marks[0]), max(high, marks[-1])
    first, last = min(steps), max(steps)

    def x(step: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * ((step - first) / (last - first) if last > first else 0.5), 1)

    def y(value: float) -> float:
        return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - (value - low) / (high - low)), 1)

    series = []
    for label, pairs in points.items():
        smooth = [
            sum(value for _, value in pairs[max(0, place + 1 - _WINDOW) : place + 1]) / min(place + 1, _WINDOW)
            for place in range(len(pairs))
        ]
        stride = max(1, math.ceil(len(pairs) / _POINTS))
        shown = sorted({*range(0, len(pairs), stride), len(pairs) - 1})
        line = " ".join(f"{x(pairs[place][0])},{y(smooth[place])}" for place in shown)
        dots = tuple(
            Dot(x(pairs[place][0]), y(pairs[place][1]), f"step {pairs[place][0]}: {number(pairs[place][1])}")
            for place in shown
        )
        series.append(Series(label, line, dots, number(smooth[-1])))
    ticks = tuple((x(step), f"{step:,}") for step in sorted({first, (first + last) // 2, last}))
    return Panel(title, tuple(series), tuple((y(mark), f"{mark:.6g}") for mark in marks), ticks)


def _round_marks(low: float, high: float) -> list[float]:
    """Three to six round numbers from at or below `low` to at or above `high`."""
    raw = (high - low) / 4
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    return [place * step for place in range(first, math.ceil(high / step - 1e-9) + 1)]


def _is_number(value: Any) -> bool:
    """Whether a value can be drawn: NaN, infinity and what floats cannot reach are left out."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
