"""Pages that show: the list of runs, a run, a trajectory, its longer texts and its tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
from starlette.requests import Request
from starlette.responses import Response

from toolrl.errors import ConfigError, QueryError, UserError
from toolrl.trajectory import Trajectory
from toolrl.view.heat import heat_map
from toolrl.view.html import TABLE_COLUMNS, table_rows, trajectory_html
from toolrl.view.metrics import HEIGHT, WIDTH, panels
from toolrl.view.server.responses import Links, respond, run_of, runs_of, whole_number
from toolrl.view.server.runs import Matches, Run
from toolrl.view.text import argument_text
from toolrl.view.tokens import token_count, token_sections

PAGE_ROWS = 50
_PIECE = 200_000
_TOKENS = 4_000
_FACET_VALUES = 6


@dataclass(frozen=True, slots=True)
class Facet:
    """A value of a field, its count, and the query that matches it."""

    value: str
    count: int
    where: str


def run_list(request: Request) -> Response:
    """All runs, each with its current statistics."""
    runs = runs_of(request)
    version = ".".join(run.version for run in runs.by_name.values())
    if request.query_params.get("known") == version:
        return Response(status_code=304)
    return respond(request, "runs.html", version=version, runs=[_about(run) for run in runs.by_name.values()])


def run_page(request: Request) -> Response:
    """A run: its curves and the table of its episodes."""
    run = run_of(request)
    version = run.version
    if request.query_params.get("known") == version:
        return Response(status_code=304)
    where, sort = request.query_params.get("where", ""), request.query_params.get("sort", "")
    mistake = ""
    try:
        found = run.match(where, sort)
    except QueryError as error:
        found, mistake = None, str(error)
    number = whole_number(request, "page", 1)
    pages = max(1, -(-len(found) // PAGE_ROWS)) if found is not None else 1
    number = max(1, min(number, pages))
    rows = table_rows(found[(number - 1) * PAGE_ROWS : number * PAGE_ROWS]) if found is not None else []
    return respond(
        request,
        "run.html",
        run=run,
        about=_about(run),
        version=version,
        where=where,
        sort=sort,
        mistake=mistake,
        found=0 if found is None else len(found),
        rows=rows,
        columns=TABLE_COLUMNS,
        page=number,
        pages=pages,
        facets=_facets(found, where) if found is not None else {},
        panels=panels(run.metrics.refresh()),
        heat=heat_map(run.metrics.rows),
        size=(WIDTH, HEIGHT),
    )


def metrics_page(request: Request) -> Response:
    """The further curves of a run."""
    run = run_of(request)
    version = run.version
    if request.query_params.get("known") == version:
        return Response(status_code=304)
    found = panels(run.metrics.refresh(), further=True)
    return respond(request, "metrics.html", run=run, version=version, panels=found, size=(WIDTH, HEIGHT))


def trajectory_page(request: Request) -> Response:
    """One trajectory, with links to its neighbours in the table that it was opened from."""
    run = run_of(request)
    where, sort = request.query_params.get("where", ""), request.query_params.get("sort", "")
    trajectory, row = find_trajectory(run, request.query_params.get("id", ""))
    found = run.match(where, sort)
    position = found.position(row["id"]) if found is not None else None
    before = after = None
    if found is not None and position is not None:
        before, after = found.id(position - 1), found.id(position + 1)
    links = Links(run.name, row["id"], open_tokens="tokens" in request.query_params)
    return respond(
        request,
        "trajectory.html",
        run=run,
        trajectory=trajectory,
        row=row,
        where=where,
        sort=sort,
        before=before,
        after=after,
        position=position,
        count=0 if found is None else len(found),
        body=trajectory_html(trajectory, advantage=row["advantage"], vocabulary=run.vocabulary, links=links),
    )


def text_page(request: Request) -> Response:
    """A piece of a text that is too long for its trajectory's page."""
    run = run_of(request)
    trajectory, row = find_trajectory(run, request.query_params.get("id", ""))
    place = request.query_params.get("place", "")
    text = _text_at(trajectory, place)
    start = whole_number(request, "start", 0)
    end = min(len(text), start + _PIECE)
    links = Links(run.name, row["id"])
    return respond(
        request,
        "text.html",
        run=run,
        row=row,
        place=place,
        text=text[start:end],
        start=start,
        end=end,
        total=len(text),
        following=links.text(place, end) if end < len(text) else "",
    )


