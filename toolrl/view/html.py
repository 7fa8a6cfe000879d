"""Trajectories as HTML: one for a notebook, a table of them, and a file to share.

All of it is readable without scripts; a table needs its script to sort, filter and open rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from toolrl.trajectory import Trajectory
from toolrl.view.rendering import content_security_policy, render
from toolrl.view.text import TextLimits
from toolrl.view.tokens import Vocabulary, token_count, token_sections

if TYPE_CHECKING:
    from toolrl.view.collection import Trajectories

LIMITS = TextLimits()
_TOKENS = 4_000
_NOTEBOOK_ROWS = 100
_NOTEBOOK_BYTES = 100_000
_NOTEBOOK_TEXTS = TextLimits(folded=20_000)
# Columns of a table: title, field, whether it is a number, whether a phone hides it.
TABLE_COLUMNS = (
    ("reward", "reward", True, False), ("advantage", "advantage", True, True), ("pass rate", "pass_rate", True, True),
    ("turns", "turns", True, True), ("calls", "calls", True, False), ("tokens", "tokens", True, True),
    ("time", "seconds", True, True), ("stop", "stop", False, True), ("mode", "mode", False, True),
    ("step", "step", True, False),
)  # fmt: skip
# Those of a page of its own.
_PAGE_COLUMNS = (
    ("run", "run", False, True), ("environment", "env", False, True), ("kind", "kind", False, True), *TABLE_COLUMNS,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment of the timing bar; `start` and `width` are in thousandths of the episode's time."""

    kind: str
    title: str
    start: float
    width: float
    seconds: float


def timing(trajectory: Trajectory) -> list[Segment]:
    """Generation, and tools or the user, turn by turn, and the rest of the episode's time."""
    spent = [
        (kind, f"turn {number}, {'user' if kind == 'tools' and turn.reply is not None else kind}", seconds)
        for number, turn in enumerate(trajectory.turns, 1)
        for kind, seconds in (("generation", turn.generation_seconds), ("tools", turn.tool_seconds))
        if seconds > 0
    ]
    total = max(trajectory.seconds, sum(seconds for _, _, seconds in spent))
    segments, start = [], 0.0
    for kind, title, seconds in spent:
        width = 1000 * seconds / total
        segments.append(Segment(kind, title, start, width, seconds))
        start += width
    if start < 1000 and total:
        segments.append(Segment("other", "the rest", start, 1000 - start, total * (1000 - start) / 1000))
    return segments


def trajectory_html(
    trajectory: Trajectory,
    *,
    advantage: float | None = None,
    vocabulary: Vocabulary | None = None,
    limits: TextLimits = LIMITS,
    tokens: bool = True,
    links: Any = None,
) -> Markup:
    """One trajectory, without a style sheet: its outcome, turns and tokens.

    Args:
        trajectory: The trajectory.
        advantage: Its reward relative to its group's, if known.
        vocabulary: The texts of its tokens; without it their ids are shown.
        limits: How much of each text is shown.
        tokens: Whether to show its tokens.
        links: Makes links to omitted texts and tokens (`toolrl.view.server`); None in a notebook, which has no server.
    """
    return render(
        "trajectory_fragment.html",
        trajectory=trajectory,
        advantage=advantage,
        timing=timing(trajectory),
        limits=limits,
        links=links,
        sections=list(token_sections(trajectory, vocabulary, advantage, count=_TOKENS)) if tokens else [],
        tokens_left_out=max(0, token_count(trajectory) - _TOKENS),
        has_texts=vocabulary is not None,
    )


def notebook_html(trajectory: Trajectory, **options: Any) -> str:
    """One trajectory with its style sheet, for a notebook; `options` are those of `trajectory_html`."""
    options = {"limits": _NOTEBOOK_TEXTS, **options}
    return render("notebook.html", body=trajectory_html(trajectory, **options))


