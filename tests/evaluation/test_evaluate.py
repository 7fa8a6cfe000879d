"""Promises about evaluation: an oracle is correct, unscored episodes are not counted, and tables show the results."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Any

import numpy
import pytest
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedTokenizerFast

from toolrl import Message, Renderer, Sample, Task, ToolCall, ToolEnv, ToolFailure, call, say
from toolrl.errors import ConfigError, InfrastructureError
from toolrl.evaluation import before_after_table, evaluate, report_table, success_interval, summarise, wilson_interval
from toolrl.evaluation.evaluate import task_info
from toolrl.policy import ScriptedPolicy
from toolrl.trajectory import Trajectory, Turn
from toolrl.types import SamplingParams, Score, StopReason, ToolResult


@pytest.fixture(scope="module")
def renderer(byte_tokenizer: PreTrainedTokenizerFast, trl_template: Callable[[str], str]) -> Renderer:
    return Renderer(byte_tokenizer, chat_template=trl_template("qwen2_5"))


def double(number: int) -> int:
    """Double a number.

    Args:
        number: It.
    """
    if number == 13:
        raise InfrastructureError("unlucky")
    return 2 * number


def make_env(numbers: range) -> ToolEnv:
    return ToolEnv(
        tasks=[
            Task(str(n), f"What is twice {n}?", str(2 * n), {"secret": n}, needs_tool=n > 9, kind="double")
            for n in numbers
        ],
        tools=[double],
        reward=lambda task, episode: float(episode.answer == task.answer),
        oracle=lambda task: [*([call("double", number=int(task.id))] if int(task.id) > 9 else []), say(task.answer)],
    )


def trajectory(
    task_id: str, value: float | None, *, needs_tool: bool | None = None, calls: tuple[str, ...] = ()
) -> Trajectory:
    failures = {"": ToolFailure.MALFORMED}
    results = tuple(ToolResult(ToolCall(name), "", failures.get(name)) for name in calls)
    stop = StopReason.FAULT if value is None else StopReason.ANSWER
    info = {} if needs_tool is None else {"needs_tool": needs_tool}
    turn = Turn(Sample([1], [0.0]), Message("assistant", ""), results)
    return Trajectory("", "env", task_id, (), [], (turn,), Score(value), stop, info=info)


def text_of(table: Table) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_an_oracle_solves_every_task(renderer: Renderer) -> None:
    report = evaluate({"env": make_env(range(5, 13))}, None, renderer, samples=2)["env"]
    assert (report.success, report.reward, report.tasks, report.samples, report.unscored) == (1.0, 1.0, 8, 16, 0)
    assert report.pass_at == {1: 1.0, 2: 1.0}
    assert (report.call_share_needed, report.call_share_needless, report.success_needless) == (1.0, 0.0, 1.0)
    assert report.calls_by_tool == {"double": 6 / 16}
    assert report.stops == {"answer": 16}


def test_an_oracles_turns_are_played_whole_whatever_a_policy_may_sample(renderer: Renderer) -> None:
    report = evaluate({"env": make_env(range(5, 8))}, None, renderer, sampling=SamplingParams(max_tokens=2))["env"]
    assert report.success == 1.0


def test_only_the_first_tasks_are_played_and_their_facts_are_recorded(renderer: Renderer) -> None:
    seen: list[Trajectory] = []
    policy = ScriptedPolicy([renderer.assistant_ids(say("2"))])
    envs = {"a": make_env(range(1, 9)), "b": make_env(range(2, 9))}
    reports = evaluate(envs, policy, renderer, tasks=3, on_trajectory=seen.append, info={"mode": "eval"})
    assert [(report.env_id, report.samples, report.success) for report in reports.values()] == [
        ("a", 3, 1 / 3),
        ("b", 3, 0.0),
    ]
    assert len({entry.id for entry in seen}) == len(seen) == 6
    assert all(entry.info == {"mode": "eval", "needs_tool": False, "kind": "double"} for entry in seen)


def test_an_infrastructure_fault_is_unscored_and_not_a_failure(renderer: Renderer, monkeypatch: Any) -> None:
    monkeypatch.setattr("asyncio.sleep", sleep_not)
    report = evaluate({"env": make_env(range(12, 15))}, None, renderer)["env"]
    assert (report.success, report.samples, report.unscored) == (1.0, 2, 1)
    assert report.stops == {"answer": 2, "fault": 1}


async def sleep_not(_: float) -> None:
    """Retry without waiting."""


@pytest.mark.parametrize("settings", [{"tasks": 0}, {"samples": 0}])
def test_an_evaluation_of_nothing_is_refused(renderer: Renderer, settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at least one task and one sample"):
        evaluate({"env": make_env(range(3))}, None, renderer, **settings)  # type: ignore[arg-type]


def test_a_summary_counts_scored_episodes_only() -> None:
    report = summarise(
        "env",
        [
            trajectory("a", 1.0, needs_tool=True, calls=("double", "double")),
            trajectory("b", 0.0, needs_tool=True),
            trajectory("c", None, needs_tool=True, calls=("double",)),
            trajectory("d", 0.5, needs_tool=False, calls=("",)),
            trajectory("e", 0.0),
        ],
    )
    assert (report.tasks, report.samples, report.unscored) == (4, 4, 1)
    assert (report.success, report.reward, report.calls) == (0.5, 0.375, 0.75)
    assert report.success_interval == wilson_interval(2, 4)
    assert report.calls_by_tool == {"(malformed)": 0.25, "double": 0.5}
    assert (report.call_share_needed, report.call_share_needless, report.success_needless) == (0.5, 1.0, 1.0)
    assert (report.failures, report.stops) == ({"malformed": 1}, {"answer": 4, "fault": 1})


def test_several_samples_of_a_task_are_not_independent_trials() -> None:
    scores = [("a", 1.0), ("a", 1.0), ("b", 0.0), ("b", 0.0), ("c", 1.0)]
    played = [trajectory(task_id, value) for task_id, value in scores]
    report = summarise("env", [*played, trajectory("c", None)])
    assert report.success_interval == success_interval([[1.0, 1.0], [0.0, 0.0], [1.0]])
    assert report.success == pytest.approx(2 / 3)
    assert report.pass_at == report.pass_all == {1: pytest.approx(2 / 3)}  # c has one scored sample


def test_a_report_without_scores_says_so() -> None:
    report = summarise("env", [trajectory("a", None)])
    assert (report.tasks, report.samples, report.unscored) == (0, 0, 1)
    assert (report.success_interval, report.pass_at, report.call_share_needed) == ((0.0, 1.0), {}, None)
    shown = text_of(report_table({"env": report}))
    assert "0.00" not in shown
    assert "1 unscored: " in shown


def test_usage_of_resources_is_added_up_and_shown_if_there_is_any() -> None:
    played = [
        replace(trajectory("a", value), usage=used)
        for value, used in ((1.0, {"dollars": 0.25}), (None, {"dollars": 1.0}))
    ]
    report = summarise("env", [*played, trajectory("b", 1.0)])
    assert report.usage == {"dollars": 1.25}
    assert "dollars 1.25" in text_of(report_table({"env": report}))
    assert "used" not in text_of(report_table({"env": summarise("env", [trajectory("b", 1.0)])}))


def cells_of(table: Table) -> list[list[str]]:
    """The rows below the header."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text_of(table).splitlines() if "│" in line]


