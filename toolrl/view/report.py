"""The report of an agent as figures and as one page to share, on which each number opens episodes that stand for it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from toolrl.evaluation import short_name
from toolrl.evaluation.report import AgentReport, report
from toolrl.view.html import trajectory_html
from toolrl.view.plots import NotebookFigure
from toolrl.view.rendering import content_security_policy, render
from toolrl.view.tokens import Vocabulary

if TYPE_CHECKING:
    from toolrl.view.collection import Trajectories

_GREY = "0.6"


@dataclass(frozen=True, slots=True, repr=False)
class ReportDisplay:
    """A report with the episodes that it is about, to print, to show in a notebook, and to write as a page.

    Attributes:
        report: The numbers.
        episodes: The episodes.
    """

    report: AgentReport
    episodes: Trajectories

    def __repr__(self) -> str:
        return f"ReportDisplay({self.report.name!r}, {len(self.episodes):,} episodes)"

    def _repr_html_(self) -> str:
        # Without episodes, since a notebook stores what it shows.
        return render("notebook_table.html", page=self.page_html(episodes=False), summary=self.report.name)

    def figures(self) -> dict[str, Figure]:
        """Figures by title: success with intervals; where answers state a confidence, reliability and abstention."""
        found: dict[str, Figure] = {"success": success_figure(self.report)}
        if self.report.calibration:
            found["reliability"] = reliability_figure(self.report)
        return found

    def page_html(self, *, episodes: bool = True) -> str:
        """One self-contained page, readable without scripts; with `episodes`, each number has some that stand for it."""
        names = {id for line in self.report.lines for id in (*line.wrong, *line.right)} if episodes else set()
        vocabularies = {run: Vocabulary.of_run(file.parent) for run, file in self.episodes.files.items()}
        rows = self.episodes.table.select(["id", "run", "prompt", "reward", "advantage"]).to_pylist()
        shown: dict[str, Mapping[str, Any]] = {}
        for place, row in enumerate(rows if names else ()):
            if row["id"] in names and row["id"] not in shown:
                body = trajectory_html(self.episodes[place], vocabulary=vocabularies[row["run"]], tokens=False)
                shown[row["id"]] = {**row, "body": body, "anchor": f"episode-{len(shown)}"}
        images = {
            title: base64.b64encode(figure._repr_png_()).decode()
            for title, figure in self.figures().items()
            if isinstance(figure, NotebookFigure)
        }
        return render(
            "report.html",
            report=self.report,
            about=f"{len(self.episodes):,} episodes",
            shown=shown,
            images=images,
            ks=sorted({k for line in self.report.lines for k in line.pass_at})[1:],
            policy=content_security_policy(served=False),
        )

    def write(self, path: Path) -> int:
        """Write the page to a file, and return its size in bytes.

        Raises:
            OSError: The file cannot be written.
        """
        page = self.page_html().encode("utf-8", "backslashreplace")
        path.write_bytes(page)
        return len(page)


def report_on(episodes: Trajectories, *, name: str = "", by: tuple[str, ...] = ()) -> ReportDisplay:
    """Report on episodes; `by` names fields, recorded facts or expressions whose values are parts.

    Raises:
        ConfigError: There are no episodes.
        QueryError: `by` cannot be understood.
    """
    frame = episodes.to_pandas()
    for column in by:
        if column not in frame:
            frame[column] = episodes.column(column).to_pandas()
    return ReportDisplay(report(frame, name=name or "+".join(episodes.files), by=by), episodes)


def success_figure(found: AgentReport) -> Figure:
    """Success with its interval, of each environment and part."""
    lines = [line for line in found.lines if line.success is not None]
    figure = NotebookFigure(figsize=(7, 1.0 + 0.28 * max(1, len(lines))), layout="constrained")
    axis = figure.subplots()
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
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def reliability_figure(found: AgentReport) -> Figure:
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
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    left.legend(fontsize=8, frameon=False)
    return figure
