"""Promises about groups: whatever the batch, a group holds one task and all of its episodes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from trl import GRPOConfig  # type: ignore[attr-defined]

from toolrl import ConfigError, Episode, Task, ToolEnv, read_trajectories
from toolrl.training import GRPORun
from toolrl.training.layout import GroupLayout
from toolrl.training.metrics import equal_in_float32, zero_variance_shares
from toolrl.training.parsing import check_groups

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


@given(st.integers(2, 8), numbers, numbers, st.integers(1, 4))
def test_the_processes_hold_each_group_once(size: int, groups: int, part: int, processes: int) -> None:
    batch = math.lcm(size, processes) * groups * part
    layouts = [GroupLayout(size, batch, processes, rank) for rank in range(processes)]
    # Of each group of two batches, by its number in its process's share of the draws.
    held: dict[tuple[int, int], int] = defaultdict(int)
    for layout in layouts:
        mine = [layout.members(number) for number in range(2 * layout.groups)]
        assert sum(mine[: layout.groups]) == batch // processes
        for number, members in enumerate(mine):
            held[layout.shard[0], number] += members
    assert set(held.values()) == {size}
    assert len(held) == 2 * batch // size


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


def compared(seen: list[int]) -> ToolEnv:
    """An environment whose group's reward notes how many episodes it is shown."""

    def group_reward(task: Task, episodes: Sequence[Episode]) -> list[float]:
        seen.append(len(episodes))
        return [float(index) for index in range(len(episodes))]

    return ToolEnv(tasks=[Task("t", "Say a.")], reward=lambda *_: 0.0, group_reward=group_reward)


def test_training_compares_the_episodes_of_a_group(grpo_run: Callable[..., GRPORun]) -> None:
    seen: list[int] = []
    run = grpo_run({"E": compared(seen)}, max_turn_tokens=4)
    run.trainer.train()
    assert seen == [4, 4]
    assert sorted(t.score.value or 0 for t in run.last_batch) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_group_that_is_compared_may_not_be_split_between_processes(
    grpo_run: Callable[..., GRPORun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GRPOConfig, "world_size", 2)
    with pytest.raises(ConfigError, match="a group of num_generations=4 would be split between processes"):
        grpo_run({"E": compared([])}, {"per_device_train_batch_size": 2})
