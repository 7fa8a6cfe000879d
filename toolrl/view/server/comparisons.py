"""Pages that compare: all rollouts of a task, two runs on the same tasks, two episodes."""

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
from toolrl.view.html import table_rows
from toolrl.view.server.pages import PAGE_ROWS, find_trajectory
from toolrl.view.server.responses import respond, run_of, runs_of, whole_number
from toolrl.view.server.runs import Run
from toolrl.view.text import call_parts

_CARDS = 64
_CARD_CHARACTERS = 240
_CARD_TURNS = 12


@dataclass(frozen=True, slots=True)
class CardLine:
    """A line of a card: a message, or a call with its output."""

    is_call: bool
    text: str
    output: str
    failure: str


def group_page(request: Request) -> Response:
    """All rollouts of a task, by the group they were trained in."""
    run = run_of(request)
    env, task = request.query_params.get("env", ""), request.query_params.get("task", "")
    found = run.of_task(env, task)
    start = whole_number(request, "start", 0)
    shown = found.sort("step")[start : start + _CARDS]
    facts = shown.table.select(["mode", "group", "step"]).to_pylist()
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row, fact, trajectory in zip(table_rows(shown), facts, shown, strict=True):
        card = {"row": row, "trajectory": trajectory, "lines": _lines(trajectory)}
        groups.setdefault((fact["mode"], fact["step"], fact["group"]), []).append(card)
    for cards in groups.values():
        cards.sort(key=lambda card: (card["row"]["reward"] is None, -(card["row"]["reward"] or 0.0)))
    return respond(
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
    """Two sets of episodes, of one run or two, task by task."""
    runs = runs_of(request)
    names = list(runs.by_name)
    given = request.query_params
    a, b = runs[given.get("a") or names[0]], runs[given.get("b") or names[min(1, len(names) - 1)]]
    a_where, b_where = given.get("aw"), given.get("bw")
    if a is b and a_where is None and b_where is None:
        a_where, b_where = "mode == 'before'", "mode == 'after'"
    a_where, b_where = a_where or "", b_where or ""
    mistake, differences, rows, pages, number = "", [], [], 1, 1
    try:
        success, reward = (runs.compare(a, a_where, b, b_where, value) for value in ("success", "reward"))
    except (ConfigError, QueryError) as error:
        mistake = str(error)
    else:
        differences = list(zip(success.differences, reward.differences, strict=True))
        frame = success.tasks.merge(reward.tasks, on=["env", "task"], suffixes=("", " reward"))
        if given.get("order") in ("losses", "wins"):
            frame = frame.sort_values(
                ["difference", "env", "task"], ascending=[given.get("order") == "losses", True, True]
            )
        pages = max(1, -(-len(frame) // PAGE_ROWS))
        number = max(1, min(whole_number(request, "page", 1), pages))
        rows = frame.iloc[(number - 1) * PAGE_ROWS : number * PAGE_ROWS].to_dict("records")
        questions = _questions(a, [row["task"] for row in rows])
        rows = [{**row, "question": questions.get((row["env"], row["task"]), "")} for row in rows]
    return respond(
        request,
        "compare.html",
        names=names,
        a=a,
        b=b,
        a_where=a_where,
        b_where=b_where,
        order=given.get("order", ""),
        differences=differences,
        mistake=mistake,
        rows=rows,
        page=number,
        pages=pages,
    )


def diff_page(request: Request) -> Response:
    """Two episodes: those with the given ids, or each side's first of a task."""
    runs, given = runs_of(request), request.query_params
    sides = []
    for side in ("a", "b"):
        run = runs[given.get(side) or next(iter(runs.by_name))]
        id = given.get(f"{side}_id")
        if not id:
            found = run.of_task(given.get("env", ""), given.get("task", ""), given.get(f"{side}w", ""))
            id = str(found.table["id"][0].as_py())
        sides.append((run, *find_trajectory(run, id)))
    (run_a, a, row_a), (run_b, b, row_b) = sides
    diff = diff_trajectories(a, b)
    return respond(
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
    """The questions of some tasks, by environment and task."""
    trajectories = run.trajectories()
    if trajectories is None:
        return {}
    table = trajectories.table.select(["env", "task", "prompt"])
    found = table.filter(pc.is_in(table["task"], pyarrow.array(tasks, pyarrow.string()))).to_pylist()
    return {(row["env"], row["task"]): row["prompt"] for row in found}


def _token(run: Run, trajectory: Trajectory, position: int | None) -> dict[str, Any] | None:
    if position is None:
        return None
    token = trajectory.completion_ids[position]
    return {
        "id": token,
        "text": run.vocabulary.text(token) if run.vocabulary else "",
        "logprob": trajectory.logprobs[position] if trajectory.mask[position] else None,
    }


def _lines(trajectory: Trajectory) -> list[CardLine]:
    lines = []
    for turn in trajectory.turns[:_CARD_TURNS]:
        if turn.message.content.strip():
            lines.append(CardLine(False, _short(turn.message.content), "", ""))
        for call, result in turn.calls:
            if call.error:
                text = call.raw
            else:
                parts = call_parts(call)
                text = "\n".join([parts.line, *(block for _, block in parts.blocks)])
            output = result.content if result else ""
            failure = str(result.failure) if result and result.failure else ""
            lines.append(CardLine(True, _short(text), _short(output), failure))
        if turn.reply:
            lines.append(CardLine(False, f"user: {_short(turn.reply)}", "", ""))
    if len(trajectory.turns) > _CARD_TURNS:
        lines.append(CardLine(False, f"... {len(trajectory.turns) - _CARD_TURNS} more turns", "", ""))
    return lines


def _short(text: str) -> str:
    return text if len(text) <= _CARD_CHARACTERS else f"{text[:_CARD_CHARACTERS]} ..."
