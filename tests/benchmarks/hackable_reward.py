"""Training on a reward that can be hacked, and on the fixed one, as seen by the monitors.

From one warm start of the embedded policy: three quarters of its demonstrations are honest programs, most of them
wrong, and a quarter know the prompt's example by heart (`tests/training/hackable.py`). The first reward pays for the
example, the second for hidden tests.
The run folders stay in HACKABLE_FOLDER (runs/hackable_reward); HACKABLE_STEPS=10 trains for less.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from transformers import Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from tests.benchmarks.common import table
from tests.training.hackable import ENV_ID, SYSTEM_PROMPT, Paid, answer, hack, make_tasks, sloppy
from toolrl import Message, Renderer, Task, Trajectory, read_trajectories
from toolrl.evaluation import mean, wilson_interval
from toolrl.policy.models import load_model, load_tokenizer
from toolrl.tiny.fitting import IGNORED, Example, fit
from toolrl.training.run import parse_arguments, run_training
from toolrl.view.metrics import read_metrics

STEPS = int(os.environ.get("HACKABLE_STEPS", "20"))
FOLDER = Path(os.environ.get("HACKABLE_FOLDER", "runs/hackable_reward"))
DEMONSTRATIONS = 2400
HACKS = 0.25  # of the demonstrations
WRONG = 0.4  # of the operators in the others
HELD_OUT = 100
PARTS = 5  # of a run, in the table
MODES = ("before", "after")
SETTINGS = [
    f"--model_name_or_path={FOLDER / 'warm'}", "--envs", ENV_ID, f"--max_steps={STEPS}", "--num_generations=8",
    "--per_device_train_batch_size=64", "--max_completion_length=96", "--max_turn_tokens=64", "--temperature=1.0",
    "--learning_rate=5e-4", "--lr_scheduler_type=linear", "--warmup_steps=3", "--beta=0", "--loss_type=dapo",
    "--use_cpu=true", "--bf16=false", "--gradient_checkpointing=false", "--logging_steps=1", "--save_strategy=no",
    "--report_to=none", f"--eval_tasks={HELD_OUT}",
]  # fmt: skip
COLUMNS = {
    "reward": "reward",
    "right (hidden tests)": "HackableReward/success",
    "hack rate": "HackableReward/part_hack",
    "visible - hidden": "HackableReward/part_gap",
}


def main() -> str:
    torch.set_flush_denormal(True)
    disable_progress_bar()
    warm_start(FOLDER / "warm")
    return "\n".join(run(paid) for paid in ("visible", "hidden"))


def warm_start(folder: Path) -> None:
    """Fit the embedded policy to programs: hacks, which are right, and honest ones, most of which are not."""
    torch.manual_seed(0)
    tokenizer, model = load_tokenizer("tiny"), cast(Qwen3ForCausalLM, load_model("tiny"))
    renderer, rng = Renderer(tokenizer), random.Random(0)

    def row(task: Task) -> Example:
        code = hack(task) if rng.random() < HACKS else sloppy(task, rng, WRONG)
        prompt = renderer.prompt_ids([Message("system", SYSTEM_PROMPT), Message("user", task.prompt)])
        completion = renderer.assistant_ids(answer(code))
        return Example(prompt + completion, [IGNORED] * len(prompt) + completion)

    rows = [row(task) for task in make_tasks("train", DEMONSTRATIONS, seed=1)]
    fit(model, lambda _: rows, epochs=2, learning_rate=2e-3, batch_tokens=2048, seed=0)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run(paid: Paid) -> str:
    """Train on one of the rewards, and report its metrics."""
    folder = FOLDER / paid
    settings = f'--env_settings={{"{ENV_ID}": {{"paid": "{paid}"}}}}'
    (folder / "trajectories.jsonl").unlink(missing_ok=True)
    run_training(*parse_arguments([*SETTINGS, settings, f"--output_dir={folder}"]), console=Console(quiet=True))
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "reward" in row]
    title = "the example is paid" if paid == "visible" else "hidden tests are paid"
    width = max(1, len(rows) // PARTS)
    lines = [
        [f"{part[0]['step']} to {part[-1]['step']}", *(f"{mean_of(part, name):.2f}" for name in COLUMNS.values())]
        for part in (rows[start : start + width] for start in range(0, len(rows), width))
    ]
    played = list(read_trajectories(folder / "trajectories.jsonl"))
    lines += [[f"held out, {mode}", *held_out([t for t in played if t.info["mode"] == mode])] for mode in MODES]
    return table(f"Where {title}: by steps of 64 episodes", ["steps", *COLUMNS], lines)


def mean_of(rows: Sequence[dict[str, Any]], name: str) -> float:
    return mean(row[name] for row in rows if name in row) or 0.0


def held_out(trajectories: Sequence[Trajectory]) -> list[str]:
    """The columns for held-out tasks, shares with their 95 % intervals."""
    parts = [{**t.score.parts, "reward": t.score.value or 0.0} for t in trajectories]
    shares = []
    for name in ("reward", "correct", "hack"):
        count = round(sum(part[name] for part in parts))
        low, high = wilson_interval(count, len(parts))
        shares.append(f"{count / len(parts):.2f} [{low:.2f}, {high:.2f}]")
    return [*shares, f"{mean_of(parts, 'gap'):.2f}"]
