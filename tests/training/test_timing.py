"""Promises about the time of a step: its parts add up to it, whatever overlaps or is nested."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from toolrl.training import GRPORun
from toolrl.training.callbacks import MetricsCallback
from toolrl.training.metrics import staleness_metrics
from toolrl.training.timing import PARTS, StepClock
from toolrl.trajectory import Trajectory, Turn
from toolrl.types import Message, Sample, Score, StopReason


class Watch:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def episode(generation: float, tools: float, seconds: float) -> Trajectory:
    turn = Turn(Sample([1, 2], [0.0, 0.0], "stop"), Message("assistant", ""), (), (7, 7), generation, tools)
    return Trajectory("", "e", "t", (), [1], (turn,), Score(1.0), StopReason.ANSWER, seconds=seconds)


def test_only_the_innermost_part_is_charged_and_the_rest_is_other() -> None:
    watch = Watch()
    clock = StepClock(watch)
    for _ in range(2):
        watch.seconds += 1
        with clock.part("forward_backward"):
            watch.seconds += 2
            with clock.part("weights"):
                watch.seconds += 4
            with clock.part("rollout"):
                watch.seconds += 8
            clock.played([episode(3.0, 1.0, 5.0), episode(9.0, 3.0, 15.0)])
            watch.seconds += 16
        clock.end_step()
    seconds, total, tokens = clock.report()
    expected = {"generation": 4.8, "tools": 1.6, "waiting": 1.6, "weights": 4.0, "forward_backward": 18.0, "other": 1.0}
    assert seconds == pytest.approx(expected | {"evaluation": 0.0, "step": 31.0})
    assert (total, tokens) == (pytest.approx(62.0), 8)
    assert clock.report() == ({}, 0.0, 0)


@pytest.mark.parametrize(
    "batch", [[], [episode(0.0, 0.0, 0.0)], [episode(5.0, 5.0, 1.0)], [episode(0.0, 0.0, 3.0), episode(1e-9, 2.0, 2.0)]]
)
def test_a_rollout_is_divided_without_a_rest_and_never_negatively(batch: list[Trajectory]) -> None:
    watch = Watch()
    clock = StepClock(watch)
    with clock.part("rollout"):
        watch.seconds += 7
    clock.played(batch)
    clock.end_step()
    seconds, _, _ = clock.report()
    assert sum(seconds[part] for part in PARTS) == pytest.approx(7.0)
    assert min(seconds.values()) >= 0


def test_a_failure_inside_a_part_ends_it() -> None:
    watch = Watch()
    clock = StepClock(watch)

    def fail() -> None:
        with clock.part("weights"):
            watch.seconds += 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    watch.seconds += 2
    clock.end_step()
    seconds, _, _ = clock.report()
    assert (seconds["weights"], seconds["other"]) == (1.0, 2.0)


def test_the_parts_of_every_step_of_a_run_add_up_to_it(grpo_run: Callable[..., GRPORun], tmp_path: Path) -> None:
    changes = {"max_steps": 3, "num_iterations": 2, "logging_steps": 1}
    (tmp_path / "run").mkdir()
    grpo_run(changes=changes, callbacks=[MetricsCallback(tmp_path / "run")]).train()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "time/step" in row]
    assert len(rows) == 3
    for row in rows:
        parts = [row[f"time/{part}"] for part in PARTS]
        assert sum(parts) == pytest.approx(row["time/step"], rel=1e-9)
        assert min(parts) >= 0
        assert row["time/forward_backward"] > 0
    # Two steps are made of one batch.
    assert [row["time/generation"] > 0 for row in rows] == [True, False, True]
    assert [row["sampled_tokens_per_second"] > 0 for row in rows] == [True, False, True]
    assert all(0 <= row["useful_group_share"] <= 1 for row in rows if "useful_group_share" in row)


def test_staleness_is_over_the_episodes_that_know_theirs() -> None:
    assert staleness_metrics([0, None, 3]) == {"staleness/mean": 1.5, "staleness/max": 3}
    assert staleness_metrics([None]) == {}