def tokens_page(request: Request) -> Response:
    """A stretch of tokens that are too many for their trajectory's page."""
    run = run_of(request)
    trajectory, row = find_trajectory(run, request.query_params.get("id", ""))
    start, total = whole_number(request, "start", 0), token_count(trajectory)
    links = Links(run.name, row["id"], open_tokens=True)
    return respond(
        request,
        "token_page.html",
        run=run,
        row=row,
        trajectory=trajectory,
        advantage=row["advantage"],
        sections=list(token_sections(trajectory, run.vocabulary, row["advantage"], start, _TOKENS)),
        has_texts=run.vocabulary is not None,
        tokens_left_out=0,
        links=links,
        start=start,
        end=min(total, start + _TOKENS),
        total=total,
        before=links.tokens(max(0, start - _TOKENS)) if start else "",
        after=links.tokens(start + _TOKENS) if start + _TOKENS < total else "",
    )


def find_trajectory(run: Run, id: str) -> tuple[Trajectory, dict[str, Any]]:
    """A trajectory, and its row of the table.

    Raises:
        ConfigError: No trajectory of the run has this id.
    """
    trajectories = run.trajectories()
    row = pc.index(trajectories.table["id"], id).as_py() if trajectories is not None and id else -1
    if trajectories is None or row < 0:
        raise ConfigError(f"{run.name!r} has no episode {id!r}")
    return trajectories[row], table_rows(trajectories[row : row + 1])[0]


def _about(run: Run) -> dict[str, Any]:
    """The current statistics of a run."""
    mistake = ""
    try:
        trajectories = run.trajectories()
    except UserError as error:
        trajectories, mistake = None, str(error)
    run.metrics.refresh()
    about: dict[str, Any] = {
        "mistake": mistake,
        "run": run,
        "live": run.is_live,
        "written": run.written,
        "step": run.metrics.step,
    }
    about["ago"] = time.time() - run.written if run.written else None
    about["broken"] = run.broken_lines
    about["count"] = 0 if trajectories is None else len(trajectories)
    about["unscored"] = 0 if trajectories is None else trajectories.table["reward"].null_count
    about["modes"], about["success"] = [], {}
    if trajectories is not None:
        table = trajectories.table.select(["mode", "env", "success"])
        table = table.set_column(2, "success", pc.cast(table["success"], "float64"))
        found = table.group_by(["mode", "env"], use_threads=False).aggregate([("success", "mean"), ("env", "count")])
        for row in found.to_pylist():
            mode = row["mode"] or "episodes"
            if mode not in about["modes"]:
                about["modes"].append(mode)
            about["success"].setdefault(row["env"], {})[mode] = (row["success_mean"], row["env_count"])
    return about


def _facets(found: Matches, where: str) -> dict[str, list[Facet]]:
    return {
        field: [Facet(str(value), count, _and(where, field, value)) for value, count in counts[:_FACET_VALUES]]
        for field, counts in found.facets.items()
        if len(counts) > 1
    }


def _and(where: str, field: str, value: Any) -> str:
    if value is None:
        condition = f"{field} is None"
    else:
        condition = f"{field} == {int(value) if isinstance(value, bool) else repr(value)}"
    if not where.strip():
        return condition
    return f"({where}) and {condition}" if " or " in where else f"{where} and {condition}"


def _text_at(trajectory: Trajectory, place: str) -> str:
    """A text of a trajectory, by the name that `trajectory_fragment.html` gives it."""
    kind, *at = place.split(".", 3)
    try:
        if kind == "prompt":
            return trajectory.prompt[int(at[0])].content
        if kind == "answer":
            return trajectory.score.answer or ""
        if kind == "error":
            return trajectory.error
        turn = trajectory.turns[int(at[0])]
        if kind in ("thinking", "content"):
            return turn.message.thinking if kind == "thinking" else turn.message.content
        if kind == "reply":
            return turn.reply or ""
        call, result = turn.calls[int(at[1])]
        if kind == "raw":
            return call.raw
        if kind == "argument":
            return argument_text(call.arguments[at[2]])
        if kind == "output" and result is not None:
            return result.content
    except (IndexError, KeyError, ValueError):
        pass
    raise ConfigError(f"the episode has no text {place!r}")
