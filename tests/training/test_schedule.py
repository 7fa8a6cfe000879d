"""Promises of the scheduler inside a run: a resume goes on with its tasks, and what it drops is recorded."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.training.test_credit import scripted, steps_env
from tests.training.test_trl import DOCS, Lottery, lottery_env
from toolrl import ConfigError, read_trajectories
from toolrl.training import GRPORun
from toolrl.training.callbacks import ProgressCallback
from toolrl.training.layout import check_schedule
from toolrl.training.scheduler import read_state
from toolrl.trajectory import Trajectory, TrajectoryWriter


def groups_of(path: Path) -> list[list[Trajectory]]:
    groups: dict[str, list[Trajectory]] = defaultdict(list)
    for trajectory in read_trajectories(path):
        groups[trajectory.info["group"]].append(trajectory)
    return list(groups.values())


def test_a_resumed_run_trains_on_the_tasks_that_it_would_have_trained_on(
    grpo_run: Callable[..., GRPORun], tmp_path: Path
) -> None:
    small = {"per_device_train_batch_size": 4, "max_completion_length": 64, "save_strategy": "steps"}

    def train(name: str, checkpoint: Path | None = None, **options: Any) -> list[str]:
        with TrajectoryWriter(tmp_path / f"{name}.jsonl") as writer:
            settings = {"output_dir": str(tmp_path / name), "save_steps": 2, "max_steps": 3, **small, **options}
            run = scripted(grpo_run({"tests/Steps": steps_env()}, settings, writer=writer))
            run.train(checkpoint)
            run.close()
        return [group[0].task_id for group in groups_of(tmp_path / f"{name}.jsonl")]

    whole = train("whole")
    assert len(whole) == 3
    assert train("resumed", tmp_path / "whole" / "checkpoint-2") == whole[-1:]

    # A batch that is used for two steps is played again by a run that stops between them.
    whole = train("twice", steps_per_generation=2, save_steps=1)
    resumed = train("again", tmp_path / "twice" / "checkpoint-1", steps_per_generation=2, save_steps=1)
    assert resumed[: len(whole)] == whole[: len(resumed)]


def test_what_refill_drops_is_recorded_and_counts(grpo_run: Callable[..., GRPORun], tmp_path: Path) -> None:
    env = steps_env(value=1.0)
    with TrajectoryWriter(tmp_path / "t.jsonl") as writer:
        run = scripted(grpo_run({"tests/Steps": env}, {"max_steps": 2}, writer=writer, refill=1.0))
        run.train()
        run.close()
    groups = groups_of(tmp_path / "t.jsonl")
    assert [group[0].info.get("dropped", "") for group in groups].count("no variance") == 2 * 2
    assert len(groups) == 2 * 2 * 2
    assert {len(group) for group in groups} == {4}
    logged = [row for row in run.trainer.state.log_history if "played/groups" in row]
    assert [(row["played/groups"], row["dropped/no_variance"]) for row in logged] == [(4.0, 2.0)] * 2
    assert all(row["Steps/success"] == 1.0 for row in logged)


def test_five_steps_without_a_useful_group_are_told_once(grpo_run: Callable[..., GRPORun]) -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    small = {"max_steps": 7, "per_device_train_batch_size": 4}
    run = scripted(grpo_run({"tests/Steps": steps_env(value=1.0)}, small, callbacks=[ProgressCallback(console)]))
    run.train()
    assert console.export_text().count("no group of the last 5 steps had episodes with different rewards") == 1


def test_a_curriculum_learns_from_the_run_and_is_part_of_its_checkpoints(
    grpo_run: Callable[..., GRPORun], tmp_path: Path
) -> None:
    settings = {"max_steps": 2, "output_dir": str(tmp_path), "save_strategy": "steps", "save_steps": 2}
    run = grpo_run({DOCS: lottery_env(Lottery())}, settings, curriculum=True)
    run.train()
    names = {name for row in run.trainer.state.log_history for name in row if name.startswith("curriculum/DocsSearch/")}
    assert names
    state = read_state(tmp_path / "checkpoint-2", 0, 1, "Curriculum")
    seen = {task_id for _, task_id, _, _ in state["source"]["tasks"]}
    assert seen == {trajectory.task_id for trajectory in read_trajectories(tmp_path / "trajectories.jsonl")}
    assert state["again"] == []
    with pytest.raises(ConfigError, match="with a curriculum, but this run has 1 with a mixture"):
        read_state(tmp_path / "checkpoint-2", 0, 1, "Mixture")
    with pytest.raises(ConfigError, match="is missing or damaged"):
        read_state(tmp_path / "checkpoint-2", 1, 2, "Curriculum")
    (tmp_path / "checkpoint-2" / "scheduler_0.json").write_text(json.dumps(state)[:-20])
    with pytest.raises(ConfigError, match="is missing or damaged"):
        run.train(tmp_path / "checkpoint-2")


@pytest.mark.parametrize(
    ("changes", "schedule", "sampler", "message"),
    [
        ({}, {"max_staleness": 1}, "transformers", r"--max_staleness 1: the trained model itself samples"),
        ({}, {"max_staleness": -1}, "vllm", r"--max_staleness must be 0 or more, got -1"),
        ({}, {"refill": float("nan")}, "vllm", r"--refill must be 0 or more, got nan"),
        ({"beta": 0.1}, {"refill": 2.0}, "transformers", r"--refill 2.0 .* with --beta 0.1 they still train"),
        ({"vllm_enable_sleep_mode": True}, {"max_staleness": 1}, "vllm", "cannot sleep"),
        ({"vllm_importance_sampling_correction": False}, {"max_staleness": 2}, "vllm", "without the correction"),
        ({"use_vllm": True}, {"max_staleness": 2}, "transformers", "TRL's own engine samples"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    config: Callable[..., Any], changes: dict[str, Any], schedule: dict[str, Any], sampler: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_schedule(config(**changes), sampler, **schedule)


def test_batches_that_split_groups_are_refused(config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    args = config(per_device_train_batch_size=12, num_generations=4)
    monkeypatch.setattr(type(args), "world_size", 2)
    check_schedule(args, "transformers")
    for setting in ({"refill": 1.0}, {"curriculum": True}, {"max_staleness": 1}):
        with pytest.raises(ConfigError, match="needs whole groups in each process, but a process holds 6 episodes"):
            check_schedule(args, "vllm", **setting)


def test_the_command_names_the_setting_before_it_loads_anything(tmp_path: Path) -> None:
    from toolrl.training.run import parse_arguments, run_training

    flags = ["--envs", DOCS, "--output_dir", str(tmp_path), "--use_cpu", "true", "--bf16", "false"]
    with pytest.raises(ConfigError, match="--max_staleness 1"):
        run_training(*parse_arguments([*flags, "--model_name_or_path", "no/such-model", "--max_staleness", "1"]))
