"""A run's `metrics.jsonl`, followed as it grows, and its curves as points for an SVG."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from toolrl.view.heat import is_rate
from toolrl.view.rendering import number

WINDOW = 5  # steps of a running mean
WIDTH, HEIGHT = 320, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 8, 8, 22
_POINTS = 400
_SERIES = 7

# The metrics of an environment (`ENV/name`) that are shown first, and titles for those whose name says too little.
_FIRST = ("success", "reward", "call_share_needed", "call_share_needless")
_TITLES = {
    "call_share_needed": "tool use where a tool is needed",
    "call_share_needless": "tool use where none is needed",
    "zero_variance_group_share": "groups without variance",
    "failed_call_share": "calls that fail",
    "time/": "seconds of a step",
}
_SHARES = ("success", "share", "rate", "reward", "part_")
_TRAINER = ("time/", "loss", "grad_norm", "entropy", "kl", "reward_std", "learning_rate")
_LARGEST = 1e300
DISTANCE = "kl_from_start"
_TIME, HELD_OUT = "time/", "eval_"  # prefixes of the parts of a step, and of what held-out tasks gave
_BOUNDS = ("_low", "_high")  # of a held-out success


class Metrics:
    """Follows a metrics file.

    Attributes:
        rows: The rows read so far.
    """

    def __init__(self, path: Path):
        """Follow a file, which need not exist yet."""
        self._path = path
        self._offset = 0
        self._identity = (0, 0)
        self._lock = threading.Lock()
        self.rows: list[dict[str, Any]] = []

    def refresh(self) -> list[dict[str, Any]]:
        """Read what is new. An unfinished last line waits; a line that is not a row is skipped."""
        with self._lock:
            self._read()
            return list(self.rows)

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_dev, status.st_ino) != self._identity or status.st_size < self._offset:
                    self._identity, self._offset, self.rows = (status.st_dev, status.st_ino), 0, []
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._offset += len(line)
                    self._add(line)
        except OSError:  # missing, or not readable
            self._offset, self.rows = 0, []

    def _add(self, line: bytes) -> None:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return
        if isinstance(row, dict) and type(row.get("step")) is int and abs(row["step"]) < 2**53:
            self.rows.append(row)

    @property
    def step(self) -> int | None:
        """The last step, None before the first."""
        return self.rows[-1]["step"] if self.rows else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All rows of a metrics file; empty if it does not exist."""
    return Metrics(path).refresh()


def running_means(values: Sequence[float], window: int = WINDOW) -> list[float]:
    """The mean of each value and those before it, `window` in all."""
    return [fmean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]


# ---- curves


@dataclass(frozen=True, slots=True)
class Dot:
    """One measurement, at a position in the drawing."""

    x: float
    y: float
    label: str


