"""Figures of evaluations: reports, comparisons, the arena, tool need, thinking. Each is a matplotlib `Figure`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolrl.evaluation import Arena, Counterfactuals, Thinking, short_name
from toolrl.evaluation.report import AgentReport
from toolrl.view.plots import NotebookFigure

_GREY = "0.6"


def success_figure(found: AgentReport) -> NotebookFigure:
    """Success with its interval, of each environment and part."""
    lines = [line for line in found.lines if line.success is not None]
    figure, axis = _figure(1.0 + 0.28 * max(1, len(lines)))
    envs = list(dict.fromkeys(line.env for line in lines))
    for place, line in enumerate(lines):
        low, high = line.interval
        colour = f"C{envs.index(line.env)}"
        axis.plot([low, high], [place, place], color=colour, linewidth=2 if line.is_whole else 1)
        axis.plot([line.success or 0.0], [place], "o" if line.is_whole else ".", color=colour)
    axis.set_yticks(
        range(len(lines)), [short_name(line.env) if line.is_whole else f"{line.part}  " for line in lines], fontsize=8
    )
    axis.invert_yaxis()
    axis.set_xlim(-0.02, 1.02)
    axis.set_xlabel("success, 95 %")
    return figure


def reliability_figure(found: AgentReport) -> NotebookFigure:
    """Accuracy over stated confidence; and the risk that is left if the least confident answers are withheld."""
    figure = NotebookFigure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], ":", color=_GREY)
    for env, one in found.calibration.items():
        most = max(bin.count for bin in one.bins)
        (line,) = left.plot(
            [bin.confidence for bin in one.bins], [bin.accuracy for bin in one.bins], "-", label=short_name(env), lw=1
        )
        left.scatter(
            [bin.confidence for bin in one.bins],
            [bin.accuracy for bin in one.bins],
            [10 + 70 * bin.count / most for bin in one.bins],
            color=line.get_color(),
        )
        right.plot(*zip(*one.risks, strict=True), color=line.get_color(), label=short_name(env))
    left.set_xlabel("stated confidence (dots: number of answers)")
    left.set_ylabel("accuracy")
    right.set_xlabel("coverage: answers that are not withheld")
    right.set_ylabel("risk: share of wrong answers")
    for axis in (left, right):
        axis.set_xlim(-0.02, 1.02)
        axis.set_ylim(-0.02, 1.02)
        _plain(axis)
    left.legend(fontsize=8, frameon=False)
    return figure


def need_figure(found: Counterfactuals, *, before: Counterfactuals | None = None) -> NotebookFigure:
    """Success under each condition; and over-use, under-use and trust, with intervals; in grey, those of before."""
    figure = NotebookFigure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    sides = [(found, "C0", 0.0)] if before is None else [(before, _GREY, -0.12), (found, "C0", 0.12)]
    for side, colour, offset in sides:
        success = {name: (report.success, report.success_interval) for name, report in side.reports.items()}
        _intervals(left, success, colour=colour, offset=offset)
        shares = {"need": side.need, "over-use": side.over_use, "under-use": side.under_use, "trust": side.trust}
        known = {name: (share.value, share.interval) for name, share in shares.items()}
        _intervals(right, known, colour=colour, offset=offset)
    left.set_xlabel("success, 95 %")
    right.set_xlabel("share of tasks, 95 %")
    return figure


def pareto_figure(found: Thinking) -> NotebookFigure:
    """Success over the tokens that were spent; the line joins those that no other way to think beats in both."""
    figure, axis = _figure(3.6)
    best = sorted((mode.tokens, mode.success or 0.0) for mode in found.modes if mode.is_best)
    axis.step(*zip(*best, strict=True), where="post", color=_GREY, linewidth=1)
    for place, mode in enumerate(found.modes):
        low, high = mode.interval
        axis.plot([mode.tokens] * 2, [low, high], color=f"C{place}", linewidth=1)
        axis.plot([mode.tokens], [mode.success or 0.0], "o", color=f"C{place}", label=mode.name)
    axis.set_xlabel("sampled tokens of an episode")
    axis.set_ylabel("success, 95 %")
    axis.set_ylim(-0.02, 1.02)
    axis.legend(title="thinking", fontsize=8, frameon=False)
    return figure


def arena_figure(found: Arena) -> NotebookFigure:
    """Ratings with their intervals, the strongest first."""
    figure, axis = _figure(1.0 + 0.35 * len(found.standings))
    rows = found.standings
    _intervals(axis, {row.name: (row.strength, row.interval) for row in rows}, share=False)
    axis.set_xlabel("rating, 95 %")
    return figure


def _intervals(
    axis: Any,
    values: Mapping[str, tuple[float | None, tuple[float, float]]],
    *,
    share: bool = True,
    colour: str = "C0",
    offset: float = 0.0,
) -> None:
    """A line with a dot for each name, from top to bottom; nothing for a value that is unknown."""
    for place, (value, (low, high)) in enumerate(values.values()):
        if value is not None:
            axis.plot([low, high], [place + offset] * 2, color=colour, linewidth=1.5)
            axis.plot([value], [place + offset], "o", color=colour, markersize=5)
    axis.set_yticks(range(len(values)), list(values))
    axis.set_ylim(len(values) - 0.5, -0.5)
    if share:
        axis.set_xlim(-0.02, 1.02)
    _plain(axis)


def _figure(height: float) -> tuple[NotebookFigure, Any]:
    figure = NotebookFigure(figsize=(7, height), layout="constrained")
    axis = figure.subplots()
    _plain(axis)
    return figure, axis


def _plain(axis: Any) -> None:
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