@dataclass(frozen=True, slots=True, repr=False)
class TrajectoryDisplay:
    """A trajectory with the facts that only its run knows, to show in a notebook.

    Attributes:
        trajectory: The trajectory.
        advantage: Its reward relative to its group's.
        file: The file it is from; the run's tokenizer gives the texts of its tokens.
    """

    trajectory: Trajectory
    advantage: float | None
    file: Path

    def __repr__(self) -> str:
        return f"TrajectoryDisplay({self.trajectory.id!r})"

    def _repr_html_(self) -> str:
        advantage = self.advantage if self.trajectory.score.value is not None else None
        return notebook_html(self.trajectory, advantage=advantage, vocabulary=Vocabulary.of_run(self.file.parent))


def table_rows(trajectories: Trajectories) -> list[dict[str, Any]]:
    """The rows of a table; unscored trajectories have no advantage."""
    fields = ["id", "run", "env", "task", "kind", "prompt", "success", *(field for _, field, _, _ in TABLE_COLUMNS)]
    rows: list[dict[str, Any]] = trajectories.table.select(fields).to_pylist()
    for row in rows:
        if row["reward"] is None:
            row["advantage"] = None
    return rows


def page_html(trajectories: Trajectories, title: str, *, about: str = "", limit_bytes: int = 0, **options: Any) -> str:
    """Trajectories as one self-contained page: a table that sorts and filters, and whose rows open.

    What all rows share is said once, above it.

    Args:
        trajectories: The trajectories.
        title: The title of the page.
        about: A line below the title.
        limit_bytes: Rows beyond this size of the page do not open; 0 for no limit.
        options: Those of `trajectory_html`, except `vocabulary`: each run has its own.
    """
    rows = table_rows(trajectories)
    vocabularies = {run: Vocabulary.of_run(file.parent) for run, file in trajectories.files.items()}
    bodies, written = [], 0
    for row, trajectory in zip(rows, trajectories, strict=True):
        if limit_bytes and written > limit_bytes:
            break
        bodies.append(
            trajectory_html(trajectory, advantage=row["advantage"], vocabulary=vocabularies[row["run"]], **options)
        )
        written += len(bodies[-1])
    told_apart = {field for _, field, _, _ in _PAGE_COLUMNS if len({row[field] for row in rows}) > 1 or len(rows) < 2}
    return render(
        "export.html",
        title=title,
        about=about,
        rows=rows,
        bodies=bodies,
        columns=[column for column in _PAGE_COLUMNS if column[1] in told_apart],
        shared=[
            column for column in _PAGE_COLUMNS if column[1] not in told_apart and rows[0][column[1]] not in (None, "")
        ],
        policy=content_security_policy(served=False),
    )


def table_html(trajectories: Trajectories) -> str:
    """Trajectories as a table for a notebook, in a sandboxed frame.

    It has the first 100; only the first 100 kB of rows open, since a notebook stores what it shows.
    """
    shown = trajectories[:_NOTEBOOK_ROWS]
    about = f"the first {len(shown):,} of {len(trajectories):,}" if len(shown) < len(trajectories) else ""
    page = page_html(shown, "Episodes", about=about, limit_bytes=_NOTEBOOK_BYTES, limits=_NOTEBOOK_TEXTS, tokens=False)
    return render("notebook_table.html", page=quoted(page), summary=repr(trajectories).strip("<>"))


def quoted(page: str) -> Markup:
    """For an attribute in single quotes, where only these two must be escaped; all others would weigh half again."""
    return Markup(str(page).replace("&", "&amp;").replace("'", "&#39;"))


def write_page(trajectories: Trajectories, path: Path, title: str, about: str = "") -> int:
    """Write `page_html` to a file, and return its size in bytes.

    Raises:
        OSError: The file cannot be written.
    """
    page = page_html(trajectories, title, about=about).encode("utf-8", "backslashreplace")
    path.write_bytes(page)
    return len(page)