def test_the_table_of_before_and_after_shows_both() -> None:
    before = [trajectory(str(n), float(n < 1), needs_tool=n > 1) for n in range(4)]
    after = [trajectory(str(n), 1.0, needs_tool=True, calls=("double",)) for n in range(4)]
    name = "toolrl/Double-v0"
    (row,) = cells_of(before_after_table({name: summarise(name, before)}, {name: summarise(name, after)}))
    assert row[:4] == ["Double", "4", "0.25 [0.05, 0.70]", "1.00 [0.51, 1.00]"]
    assert row[4:] == ["0.00 → 1.00", "0.00 → 1.00", "0.00 → -", "0.50 → -"]


def test_the_table_of_a_report_has_a_column_for_each_k() -> None:
    played = [trajectory(str(n), value, calls=("double",)) for n in range(3) for value in (1.0, 0.0, 0.0, 0.0)]
    report = summarise("env", played)
    (row,) = cells_of(report_table({"env": report}))
    assert report.pass_at == {1: 0.25, 2: 0.5, 4: 1.0}
    assert report.pass_all == {1: 0.25, 2: 0.0, 4: 0.0}
    assert row == [
        "env",
        "12",
        "0.25 [0.09, 0.53]",
        "0.50",
        "1.00",
        "0.00",
        "0.00",
        "0.25",
        "double 1.00",
        "-",
        "-",
        "0",
    ]


def test_facts_of_a_task_are_recorded_as_plain_values_and_its_secrets_are_not() -> None:
    class Level(Enum):
        HARD = "hard"

    metadata = {
        "level": Level.HARD, "type": numpy.int64(4), "topic": "x" * 1000, "kind": {"a": 1}, "steps": 2**60,
        "hops": float("nan"), "solution": "42", "SQL": "select 1", "_author": "me", "hint": "A", "colour": "blue",
        "price": 2.5, "step": 4,
    }  # fmt: skip
    facts = task_info(Task("t", "p", "a", metadata, needs_tool=numpy.bool_(True), difficulty=numpy.int64(3)))
    assert facts == {"difficulty": 3, "level": "hard", "needs_tool": True, "type": 4, "colour": "blue", "price": 2.5}
    assert json.loads(json.dumps(facts)) == facts


def test_the_runs_info_takes_precedence_over_a_tasks_fact_of_the_same_name() -> None:
    seen: list[Trajectory] = []
    env = ToolEnv(
        tasks=[Task("t", "p", "a", {"source": "book"}, kind="k")],
        reward=lambda task, episode: 1.0,
        oracle=lambda task: [say("a")],
    )
    evaluate({"e": env}, None, None, tasks=1, on_trajectory=seen.append, info={"mode": "eval", "source": "run"})
    assert seen[0].info == {"mode": "eval", "source": "run", "kind": "k"}
