"""Promises about groups: whatever the batch, a group holds one task and all of its episodes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from toolrl import ConfigError, read_trajectories
from toolrl.training.metrics import equal_in_float32, zero_variance_shares
from toolrl.training.parsing import check_groups
from toolrl.training.trl import group_numbers

numbers = st.integers(1, 6)


@given(st.integers(2, 8), numbers, numbers, numbers, st.booleans())
def test_a_batch_of_incomplete_groups_is_refused_with_one_that_fits(
    size: int, micro: int, parts: int, processes: int, by_steps: bool
) -> None:
    values = {
        "num_generations": size,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": parts,
        "steps_per_generation": parts if by_steps else None,
        "generation_batch_size": None,
    }
    if micro * parts * processes % size == 0:
        check_groups(values, processes)
        return
    with pytest.raises(ConfigError) as error:
        check_groups(values, processes)
    advised = int(str(error.value).split("--per_device_train_batch_size ")[1])
    assert micro < advised <= micro + size
    check_groups({**values, "per_device_train_batch_size": advised}, processes)


@given(st.integers(2, 8), numbers, numbers, st.integers(1, 60))
def test_a_generation_batch_of_incomplete_groups_or_micro_batches_is_refused(
    size: int, micro: int, processes: int, together: int
) -> None:
    values = {
        "num_generations": size,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": None,
        "generation_batch_size": together,
    }
    if together % size == 0 and together % (micro * processes) == 0:
        check_groups(values, processes)
        return
    with pytest.raises(ConfigError) as error:
        check_groups(values, processes)
    advised = int(str(error.value).split("--generation_batch_size ")[-1])
    check_groups({**values, "generation_batch_size": advised}, processes)


def test_neighbours_form_a_group_and_a_group_of_two_tasks_is_refused() -> None:
    first, second = ("env", "first"), ("env", "second")
    assert group_numbers([first] * 4 + [second] * 4, 4) == [0] * 4 + [1] * 4
    with pytest.raises(ConfigError, match="holds 2 tasks"):
        group_numbers([first] * 3 + [second] * 5, 4)
    with pytest.raises(ConfigError, match="a group of num_generations=4"):
        group_numbers([first] * 6, 4)


def test_a_group_is_judged_with_all_of_its_episodes() -> None:
    # Each half, as two processes see them, has no variance; the whole group has.
    played = [("toolrl/One-v0", "a", 1.0)] * 2 + [("toolrl/One-v0", "a", 0.0)] * 2 + [("toolrl/One-v0", "b", 0.0)] * 2
    assert zero_variance_shares(played) == {"One/zero_variance_group_share": 0.5, "useful_group_share": 0.5}
    assert zero_variance_shares([("toolrl/One-v0", "a", None)]) == {}


def test_different_rewards_that_are_equal_in_float32_are_found() -> None:
    assert equal_in_float32([("e", "a", 1e8), ("e", "a", 1e8 + 1)])
    assert not equal_in_float32([("e", "a", 1e8), ("e", "b", 1e8 + 1)])
    assert not equal_in_float32([("e", "a", 0.1), ("e", "a", 0.2), ("e", "a", None)])


@pytest.mark.slow
def test_groups_that_span_two_processes_hold_one_task_each(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "toolrl"]
    flags = [
        "--model_name_or_path=tiny", "--envs", "toolrl/PythonMath-v0", "--max_steps=2", "--num_generations=4",
        "--per_device_train_batch_size=6", "--use_cpu=true", "--bf16=false", "--gradient_checkpointing=false",
        "--logging_steps=1", "--save_strategy=no", "--eval_tasks=0",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    run = [*launch, "train", *flags, f"--output_dir={tmp_path / 'run'}"]
    subprocess.run(run, env=environment, check=True, timeout=280, stdout=subprocess.DEVNULL)
    groups = defaultdict(list)
    for trajectory in read_trajectories(tmp_path / "run" / "trajectories.jsonl"):
        groups[trajectory.info["group"]].append(trajectory)
    assert [len(group) for group in groups.values()] == [4] * 6
    assert all(len({trajectory.task_id for trajectory in group}) == 1 for group in groups.values())
    ids = [trajectory.id for group in groups.values() for trajectory in group]
    assert len(set(ids)) == len(ids)
    assert len({id.split("/")[1] for id in ids}) == 1, "one session in all processes"
    assert any(len({t.id.split("/")[3] for t in group}) == 2 for group in groups.values()), (
        "no group spans both processes"
    )
    # The batch would hold half a group.
    refused = subprocess.run([*run, "--per_device_train_batch_size=5"], env=environment, capture_output=True, text=True)
    assert refused.returncode
    assert "does not divide into groups of num_generations=4" in refused.stderr
