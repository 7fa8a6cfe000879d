"""Promises of the figures: each shows the data of its episodes, or says what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.view.conftest import append_metrics
from tests.view.episodes import episode
from toolrl import ConfigError, load
from toolrl.view.plots import plot_curves


@pytest.fixture
def run(write: Callable[..., Path]) -> Path:
    """Ten steps: in the first five, episodes fail and call tools without need; later they do not."""
    return write(
        *(
            episode(
                f"{step}-{place}",
                f"t{place}",
                float(step >= 5),
                ("python", "search") if place or step < 5 else (),
                info={"step": step, "needs_tool": bool(place)},
            )
            for step in range(10)
            for place in range(2)
        )
    )


def lines(figure: Figure) -> list[list[float]]:
    return [[float(value) for value in line.get_ydata()] for line in figure.axes[0].lines]


def test_learning_rises_within_its_band(run: Path) -> None:
    figure = load(run).plot.learning(window=1)
    assert lines(figure) == [[0.0] * 5 + [1.0] * 5]
    assert len(figure.axes[0].collections) == 1
    assert lines(load(run).plot.learning("calls", window=1)) == [[2.0] * 5 + [1.0] * 5]


def test_tool_use_has_a_line_for_tasks_that_need_a_tool_and_one_for_those_that_do_not(run: Path) -> None:
    assert lines(load(run).plot.tool_use(window=1)) == [[1.0] * 10, [1.0] * 5 + [0.0] * 5]


@pytest.mark.parametrize("name", ["parts", "lengths", "latency", "stops", "tasks", "flow"])
def test_each_figure_can_be_written(run: Path, tmp_path: Path, name: str) -> None:
    figure = getattr(load(run).plot, name)()
    figure.savefig(tmp_path / "figure.png", dpi=40)
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_a_notebook_shows_a_figure_without_pyplot(run: Path) -> None:
    assert load(run).plot.learning()._repr_png_().startswith(b"\x89PNG")


def test_the_flow_counts_transitions_between_tools(run: Path) -> None:
    axis = load(run).plot.flow().axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["start", "python", "search"]
    assert {text.get_text() for text in axis.texts} == {"1.00"}


def test_the_heat_map_has_the_hardest_task_on_top(write: Callable[..., Path]) -> None:
    run = write(
        *(
            episode(f"{task}{step}", task, float(task == "easy"), info={"step": step})
            for step in range(4)
            for task in ("easy", "hard")
        )
    )
    axis = load(run).plot.tasks().axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["hard", "easy"]
    assert [label.get_text() for label in load(run).plot.tasks(by="kind").axes[0].get_yticklabels()] == ["sum"]


def test_the_heat_map_of_evaluations_has_a_column_for_each_run_and_mode(write: Callable[..., Path]) -> None:
    run = write(
        *(
            episode(f"{mode}{task}", task, float(task == "easy" or mode == "after"), info={"mode": mode, "step": None})
            for mode in ("before", "after")
            for task in ("easy", "hard")
        )
    )
    axis = load(run).plot.tasks().axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["hard", "easy"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["after", "before"]
    assert axis.images[0].get_array().tolist() == [[1.0, 0.0], [1.0, 1.0]]
    axis = load(run).where("mode == 'after'").plot.tasks(by="kind").axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == [run.name]


def test_a_figure_without_data_is_one_clear_error(run: Path) -> None:
    episodes = load(run)
    for draw, message in (
        (lambda: episodes.plot.learning("nothing"), "unknown field 'nothing'"),
        (lambda: episodes.where("mode == 'eval'").plot.learning(), "no episode of training"),
        (lambda: episodes.where("calls == 0").plot.flow(), "no episode has a tool call"),
        (lambda: episodes.plot.tasks(by="env"), "'task' or 'kind'"),
    ):
        with pytest.raises(ConfigError, match=message):
            draw()


def test_the_curves_of_a_run_are_an_image_that_is_replaced_once_there_is_something_to_draw(tmp_path: Path) -> None:
    metrics, image = tmp_path / "metrics.jsonl", tmp_path / "curves.png"
    assert not plot_curves(metrics, image)
    metrics.write_text('{"step": 1, "loss": 0.5}\n')
    assert not plot_curves(metrics, image)
    append_metrics(tmp_path, range(2, 5))
    assert plot_curves(metrics, image)
    assert image.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.jsonl"]
