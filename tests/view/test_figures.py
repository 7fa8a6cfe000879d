"""Promises about figures of evaluations: they show every side, condition and way to think, and draw as images."""

from __future__ import annotations

import pandas

from tests.evaluation.test_counterfactuals import honest, measure, under_user
from toolrl.evaluation import arena, compare
from toolrl.evaluation.thinking import Mode, Thinking
from toolrl.view.figures import arena_figure, need_figure, pareto_figure

SIDES = {
    name: pandas.DataFrame({"env": "a/B-v0", "task": [f"t{n}" for n in range(9)], "reward": values, "success": True})
    for name, values in (("one", [0.0] * 9), ("two", [1.0] * 5 + [0.0] * 4))
}


def labels(axis: object) -> list[str]:
    return [label.get_text() for label in axis.get_yticklabels()]  # type: ignore[attr-defined]


def test_an_arena_shows_its_sides_in_their_order() -> None:
    figure = arena_figure(arena(SIDES))
    assert labels(figure.axes[0]) == ["two", "one"]
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_need_shows_every_condition_and_share_even_where_one_is_unknown() -> None:
    for agent in (honest, under_user):
        figure = need_figure(measure(agent))
        assert labels(figure.axes[0]) == ["tools", "none", "empty", "random", "hostile", "broken"]
        assert labels(figure.axes[1]) == ["need", "over-use", "under-use", "trust"]
        assert figure._repr_png_().startswith(b"\x89PNG")


def test_need_before_is_drawn_beside_need_after() -> None:
    figure = need_figure(measure(honest), before=measure(under_user))
    colours = [str(line.get_color()) for line in figure.axes[1].get_lines()]
    assert colours.count("C0") == 8
    assert len(colours) == 8 + 6  # nothing was trusted before, since nothing was asked


def test_a_pareto_front_joins_what_nothing_beats() -> None:
    modes = (
        Mode("off", 0.4, (0.3, 0.5), 10.0, 0.0, 0.0, 0.0, is_best=True),
        Mode("64", 0.3, (0.2, 0.4), 80.0, 1.0, 0.0, 0.0),
        Mode("on", 0.8, (0.7, 0.9), 300.0, 1.0, 0.0, 0.0, is_best=True),
    )
    figure = pareto_figure(Thinking("a/B-v0", modes, compare(SIDES), compare(SIDES)))
    (front, *_) = figure.axes[0].get_lines()
    assert list(front.get_xdata()) == [10.0, 300.0]
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["off", "64", "on"]
