"""Promises about the heat map of a curriculum: what was expected of each kind, when, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolrl.view.heat import expected_rates, heat_map
from toolrl.view.metrics import panels
from toolrl.view.plots import plot_curves

ROWS = [
    {
        "step": step,
        "PythonMath/success": 0.5,
        "PythonMath/unscored_share": 0.0,
        "curriculum/useful": 0.7,
        "curriculum/PythonMath/easy": step / 200,
        **({"curriculum/PythonMath/hard": 0.1} if step > 100 else {}),
    }
    for step in range(1, 201)
]


def test_each_kind_has_a_line_and_columns_average_steps() -> None:
    names, steps, rates = expected_rates(ROWS)
    assert names == ["PythonMath/easy", "PythonMath/hard"]
    assert rates.shape == (2, len(steps)) == (2, 60)
    assert rates[0, 0] == pytest.approx(sum(row / 200 for row in range(1, 5)) / 4)
    drawn = heat_map(ROWS)
    assert drawn is not None
    assert [name for _, name in drawn.names] == names
    assert sum(cell.y == 0 for cell in drawn.cells) == 60
    assert 25 < sum(cell.y > 0 for cell in drawn.cells) < 35  # unknown before
    assert drawn.cells[0].label == "PythonMath/easy, step 1: 0.01"
    assert all(0 <= cell.x <= drawn.width and 0 <= cell.rate <= 1 for cell in drawn.cells)


def test_a_run_without_a_curriculum_has_none_and_kinds_are_no_curves(tmp_path: Path) -> None:
    assert heat_map([{"step": 1, "loss": 0.0}]) is None
    titles = {panel.title for further in (False, True) for panel in panels(ROWS, further=further)}
    assert not any("easy" in title for title in titles)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert plot_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 20_000
