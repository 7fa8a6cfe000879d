"""Promises about metrics: the file is followed, and its values are drawn as logged."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from toolrl.view.metrics import HEIGHT, WIDTH, Metrics, panels


def rows(*values: float, name: str = "PythonMath/success") -> list[dict[str, float]]:
    return [{"step": step, name: value, "PythonMath/unscored_share": 0.0} for step, value in enumerate(values, 1)]


def test_dots_are_at_the_values_and_lines_are_running_means() -> None:
    panel = panels(rows(0.0, 1.0, 1.0))[0]
    (series,) = panel.series
    heights = [dot.y for dot in series.dots]
    assert heights[0] > heights[1] == heights[2]
    assert [dot.label for dot in series.dots] == ["step 1: 0", "step 2: 1.00", "step 3: 1.00"]
    line = [float(point.split(",")[1]) for point in series.line.split()]
    assert line[1] == pytest.approx((heights[0] + heights[1]) / 2, abs=0.1)
    assert series.last == "0.67"


@pytest.mark.parametrize("values", [(0.5,), (3.0, 3.0), (-1e9, 1e9), (1e-12, 2e-12), (0.1, 0.2, 17.3), (0, 0)])
def test_every_curve_stays_within_its_drawing(values: tuple[float, ...]) -> None:
    for panel in panels(rows(*values, name="loss")):
        assert 1 <= len(panel.rules) <= 7
        for series in panel.series:
            assert all(0 <= dot.x <= WIDTH and 0 <= dot.y <= HEIGHT for dot in series.dots)


def test_the_most_important_metrics_come_first_and_none_is_lost() -> None:
    row = {"step": 1, "loss": 1.0, "A/success": 1.0, "B/success": 0.5, "A/turns": 2, "completions/mean_length": 24.0}
    rows = [{**row, "A/unscored_share": 0.0, "B/unscored_share": 0.0, "note": "text", "bad": float("nan")}]
    assert [(panel.title, [s.name for s in panel.series]) for panel in panels(rows)] == [("success", ["A", "B"])]
    assert [(panel.title, [s.name for s in panel.series]) for panel in panels(rows, further=True)] == [
        ("turns", ["A"]), ("unscored share", ["A", "B"]), ("loss", [""]), ("completions/mean length", [""]),
    ]  # fmt: skip


def test_a_run_without_environments_shows_what_the_trainer_logs() -> None:
    rows = [{"step": 1, "loss": 1.0, "kl": 0.1}]
    assert [panel.title for panel in panels(rows)] == ["loss", "kl"]
    assert panels(rows, further=True) == []


def test_thousands_of_steps_are_thinned_and_the_last_is_kept() -> None:
    (series,) = panels(rows(*[step / 5_000 for step in range(5_000)]))[0].series
    assert len(series.dots) <= 401
    assert series.dots[-1].label.startswith("step 5000:")


def test_the_file_is_followed_and_a_torn_or_broken_line_is_not_a_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    assert metrics.refresh() == []
    path.write_text('{"step": 1, "loss": 1}\nnot JSON\n["a list"]\n{"loss": 1}\n{"step": 2, "lo')
    assert [row["step"] for row in metrics.refresh()] == [1]
    with path.open("a") as file:
        file.write('ss": 2}\n')
    assert [row["step"] for row in metrics.refresh()] == [1, 2]
    path.write_text(json.dumps({"step": 7}) + "\n")
    assert [row["step"] for row in metrics.refresh()] == [7]


def test_concurrent_readers_read_each_row_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(3_000)))
    metrics = Metrics(path)
    with ThreadPoolExecutor(8) as pool:
        counts = {len(rows) for rows in pool.map(lambda _: metrics.refresh(), range(16))}
    assert counts == {3_000}


@pytest.mark.parametrize("value", [10**400, float("inf"), 1.7e308, "a", [1], {"a": 1}, None, True])
def test_values_that_cannot_be_drawn_are_skipped(value: object) -> None:
    assert [panel.title for panel in panels([{"step": 1, "loss": 1.0, "odd": value}])] == ["loss"]


@pytest.mark.parametrize("step", ["true", "1.5", '"1"', "null", str(2**70)])
def test_a_row_without_a_usable_step_is_skipped(tmp_path: Path, step: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": {step}, "loss": 1}}\n{"[" * 5000}\n{{"step": 1, "loss": 1}}\n')
    assert [row["step"] for row in Metrics(path).refresh()] == [1]


def test_the_parts_of_a_step_are_stacked_and_held_out_success_is_not_smoothed() -> None:
    row = {"A/unscored_share": 0.0, "A/success": 0.5, "eval_A/unscored_share": 0.0, "eval_A/success_low": 0.0}
    rows = [
        {**row, "step": step, "time/generation": 3.0, "time/other": 1.0, "time/step": 4.0, "eval_A/success": step % 2}
        for step in range(4)
    ]
    found = {panel.title: panel for panel in [*panels(rows), *panels(rows, further=True)]}
    assert "eval A/success low" not in found
    success = {series.name: series for series in found["success"].series}
    assert len({point.split(",")[1] for point in success["A (held out)"].line.split()}) == 2
    lower, upper = found["seconds of a step"].series
    assert [(series.name, series.last) for series in (lower, upper)] == [("generation", "3.00"), ("other", "1.00")]
    heights = {label: y for y, label in found["seconds of a step"].rules}
    assert (lower.dots[0].y, upper.dots[0].y) == (heights["3"], heights["4"])
    assert upper.area.endswith(" ".join(reversed(lower.line.split())))
