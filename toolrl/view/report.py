"""The report of an agent as figures and as one page to share, on which each number opens episodes that stand for it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolrl.evaluation.report import AgentReport, report
from toolrl.view.figures import reliability_figure, success_figure
from toolrl.view.html import quoted, trajectory_html
from toolrl.view.plots import NotebookFigure
from toolrl.view.rendering import content_security_policy, render
from toolrl.view.tokens import Vocabulary

if TYPE_CHECKING:
    from toolrl.view.collection import Trajectories


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
        return render("notebook_table.html", page=quoted(self.page_html(episodes=False)), summary=self.report.name)

    def figures(self) -> dict[str, NotebookFigure]:
        """Figures by title: success with intervals; where answers state a confidence, reliability and abstention."""
        found: dict[str, NotebookFigure] = {"success": success_figure(self.report)}
        if self.report.calibration:
            found["reliability"] = reliability_figure(self.report)
        return found

    def page_html(self, *, episodes: bool = True) -> str:
        """One self-contained page, readable without scripts; `episodes` puts some that stand for each number on it."""
        names = {id for line in self.report.lines for id in (*line.wrong, *line.right)} if episodes else set()
        vocabularies = {run: Vocabulary.of_run(file.parent) for run, file in self.episodes.files.items()}
        rows = self.episodes.table.select(["id", "run", "prompt", "reward", "advantage"]).to_pylist()
        shown: dict[str, Mapping[str, Any]] = {}
        for place, row in enumerate(rows if names else ()):
            if row["id"] in names and row["id"] not in shown:
                body = trajectory_html(self.episodes[place], vocabulary=vocabularies[row["run"]], tokens=False)
                shown[row["id"]] = {**row, "body": body, "anchor": f"episode-{len(shown)}"}
        images = {title: base64.b64encode(figure._repr_png_()).decode() for title, figure in self.figures().items()}
        return render(
            "report.html",
            title=self.report.name,
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
