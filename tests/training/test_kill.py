"""Promises about kills of an asynchronous run: it resumes, its lines are whole, and each group is there once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from toolrl.trajectory import read_trajectories
from toolrl.view.metrics import read_metrics

# TOOLRL_KILLS=20 for what the scheduler promises; each takes the start of an engine.
KILLS = int(os.environ.get("TOOLRL_KILLS", "3"))
GROUPS, SIZE, STEPS = 4, 4, 6
FLAGS = [
    "--model_name_or_path=tiny", "--envs", "toolrl/PythonMath-v0", f"--max_steps={STEPS + 4 * KILLS}", "--save_steps=1",
    f"--per_device_train_batch_size={GROUPS * SIZE}", f"--num_generations={SIZE}", "--max_turn_tokens=48",
    "--max_completion_length=256", "--temperature=0.8", "--use_cpu=true", "--bf16=false", "--eval_tasks=0",
    "--gradient_checkpointing=false", "--logging_steps=1", "--sampler=vllm", "--max_staleness=1", "--refill=1",
    "--curriculum=true", "--report_to=none", "--save_total_limit=2",
]  # fmt: skip


def start(folder: Path) -> subprocess.Popen[bytes]:
    resumes = any(folder.glob("checkpoint-*/trainer_state.json"))
    flags = [f"--output_dir={folder}", "--resume_from_checkpoint=true" if resumes else "--overwrite_output_dir=true"]
    command = [sys.executable, "-m", "toolrl", "train", *FLAGS, *flags]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def newest(folder: Path) -> int:
    """The step of the newest complete checkpoint; 0 for none."""
    return max((int(path.parent.name[11:]) for path in folder.glob("checkpoint-*/trainer_state.json")), default=0)


@pytest.mark.vllm
@pytest.mark.timeout(300 + 120 * KILLS)
def test_an_asynchronous_run_survives_kills_at_random_moments(tmp_path: Path) -> None:
    folder, rng = tmp_path / "run", random.Random(os.environ.get("TOOLRL_SEED", "0"))
    lines = folder / "trajectories.jsonl"
    for kill in range(KILLS):
        before = newest(folder)
        process = start(folder)
        try:
            while process.poll() is None and newest(folder) == before:  # so that the next run resumes
                time.sleep(0.05)
            assert process.poll() is None, f"before kill {kill}: {process.communicate()[1].decode()[-2000:]}"
            time.sleep(rng.uniform(0, 3))
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        assert all(json.loads(line) for line in lines.read_bytes().splitlines(keepends=True) if line.endswith(b"\n"))
    process = start(folder)
    _, error = process.communicate(timeout=280)
    assert process.returncode == 0, error.decode()[-2000:]

    played = list(read_trajectories(lines))
    assert len({trajectory.id for trajectory in played}) == len(played)
    assert set(Counter(trajectory.info["group"] for trajectory in played).values()) == {SIZE}
    steps = [row["step"] for row in read_metrics(folder / "metrics.jsonl") if "reward" in row]
    assert steps == list(range(1, STEPS + 4 * KILLS + 1))
    # The last session's batches, and those of earlier ones up to their checkpoints, make up the run.
    used = {(t.info["session"], t.info["step"], t.info["group"]) for t in played if not t.info.get("dropped")}
    batches = Counter((session, step) for session, step, _ in used)
    assert max(batches.values()) == GROUPS
    assert {step for _, step in batches} == set(range(STEPS + 4 * KILLS))
    assert all(t.info["staleness"] <= 1 for t in played if not t.info.get("dropped"))
    state = json.loads((folder / f"checkpoint-{newest(folder)}" / "scheduler_0.json").read_text())
    assert state["batch"] == STEPS + 4 * KILLS
    assert len(state["again"]) == GROUPS