@dataclass(frozen=True, slots=True)
class Series:
    """A line of running means; the measurements themselves are dots. A stacked one is the upper edge of an area."""

    name: str
    line: str
    dots: tuple[Dot, ...]
    last: str
    area: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing.

    Attributes:
        title: What is measured.
        series: At most seven lines.
        rules: Heights and labels of the horizontal lines.
        ticks: Positions and labels on the x axis.
    """

    title: str
    series: tuple[Series, ...]
    rules: tuple[tuple[float, str], ...]
    ticks: tuple[tuple[float, str], ...]


def panels(rows: Sequence[dict[str, Any]], *, further: bool = False) -> list[Panel]:
    """The panels of a run: the metrics that show whether it learns, or all the others."""
    names = sorted({name for row in rows for name, value in row.items() if _is_number(value)} - {"step", "time"})
    # TRL names metrics with a slash too (`completions/mean_length`).
    environments = {name.split("/")[0] for name in names if name.endswith("/unscored_share")}
    of_environments: dict[str, list[tuple[str, str]]] = {}
    of_trainer: dict[str, list[tuple[str, str]]] = {}
    parts = time_parts(rows)
    for name in names:
        env, _, metric = name.partition("/")
        if name in parts or is_rate(name) or (name.startswith(HELD_OUT) and name.endswith(_BOUNDS)):
            continue
        if env in environments:
            label = f"{env.removeprefix(HELD_OUT)} (held out)" if env.startswith(HELD_OUT) else env
            of_environments.setdefault(metric, []).append((label, name))
        else:
            of_trainer[name] = [("", name)]
    if parts:
        of_trainer[_TIME] = [(part.replace("_", " "), name) for name, part in parts.items()]
    first = [metric for metric in _FIRST if metric in of_environments]
    rest = [metric for metric in of_environments if metric not in first]
    trainer = sorted(of_trainer, key=lambda name: (_TRAINER.index(name) if name in _TRAINER else len(_TRAINER), name))
    order = [*((metric, of_environments) for metric in (*first, *rest)), *((name, of_trainer) for name in trainer)]
    count = len(first or _FIRST)
    drawn = [
        _panel(rows, _TITLES.get(metric, metric.replace("_", " ")), group[metric])
        for metric, group in (order[count:] if further else order[:count])
    ]
    over = [(f"{env} {label}", f"{env}/{name}") for env, name, label in proxy_and_gold(names)]
    if over and not further:
        drawn.append(_panel(rows, "reward and gold over KL from the start, in nats", over, DISTANCE))
    return drawn


def proxy_and_gold(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """The environment, name and label of each curve over the distance from the start, where that was measured."""
    monitored = [name.partition("/")[0] for name in names if name.endswith("/part_gold") and DISTANCE in names]
    return [(env, *curve) for env in monitored for curve in (("reward", "reward"), ("part_gold", "gold"))]


def time_parts(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The metrics that add up to a step's time, with the names of the parts, in the order in which they are logged."""
    names = dict.fromkeys(name for row in rows for name in row if name.startswith(_TIME))
    return {name: name.removeprefix(_TIME) for name in names if name != "time/step"}


def _panel(rows: Sequence[dict[str, Any]], title: str, named: Sequence[tuple[str, str]], along: str = "step") -> Panel:
    rows = sorted((row for row in rows if _is_number(row.get(along))), key=lambda row: float(row[along]))
    points = {
        label: [(row[along], float(row[name])) for row in rows if _is_number(row.get(name))]
        for label, name in named[:_SERIES]
    }
    amounts = {label: pairs[-1][1] for label, pairs in points.items()}
    if is_stacked := named[0][1].startswith(_TIME):
        below: dict[int, float] = {}
        for label, pairs in points.items():
            below |= {step: below.get(step, 0.0) + value for step, value in pairs}
            points[label] = [(step, below[step]) for step, _ in pairs]
    values = [value for pairs in points.values() for _, value in pairs]
    steps = [step for pairs in points.values() for step, _ in pairs]
    low, high = 0.0 if is_stacked else min(values), max(values)
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

    unit = "step " if along == "step" else "KL "
    series: list[Series] = []
    floor = f"{x(last)},{y(low)} {x(first)},{y(low)}"
    for label, name in named[:_SERIES]:
        pairs = points[label]
        smooth = running_means([value for _, value in pairs], 1 if name.startswith(HELD_OUT) else WINDOW)
        stride = max(1, math.ceil(len(pairs) / _POINTS))
        shown = sorted({*range(0, len(pairs), stride), len(pairs) - 1})
        line = " ".join(f"{x(pairs[place][0])},{y(smooth[place])}" for place in shown)
        dots = tuple(
            Dot(x(pairs[place][0]), y(pairs[place][1]), f"{unit}{pairs[place][0]:.6g}: {number(pairs[place][1])}")
            for place in shown
        )
        area = f"{line} {floor}" if is_stacked else ""
        floor = " ".join(reversed(line.split()))
        series.append(Series(label, line, dots, number(amounts[label] if is_stacked else smooth[-1]), area))
    middle = (first + last) // 2 if along == "step" else (first + last) / 2
    ticks = tuple(
        (x(place), f"{place:,}" if along == "step" else f"{place:.3g}") for place in sorted({first, middle, last})
    )
    return Panel(title, tuple(series), tuple((y(mark), f"{mark:.6g}") for mark in marks), ticks)


def _round_marks(low: float, high: float) -> list[float]:
    """Three to six round numbers from at or below `low` to at or above `high`."""
    raw = (high - low) / 4
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    return [place * step for place in range(first, math.ceil(high / step - 1e-9) + 1)]


def _is_number(value: Any) -> bool:
    """Whether a value can be drawn; NaN, infinity and numbers beyond the range of floats cannot."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
