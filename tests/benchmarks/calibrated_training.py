"""Does training with a proper scoring rule teach an agent to know what it knows?

The embedded policy learns from demonstrations that state any confidence, and is then trained, from this warm start and
with each seed, with the Brier score deducted from the reward and without. In half of the tasks its tool is down
(`tests/training/unreliable.py`), so that some answers are known and others are guesses.
The run folders stay in CALIBRATED_FOLDER (runs/calibrated); CALIBRATED_STEPS=20 trains for less.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from tests.benchmarks.common import table
from tests.training.unreliable import ENV_ID, make_unreliable
from toolrl import Renderer, Trajectory, read_trajectories
from toolrl.evaluation import calibrate, evaluate, success_interval
from toolrl.policy.models import load_tokenizer
from toolrl.training.demonstrations import select_demonstrations, write_demonstrations
from toolrl.training.run import parse_arguments, run_training
from toolrl.training.sft import fine_tune, parse_sft_arguments

STEPS = int(os.environ.get("CALIBRATED_STEPS", "80"))
FOLDER = Path(os.environ.get("CALIBRATED_FOLDER", "runs/calibrated"))
SEEDS = range(3)
WEIGHTS = (0.0, 0.4)
DEMONSTRATIONS, HELD_OUT, SAMPLES = 600, 200, 2
COMMON = [
    "--lr_scheduler_type=linear", "--warmup_steps=3", "--use_cpu=true", "--bf16=false",
    "--gradient_checkpointing=false", "--logging_steps=1", "--save_strategy=no", "--report_to=none",
    "--overwrite_output_dir=true",
]  # fmt: skip
TRAINING = [
    f"--model_name_or_path={FOLDER / 'warm' / 'model'}", "--envs", ENV_ID, f"--max_steps={STEPS}",
    "--num_generations=8", "--per_device_train_batch_size=64", "--max_completion_length=256", "--max_turn_tokens=96",
    "--temperature=1", "--learning_rate=2e-4", "--beta=0", "--loss_type=dapo", f"--eval_tasks={HELD_OUT}",
    f"--eval_samples={SAMPLES}",
]  # fmt: skip
COLUMNS = ["seed", "training", "success", "states", "ECE", "by chance", "Brier", "AUROC"]


def main() -> str:
    torch.set_flush_denormal(True)
    disable_progress_bar()
    warm_start()
    rows = []
    for seed in SEEDS:
        for weight in WEIGHTS:
            found = run(seed, weight)
            if weight == WEIGHTS[0]:
                rows.append([str(seed), "before", *columns(found["before"])])
            rows.append([str(seed), f"after, weight {weight:g}", *columns(found["after"])])
            print(rows[-1], flush=True)
    title = f"{STEPS} steps of 64 episodes; {HELD_OUT} held-out tasks, {SAMPLES} samples of each"
    return table(title, COLUMNS, rows)


def warm_start() -> None:
    """Fit the embedded policy to what the oracle does, which states confidences at random."""
    env, tokenizer = make_unreliable(size=DEMONSTRATIONS), load_tokenizer("tiny")
    env.ask_confidence()
    played: list[Trajectory] = []
    evaluate({ENV_ID: env}, None, Renderer(tokenizer), tasks=DEMONSTRATIONS, on_trajectory=played.append)
    chosen = select_demonstrations(played, held_out=True).chosen
    write_demonstrations(FOLDER / "demonstrations.jsonl", chosen, {ENV_ID: env.toolbox.schemas})
    settings = [
        "--model_name_or_path=tiny", f"--dataset={FOLDER / 'demonstrations.jsonl'}", f"--output_dir={FOLDER / 'warm'}",
        "--num_train_epochs=2", "--per_device_train_batch_size=16", "--learning_rate=1e-3",
    ]  # fmt: skip
    fine_tune(*parse_sft_arguments([*settings, *COMMON]), console=Console(quiet=True))
    env.close()


def run(seed: int, weight: float) -> dict[str, list[Trajectory]]:
    """Train, and return the held-out episodes by their mode."""
    folder = FOLDER / f"seed{seed}-weight{weight:g}"
    settings = f'--env_settings={{"{ENV_ID}": {{"confidence": {weight}}}}}'
    changes = [settings, f"--output_dir={folder}", f"--seed={seed}"]
    run_training(*parse_arguments([*TRAINING, *COMMON, *changes]), console=Console(quiet=True))
    played = list(read_trajectories(folder / "trajectories.jsonl"))
    return {mode: [t for t in played if t.info["mode"] == mode] for mode in ("before", "after")}


def columns(played: list[Trajectory]) -> list[str]:
    found = calibrate(played)
    by_task: dict[str, list[float]] = {}
    for trajectory in played:
        by_task.setdefault(trajectory.task_id, []).append(float(bool(trajectory.score.success)))
    low, high = success_interval(list(by_task.values()))
    success = f"{sum(map(sum, by_task.values())) / len(played):.2f} [{low:.2f}, {high:.2f}]"
    if found is None:
        return [success, "0 %", *["-"] * 4]
    return [
        success,
        f"{found.count / len(played):.0%}",
        f"{found.ece:.3f} [{found.ece_interval[0]:.3f}, {found.ece_interval[1]:.3f}]",
        f"{found.ece_by_chance:.3f}",
        f"{found.brier:.3f}",
        "-" if found.auroc is None else f"{found.auroc:.2f}",
    ]
