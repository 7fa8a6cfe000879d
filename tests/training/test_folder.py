"""Promises about a run's folder and its checkpoints: one run per folder, resumed only from complete checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from tests.training.commands import command
from toolrl import ConfigError, read_trajectories
from toolrl.training.folder import STAMP, checkpoint_problem, find_checkpoint, run_folder, skipped_checkpoints

SMALL = [
    "train", "--model_name_or_path=tiny", "--envs", "toolrl/PythonMath-v0", "--num_generations=4",
    "--per_device_train_batch_size=4", "--use_cpu=true", "--bf16=false", "--gradient_checkpointing=false",
    "--logging_steps=1", "--eval_tasks=0", "--save_steps=1",
]  # fmt: skip


def checkpoint(folder: Path, step: int, made: float | None = None) -> Path:
    """A complete checkpoint."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    save_file({"weight": torch.zeros(100)}, path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.zeros(100)}, path / name)
    if made is not None:
        (path / STAMP).write_text(json.dumps({"time": made}))
    return path


def test_the_newest_complete_checkpoint_is_chosen_whatever_its_step(config: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    args = config(resume_from_checkpoint="true", max_steps=500)
    older, newer = checkpoint(folder, 500, made=1000.0), checkpoint(folder, 20, made=2000.0)
    # The files have the times of a copy.
    os.utime(older / "trainer_state.json", (9e8, 9e8 + 100))
    os.utime(newer / "trainer_state.json", (9e8, 9e8))
    assert find_checkpoint(args) == newer
    # Without a stamp, the file's time counts.
    newest = checkpoint(folder, 3)
    os.utime(newest / "trainer_state.json", (time.time(), time.time()))
    assert find_checkpoint(args) == newest
    (newest / "optimizer.pt").unlink()
    assert find_checkpoint(args) == newer
    assert skipped_checkpoints(newer, 1) == [
        "checkpoint-3: optimizer.pt is missing (saved with save_only_model?); without it, training would not continue "
        "where it stopped"
    ]


def test_settings_that_do_not_fit_a_checkpoint_are_refused(config: Callable[..., Any], tmp_path: Path) -> None:
    found = checkpoint(tmp_path / "run", 2)
    (found / STAMP).write_text(json.dumps({"time": 1.0, "optim": "sgd"}))
    for wanted in ("true", str(found)):
        settings = {"resume_from_checkpoint": wanted, "max_steps": 2}
        assert find_checkpoint(config(**settings, optim="sgd")) == found
        with pytest.raises(ConfigError, match="pass --optim sgd"):
            find_checkpoint(config(**settings))
        with pytest.raises(ConfigError, match="beyond --max_steps 1; raise it"):
            find_checkpoint(config(resume_from_checkpoint=wanted, optim="sgd"))


@pytest.mark.parametrize(
    "part", ["trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
)
@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "flipped"])
def test_a_checkpoint_with_a_missing_or_damaged_part_is_never_resumed_from(
    config: Callable[..., Any], tmp_path: Path, part: str, damage: str
) -> None:
    path = checkpoint(tmp_path / "run", 5)
    assert checkpoint_problem(path) == ""
    content = (path / part).read_bytes()
    if damage == "missing":
        (path / part).unlink()
    elif damage == "flipped":
        if part == "model.safetensors":
            return  # the format has no checksum
        (path / part).write_bytes(content.replace(bytes(200), bytes([7]) * 200) if part.endswith("t") else b"[]")
        if part == "rng_state.pth":
            (path / part).write_bytes(content.replace(bytes(200), bytes([7]) * 200))
    else:
        (path / part).write_bytes(content[: len(content) // 2 if damage == "cut" else 0])
    for wanted in ("true", str(path)):
        with pytest.raises(ConfigError, match=part.split(".")[0]):
            find_checkpoint(config(resume_from_checkpoint=wanted))


def test_each_process_needs_its_random_state(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 5)
    assert "rng_state_0.pth is missing" in checkpoint_problem(path, world_size=2)
    for rank in range(2):
        shutil.copy(path / "rng_state.pth", path / f"rng_state_{rank}.pth")
    assert checkpoint_problem(path, world_size=2) == ""
    assert "rng_state_2.pth" in checkpoint_problem(path, world_size=3)


def test_a_folder_belongs_to_one_run_at_a_time(config: Callable[..., Any]) -> None:
    args = config()
    with (
        run_folder(args, None) as folder,
        pytest.raises(ConfigError, match="another run is writing"),
        run_folder(args, None),
    ):
        pass
    # Nothing was written, so it is free again.
    with run_folder(args, None) as again:
        assert again == folder
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("left", ["trajectories.jsonl", "metrics.jsonl", "report.json", "model", "checkpoint-3"])
def test_results_of_an_earlier_run_keep_a_new_one_out(config: Callable[..., Any], tmp_path: Path, left: str) -> None:
    args, path = config(), tmp_path / "run" / left
    path.parent.mkdir()
    (path.mkdir if "." not in left else lambda: path.write_text("{}\n"))()
    (tmp_path / "run" / "config.yaml").write_text("mine: 1\n")
    for expected in ("--resume_from_checkpoint true", "another --output_dir", "--overwrite_output_dir true"):
        with pytest.raises(ConfigError, match=expected), run_folder(args, None):
            pass
    elsewhere = checkpoint(tmp_path / "elsewhere", 3)
    with pytest.raises(ConfigError, match="another run than the checkpoint"), run_folder(args, elsewhere):
        pass
    with run_folder(args, None, overwrite=True):
        assert not path.exists()
        assert (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nothing", "/dev/null"])
def test_a_folder_that_cannot_be_written_to_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "file").write_text("")
    assert command(*SMALL, "--max_steps=1", f"--output_dir={tmp_path / place}") == 2
    assert "pass another --output_dir" in capsys.readouterr().err


@pytest.mark.slow
def test_two_runs_in_one_folder_do_not_mix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    flags = [*SMALL, f"--output_dir={path}", "--save_total_limit=2"]
    assert command(*flags, "--max_steps=2") == 0
    first = list(read_trajectories(path / "trajectories.jsonl"))
    assert (path / "checkpoint-2" / STAMP).is_file()
    card = (path / "README.md").read_text()
    assert "None" not in card
    assert "The policy that comes with toolrl" in card
    capsys.readouterr()
    assert command(*flags, "--max_steps=2") == 2
    assert "two runs must not mix" in " ".join(capsys.readouterr().err.split())
    assert command(*flags, "--max_steps=3", "--resume_from_checkpoint=true") == 0
    resumed = list(read_trajectories(path / "trajectories.jsonl"))
    assert len({t.id for t in resumed}) == len(resumed) == len(first) + 4
    groups = {t.info["group"] for t in resumed}
    assert len(groups) == 3, "a step that is played again makes groups of its own"
    assert command(*flags, "--max_steps=1", "--overwrite_output_dir=true") == 0
    assert len(list(read_trajectories(path / "trajectories.jsonl"))) == 4
    assert not (path / "checkpoint-3").exists()
    assert "overwrite_output_dir" not in yaml.safe_load((path / "config.yaml").read_text())
