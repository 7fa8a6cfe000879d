"""All rollouts of a task side by side, two runs on the same tasks, and two episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow
import pyarrow.compute as pc
from starlette.requests import Request
from starlette.responses import Response

from toolrl.errors import ConfigError, QueryError
from toolrl.trajectory import Trajectory
from toolrl.view.diff import diff_trajectories
from toolrl.view.html import calls_of
from toolrl.view.server.answers import answer, run_of, runs_of, whole_number
from toolrl.view.server.pages import PAGE_ROWS, find, rows_of
from toolrl.view.server.runs import Run
from toolrl.view.text import call_parts

_CARDS = 64
_CARD_CHARACTERS = 240
_CARD_TURNS = 12


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a card: what was said or called, and what came back."""

    is_call: bool
    text: str
    gave: str
    failure: str


def group_page(request: Request) -> Response:
    """All rollouts of a task, those that were trained on together side by side."""
    run = run_of(request)
    env, task = request.query_params.get("env", ""), request.query_params.get("task", "")
    found = run.of_task(env, task)
    start = whole_number(request, "start", 0)
    shown = found.sort("step")[start : start + _CARDS]
    facts = shown.table.select(["mode", "group", "step"]).to_pylist()
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row, fact, trajectory in zip(rows_of(shown), facts, shown, strict=True):
        card = {"row": row, "trajectory": trajectory, "lines": _lines(trajectory)}
        groups.setdefault((fact["mode"], fact["step"], fact["group"]), []).append(card)
    for cards in groups.values():
        cards.sort(key=lambda card: (card["row"]["reward"] is None, -(card["row"]["reward"] or 0.0)))
    return answer(
        request,
        "group.html",
        run=run,
        env=env,
        task=task,
        question=shown.table["prompt"][0].as_py(),
        groups=groups,
        count=len(found),
        start=start,
        end=start + len(shown),
        pass_rate=found.table["pass_rate"].to_pylist()[0],
    )


def compare_page(request: Request) -> Response:
    """Two sets of episodes, of two runs or of one, task by task."""
    runs = runs_of(request)
    names = list(runs.by_name)
    given = request.query_params
    a, b = runs[given.get("a") or names[0]], runs[given.get("b") or names[min(1, len(names) - 1)]]
    a_where, b_where = given.get("aw"), given.get("bw")
    if a is b and a_where is None and b_where is None:
        a_where, b_where = "mode == 'before'", "mode == 'after'"
    a_where, b_where = a_where or "", b_where or ""
    paired, mistake = None, ""
    try:
        paired = runs.pair(a, a_where, b, b_where)
    except (ConfigError, QueryError) as error:
        mistake = str(error)
    rows, pages, number, envs = [], 1, 1, []
    if paired is not None:
        frame = paired.frame.sort_values(
            ["difference", "env", "task"], ascending=[given.get("order") == "losses", True, True]
        )
        if given.get("order") not in ("losses", "wins"):
            frame = frame.sort_values("difference", key=abs, ascending=False, kind="stable")
        pages = max(1, -(-len(frame) // PAGE_ROWS))
        number = max(1, min(whole_number(request, "page", 1), pages))
        rows = frame.iloc[(number - 1) * PAGE_ROWS : number * PAGE_ROWS].to_dict("records")
        questions = _questions(a, [row["task"] for row in rows])
        rows = [{**row, "question": questions.get((row["env"], row["task"]), "")} for row in rows]
        by_env = paired.frame.groupby("env", sort=True)
        envs = by_env.agg(
            tasks=("task", "size"),
            success_a=("success_a", "mean"),
            success_b=("success_b", "mean"),
            wins=("difference", lambda column: int((column > 0).sum())),
            losses=("difference", lambda column: int((column < 0).sum())),
        )
        envs = envs.reset_index().to_dict("records")
    return answer(
        request,
        "compare.html",
        names=names,
        a=a,
        b=b,
        a_where=a_where,
        b_where=b_where,
        order=given.get("order", ""),
        paired=paired,
        mistake=mistake,
        rows=rows,
        envs=envs,
        page=number,
        pages=pages,
    )


def diff_page(request: Request) -> Response:
    """Two episodes: of the ids that are given, or the first that each side has of a task."""
    runs, given = runs_of(request), request.query_params
    sides = []
    for side in ("a", "b"):
        run = runs[given.get(side) or next(iter(runs.by_name))]
        id = given.get(f"{side}_id")
        if not id:
            found = run.of_task(given.get("env", ""), given.get("task", ""), given.get(f"{side}w", ""))
            id = str(found.table["id"][0].as_py())
        sides.append((run, *find(run, id)))
    (run_a, a, row_a), (run_b, b, row_b) = sides
    diff = diff_trajectories(a, b)
    return answer(
        request,
        "diff.html",
        a=a,
        b=b,
        run_a=run_a,
        run_b=run_b,
        row_a=row_a,
        row_b=row_b,
        diff=diff,
        token_a=_token(run_a, a, diff.first_difference),
        token_b=_token(run_b, b, diff.first_difference),
    )


def _questions(run: Run, tasks: list[str]) -> dict[tuple[str, str], str]:
    """What some tasks ask, by environment and task."""
    episodes = run.trajectories()
    if episodes is None:
        return {}
    table = episodes.table.select(["env", "task", "prompt"])
    found = table.filter(pc.is_in(table["task"], pyarrow.array(tasks, pyarrow.string()))).to_pylist()
    return {(row["env"], row["task"]): row["prompt"] for row in found}


def _token(run: Run, trajectory: Trajectory, place: int | None) -> dict[str, Any] | None:
    if place is None:
        return None
    token = trajectory.completion_ids[place]
    return {
        "id": token,
        "text": run.vocabulary.text(token) if run.vocabulary else "",
        "logprob": trajectory.logprobs[place] if trajectory.mask[place] else None,
    }


def _lines(trajectory: Trajectory) -> list[Line]:
    lines = []
    for number, turn in enumerate(trajectory.turns[:_CARD_TURNS]):
        if turn.message.content.strip():
            lines.append(Line(False, _short(turn.message.content), "", ""))
        for view in calls_of(turn, number):
            if view.call.error:
                text = view.call.raw
            else:
                parts = call_parts(view.call)
                text = "\n".join([parts.line, *(block for _, block in parts.blocks)])
            gave = view.result.content if view.result else ""
            failure = str(view.result.failure) if view.result and view.result.failure else ""
            lines.append(Line(True, _short(text), _short(gave), failure))
    if len(trajectory.turns) > _CARD_TURNS:
        lines.append(Line(False, f"... {len(trajectory.turns) - _CARD_TURNS} further turns", "", ""))
    return lines


def _short(text: str) -> str:
    return text if len(text) <= _CARD_CHARACTERS else f"{text[:_CARD_CHARACTERS]} ..."
