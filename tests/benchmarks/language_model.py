"""A training step of a real language model on a CPU: toolrl compared with TRL's own tool loop, and with float32.

SmolLM2-135M after the warm start of `make train-lm` plays `toolrl/DocsSearch-v0`. Both trainers have the same weights,
chat template, tasks, tool, batch and loss; TRL's is `GRPOTrainer(environment_factory=...)`. Each run is a process of its
own, whose peak memory is measured. LANGUAGE_MODEL is the model's folder, LANGUAGE_MODEL_SEEDS "0 1".
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from transformers import TrainerCallback

from tests.benchmarks.common import table
from toolrl.search import open_retriever
from toolrl.tools.search import format_documents
from toolrl.training.run import parse_arguments, train
from toolrl.view.metrics import read_metrics
from toolrl_envs.common import PYTHON_DOCS, SYSTEM_PROMPT
from toolrl_envs.docs_search.env import make_tasks
from toolrl_envs.docs_search.facts import RESULTS, SNIPPET_CHARACTERS

MODEL = os.environ.get("LANGUAGE_MODEL", "runs/smollm2-sft/model")
SEEDS = os.environ.get("LANGUAGE_MODEL_SEEDS", "0 1").split()
STEPS, EPISODES, GROUP, ROWS, COMPLETION, TURN = 3, 48, 8, 8, 384, 96
LEARNING_RATE = 5e-6
COLUMNS = ["trainer", "seed", "seconds a step", "episodes trained on", "tokens sampled", "tokens a second", "peak"]


def main() -> str:
    if not Path(MODEL).is_dir():
        return f"language_model: {MODEL!r} is missing; `make train-lm` writes it, or set LANGUAGE_MODEL\n"
    rows = []
    for seed in SEEDS:
        found = {way: _measure(way, seed) for way in WAYS}
        for way, run in found.items():
            ratio = found["TRL"]["seconds"] / run["seconds"]
            rows.append(
                [
                    way,
                    seed,
                    f"{run['seconds']:.1f} s ({ratio:.1f})",
                    f"{run['episodes']:.0f}",
                    f"{run['tokens']:.0f}",
                    f"{run['tokens'] / run['seconds']:.0f}",
                    f"{run['gigabytes']:.1f} GB",
                ]
            )
            print(rows[-1], flush=True)
    title = f"SmolLM2-135M, {EPISODES} episodes a step, means of {STEPS - 1} steps after the first; in brackets: faster than TRL"
    return table(title, COLUMNS, rows)


def _measure(way: str, seed: str) -> dict[str, float]:
    """Run `way` in a process of its own."""
    code = f"from tests.benchmarks.language_model import run; run({way!r}, {seed})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(way: str, seed: int) -> None:
    """Train for some steps, and print the seconds and sampled tokens of a step, and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        found = WAYS[way](Path(folder) / "run", seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({**found, "gigabytes": peak}))


def _settings(folder: Path, seed: int, *, bf16: bool) -> dict[str, Any]:
    """TRL's settings, the same for both."""
    return {
        "output_dir": str(folder), "per_device_train_batch_size": ROWS, "num_generations": GROUP, "max_steps": STEPS,
        "gradient_accumulation_steps": EPISODES // ROWS, "seed": seed, "max_completion_length": COMPLETION,
        "learning_rate": LEARNING_RATE, "temperature": 1.0, "beta": 0.0, "loss_type": "dapo", "use_cpu": True,
        "bf16": bf16, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no", "logging_steps": 1,
    }  # fmt: skip


def ours(folder: Path, seed: int, *, bf16: bool = True) -> dict[str, float]:
    settings = _settings(folder, seed, bf16=bf16) | {
        "model_name_or_path": MODEL, "chat_template": "qwen2.5", "task_seed": seed, "max_turn_tokens": TURN,
        "eval_tasks": 0, "generation_sequences": EPISODES,
    }  # fmt: skip
    flags = [f"--{name}={value}" for name, value in settings.items()]
    train(*parse_arguments(["--envs", "toolrl/DocsSearch-v0", *flags]), console=Console(quiet=True))
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "time/step" in row][1:]
    return {
        "seconds": fmean(row["time/step"] for row in rows),
        "tokens": fmean(row["sampled_tokens"] for row in rows) * EPISODES,
        "episodes": fmean(row["useful_group_share"] for row in rows) * EPISODES,
    }


class Docs:
    """TRL's form of `toolrl/DocsSearch-v0`."""

    def __init__(self) -> None:
        self._retriever = open_retriever(PYTHON_DOCS)

    def reset(self, **_: Any) -> None:
        """Nothing to set up."""

    def search(self, query: str) -> str:
        """Search the documents and return the best matches.

        Args:
            query: What to look for.
        """
        return format_documents(self._retriever.search(query, RESULTS), SNIPPET_CHARACTERS)


class Clock(TrainerCallback):
    """When steps ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


def theirs(folder: Path, seed: int, *, bf16: bool = True) -> dict[str, float]:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]

    from toolrl.chat.variants import read_template
    from toolrl.policy.models import load_model, load_tokenizer

    tokenizer, clock, counts = load_tokenizer(MODEL), Clock(), []
    tokenizer.chat_template = read_template("qwen2.5")
    system = {"role": "system", "content": SYSTEM_PROMPT}
    rows = [
        {"prompt": [system, {"role": "user", "content": task.prompt}], "answer": task.answer}
        for task in make_tasks("train", 2000, seed)
    ]

    def reward(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float | None]:
        found = [re.search(r"<answer>(.*?)</answer>", said[-1].get("content") or "") for said in completions]
        return [float(match is not None and match[1] == right) for match, right in zip(found, answer, strict=True)]

    trainer: Any = GRPOTrainer(
        model=load_model(MODEL),
        reward_funcs=reward,
        args=GRPOConfig(
            **_settings(folder, seed, bf16=bf16), disable_tqdm=True, max_tool_calling_iterations=4
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        environment_factory=Docs,
        callbacks=[clock],
    )  # fmt: skip
    generate = trainer._generate_and_score_completions

    def counted(inputs: Any) -> Any:
        batch = generate(inputs)
        counts.append(int((batch["completion_mask"] * batch.get("tool_mask", 1)).sum()))
        return batch

    trainer._generate_and_score_completions = counted
    trainer.train()
    gaps = [end - start for start, end in zip(clock.ends, clock.ends[1:], strict=False)]
    return {"seconds": fmean(gaps), "tokens": fmean(counts[1:STEPS]), "episodes": EPISODES}


WAYS: dict[str, Any] = {
    "TRL": theirs,
    "toolrl": ours,
    "toolrl, float32": lambda folder, seed: ours(folder, seed, bf16=False),
}
