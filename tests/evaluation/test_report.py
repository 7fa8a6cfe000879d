"""Promises about reports: each number is what counting gives, and has episodes that stand for it."""

from __future__ import annotations

from typing import Any

import pandas
import pytest
from rich.console import Console

from toolrl.errors import ConfigError
from toolrl.evaluation import success_interval
from toolrl.evaluation.report import AgentReport, report


def row(id: str, task: str, reward: float | None, **more: Any) -> dict[str, Any]:
    return {
        "id": id, "env": "a/One-v0", "task": task, "success": None if reward is None else reward > 0, "reward": reward,
        "calls": 1, "failed_calls": 0, "sampled_tokens": 10, "seconds": 2.0, "turns": 2, "stop": "answer",
        "kind": "sum", "part:correct": reward, **more,
    }  # fmt: skip


EPISODES = [
    row("a1", "t1", 1.0, **{"usage:dollars": 0.5}), row("a2", "t1", 0.0, stop="turns", calls=3, failed_calls=2),
    row("b1", "t2", 1.0), row("b2", "t2", 1.0, calls=0),
    row("c1", "t3", 0.0, kind="other"), row("c2", "t3", 0.0, kind="other"),
    row("c3", "t3", None, kind="other", stop="fault"),
    row("z", "t1", 0.25, env="b/Two-v0"),
]  # fmt: skip


def make(by: tuple[str, ...] = ("kind",), rows: list[dict[str, Any]] = EPISODES) -> AgentReport:
    return report(pandas.DataFrame(rows), name="mine", by=by)


def test_numbers_are_what_counting_gives() -> None:
    found = make()
    assert [(line.env, line.part) for line in found.lines] == [
        ("a/One-v0", "all"), ("a/One-v0", "other"), ("a/One-v0", "sum"), ("b/Two-v0", "all"), ("b/Two-v0", "sum"),
    ]  # fmt: skip
    whole = found.lines[0]
    assert (whole.tasks, whole.episodes, whole.unscored) == (3, 6, 1)
    assert whole.success == 0.5
    assert whole.interval == success_interval([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    assert whole.pass_at == pytest.approx({1: 0.5, 2: 2 / 3})
    assert whole.pass_all == pytest.approx({1: 0.5, 2: 1 / 3})
    assert whole.parts == {"correct": 0.5}
    assert (whole.calls, whole.called, whole.failed_calls) == (pytest.approx(8 / 7), pytest.approx(6 / 7), 0.25)
    assert whole.usage == {"dollars": pytest.approx(0.5 / 7)}
    assert whole.stops == pytest.approx({"answer": 5 / 7, "turns": 1 / 7, "fault": 1 / 7})
    assert found.lines[3].success == 1.0


def test_episodes_stand_for_numbers_of_different_tasks_where_there_are_such() -> None:
    line = make().lines[0]
    assert set(line.wrong) == {"c1", "c2", "a2"}
    assert line.wrong[-1] == "a2"  # the most frequent end comes first
    many = make((), [row(f"{task}{n}", f"t{task}", 0.0) for task in range(9) for n in range(3)])
    assert len({name[0] for name in many.lines[0].wrong}) == len(many.lines[0].wrong) == 5


def test_without_scored_episodes_nothing_is_claimed() -> None:
    (line,) = make((), [row("a", "t1", None, stop="fault")]).lines
    assert (line.success, line.interval, line.reward, line.pass_at, line.right) == (None, (0.0, 1.0), None, {}, ())
    with pytest.raises(ConfigError, match="no episodes"):
        report(pandas.DataFrame(EPISODES).head(0))


def test_stated_confidences_are_calibrated_by_environment() -> None:
    rows = [row(f"e{n}", f"t{n}", float(n % 2), **{"part:confidence": 0.9}) for n in range(20)]
    found = make((), [*rows, row("silent", "t", 1.0), *(row("z", "t", 1.0, env="b/Two-v0") for _ in range(2))])
    assert list(found.calibration) == ["a/One-v0"]
    assert found.calibration["a/One-v0"].ece == pytest.approx(0.4)
    assert found.calibration["a/One-v0"].missing == 1
    assert make().calibration == {}


def test_tables_have_every_line() -> None:
    console = Console(width=200, record=True)
    for table in make().tables():
        console.print(table)
    text = console.export_text()
    for words in ("mine: success", "One", "  other", "0.50 [0.1", "pass^2", "dollars 0.0714", "answer 0.714", "0.67"):
        assert words in text
