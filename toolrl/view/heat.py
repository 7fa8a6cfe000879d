"""What a curriculum believed of each kind of tasks, over time: a heat map of expected pass rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

CURRICULUM = "curriculum/"
_COLUMNS = 60
_LEFT, _ROW, _WIDTH = 190, 13, 640  # of the drawing, in pixels


def is_rate(name: str) -> bool:
    """Whether a metric is the expected pass rate of a kind: `curriculum/ENV/KIND`."""
    return name.startswith(CURRICULUM) and name.count("/") > 1


def expected_rates(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[int], NDArray[numpy.float64]]:
    """The kinds (K,), the first step of each column (T,), and mean expected pass rates (K, T); NaN where unknown."""
    names = sorted({name for row in rows for name in row if is_rate(name)})
    rows = [row for row in rows if any(name in row for name in names)]
    if not rows:
        return [], [], numpy.empty((0, 0))
    values = numpy.array([[row.get(name, numpy.nan) for row in rows] for name in names], float)  # (K, rows)
    parts = numpy.array_split(numpy.arange(len(rows)), min(_COLUMNS, len(rows)))
    columns = numpy.stack([values[:, part].mean(axis=1) for part in parts], axis=1)
    return [name.removeprefix(CURRICULUM) for name in names], [rows[part[0]]["step"] for part in parts], columns


@dataclass(frozen=True, slots=True)
class Cell:
    """A rectangle of the heat map."""

    x: float
    y: int
    rate: float
    label: str


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A drawing for the page.

    Attributes:
        names: The kinds, with the height of their line.
        cells: What was believed of them.
        ticks: Positions and labels on the x axis.
        size: Of a cell.
        width: Of the drawing.
        height: The same.
    """

    names: tuple[tuple[int, str], ...]
    cells: tuple[Cell, ...]
    ticks: tuple[tuple[float, str], ...]
    size: tuple[float, int]
    width: int
    height: int


def heat_map(rows: Sequence[dict[str, Any]]) -> HeatMap | None:
    """The heat map of a run; None if it has no curriculum."""
    names, steps, rates = expected_rates(rows)
    if not names:
        return None
    width = (_WIDTH - _LEFT - 8) / len(steps)
    cells = tuple(
        Cell(
            round(_LEFT + column * width, 1),
            line * _ROW,
            round(float(rate), 3),
            f"{names[line]}, step {steps[column]}: {rate:.2f}",
        )
        for (line, column), rate in numpy.ndenumerate(rates)
        if not numpy.isnan(rate)
    )
    height = len(names) * _ROW
    shown = sorted({0, len(steps) // 2, len(steps) - 1})
    return HeatMap(
        tuple((line * _ROW + 10, name) for line, name in enumerate(names)),
        cells,
        tuple((round(_LEFT + (column + 0.5) * width, 1), f"{steps[column]:,}") for column in shown),
        (round(width + 0.3, 1), _ROW - 1),
        _WIDTH,
        height + 18,
    )
