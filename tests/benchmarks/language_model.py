"""A training step of a real language model: toolrl compared with TRL's own tool loop, with float32, and with vLLM.

SmolLM2-135M after the warm start of `make train-lm` plays `toolrl/DocsSearch-v0`. Both trainers have the same weights,
chat template, tasks, tool, batch and loss; TRL's is `GRPOTrainer(environment_factory=...)`. Each run is a process of
its own, whose peak memory is measured. On a GPU, if there is one. LANGUAGE_MODEL is the model's folder,
LANGUAGE_MODEL_SEEDS "0 1", LANGUAGE_MODEL_STEPS "4", of which the first is not timed; LANGUAGE_MODEL_WAYS "TRL,toolrl"
leaves others out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console

from tests.benchmarks.common import Clock, table
from toolrl import make
from toolrl.chat.variants import read_template
from toolrl.policy.models import load_model, load_tokenizer
from toolrl.search import open_retriever
from toolrl.tools.search import format_documents
from toolrl.training.run import parse_arguments, run_training
from toolrl.view.metrics import read_metrics
from toolrl_envs.common import PYTHON_DOCS, SYSTEM_PROMPT
from toolrl_envs.docs_search.env import make_tasks
from toolrl_envs.docs_search.facts import RESULTS, SNIPPET_CHARACTERS

MODEL = os.environ.get("LANGUAGE_MODEL", "runs/smollm2-sft/model")
SEEDS = os.environ.get("LANGUAGE_MODEL_SEEDS", "0 1").split()
STEPS = int(os.environ.get("LANGUAGE_MODEL_STEPS", "4"))
EPISODES, GROUP, COMPLETION, TURN = 48, 8, 288, 64
# The settings of `toolrl train` that tell the ways apart; None is TRL's trainer.
WAYS: dict[str, dict[str, Any] | None] = {
    "TRL": None,
    "toolrl": {},
    "toolrl float32": {"bf16": False},
    "toolrl vLLM": {"sampler": "vllm", "engine_settings": '{"dtype": "bfloat16"}'},
}
CHOSEN = os.environ.get("LANGUAGE_MODEL_WAYS", ",".join(WAYS)).split(",")
COLUMNS = ["trainer", "seed", "a step", "TRL's / this", "trained on", "sampled", "tokens/s", "mismatch", "peak memory"]


def main() -> str:
    if not Path(MODEL).is_dir():
        return f"language_model: {MODEL!r} is missing; `make train-lm` writes it, or set LANGUAGE_MODEL\n"
    return report(measure())


def measure() -> list[list[str]]:
    """Rows of the table, which are printed as they come."""
    has_vllm = importlib.util.find_spec("vllm") is not None
    rows = []
    for seed in SEEDS:
        theirs = 0.0
        for way in WAYS:
            if way not in CHOSEN or ("vLLM" in way and not has_vllm):
                continue
            run = _measure(way, seed)
            theirs = theirs or run["seconds"]
            rows.append(_row(way, seed, run, theirs))
            print(rows[-1], flush=True)
    return rows


def report(rows: list[list[str]]) -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    title = f"SmolLM2-135M on {device}, {EPISODES} episodes a step, means of {STEPS - 1} steps"
    return table(title, COLUMNS, rows)


def _row(way: str, seed: str, run: dict[str, float], theirs: float) -> list[str]:
    return [
        way,
        seed,
        f"{run['seconds']:.1f} s",
        f"{theirs / run['seconds']:.1f}",
        f"{run['trained']:.0f} episodes",
        f"{run['tokens']:.0f} tokens",
        f"{run['tokens'] / run['seconds']:.0f}",
        f"{run['mismatch']:.1e}" if "mismatch" in run else "-",
        f"{run['gigabytes']:.1f} GB",
    ]


def _measure(way: str, seed: str) -> dict[str, float]:
    """Run `way` in a process of its own."""
    code = f"from tests.benchmarks.language_model import run; run({way!r}, {seed})"
    environment = os.environ | {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(way: str, seed: int) -> None:
    """Train for some steps, and print what a step took and gave: means without the first step, and peak memory."""
    changes = WAYS[way]
    with tempfile.TemporaryDirectory() as folder:
        found = _theirs(Path(folder), seed) if changes is None else _ours(Path(folder) / "run", seed, changes)
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("\n" + json.dumps({**found, "gigabytes": peak / 1e9}))


def _settings(folder: Path, seed: int) -> dict[str, Any]:
    """TRL's settings, the same for both; a micro-batch is a group."""
    return {
        "output_dir": str(folder), "per_device_train_batch_size": GROUP, "num_generations": GROUP, "max_steps": STEPS,
        "gradient_accumulation_steps": EPISODES // GROUP, "seed": seed, "max_completion_length": COMPLETION,
        "learning_rate": 1e-5, "temperature": 0.8, "beta": 0.0, "loss_type": "dapo", "bf16": True,
        "use_cpu": not torch.cuda.is_available(), "gradient_checkpointing": False, "report_to": "none",
        "save_strategy": "no", "logging_steps": 1,
    }  # fmt: skip


def _ours(folder: Path, seed: int, changes: dict[str, Any]) -> dict[str, float]:
    settings = _settings(folder, seed) | {
        "model_name_or_path": MODEL, "chat_template": "qwen2.5", "task_seed": seed, "max_turn_tokens": TURN,
        "eval_tasks": 0, "generation_sequences": EPISODES, "train_tasks": 2000,
    } | changes  # fmt: skip
    if changes.get("sampler"):
        del settings["generation_sequences"]
    flags = [f"--{name}={value}" for name, value in settings.items()]
    run_training(*parse_arguments(["--envs", "toolrl/DocsSearch-v0", *flags]), console=Console(quiet=True))
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "time/step" in row][1:]
    return {
        "seconds": fmean(row["time/step"] for row in rows),
        "tokens": fmean(row["DocsSearch/sampled_tokens"] for row in rows) * EPISODES,
        "trained": fmean(row["useful_group_share"] for row in rows) * EPISODES,
        "mismatch": fmean(row["mismatch/mean"] for row in rows),
    }


class Docs:
    """`toolrl/DocsSearch-v0` in TRL's form."""

    def __init__(self) -> None:
        self._retriever = open_retriever(PYTHON_DOCS)

    def reset(self, **_: Any) -> None:
        """Nothing to set up."""

    def search(self, query: str) -> str:
        """Search the documents and return the best matches.

        Args:
            query: A few keywords.
        """
        return format_documents(self._retriever.search(query, RESULTS), SNIPPET_CHARACTERS)


def _theirs(folder: Path, seed: int) -> dict[str, float]:
    from datasets import Dataset
    from transformers.utils import chat_template_utils
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]

    # The same prompt to the token: the model learnt from toolrl's schema, and calls badly by one in another order.
    (schema,) = make("toolrl/DocsSearch-v0", size=8).toolbox.schemas
    utils: Any = chat_template_utils
    utils.get_json_schema = lambda function: schema
    tokenizer, clock = load_tokenizer(MODEL), Clock()
    tokenizer.chat_template = read_template("qwen2.5")
    system = {"role": "system", "content": SYSTEM_PROMPT}
    rows = [
        {"prompt": [system, {"role": "user", "content": task.prompt}], "answer": task.answer}
        for task in make_tasks("train", 2000, seed)
    ]

    def reward(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float | None]:
        said = [str(completion[-1].get("content") or "") for completion in completions]
        found = [re.search(r"<answer>(.*?)</answer>", text, re.DOTALL) for text in said]
        return [float(match is not None and match[1] == right) for match, right in zip(found, answer, strict=True)]

    trainer: Any = GRPOTrainer(
        model=load_model(MODEL),
        reward_funcs=reward,
        args=GRPOConfig(**_settings(folder, seed), disable_tqdm=True, max_tool_calling_iterations=4),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        environment_factory=Docs,
        callbacks=[clock],
    )
    generate, sampled = trainer._generate_and_score_completions, []

    def counting(inputs: Any) -> Any:
        batch = generate(inputs)
        sampled.append(int((batch["completion_mask"] * batch["tool_mask"]).sum()))
        return batch

    trainer._generate_and_score_completions = counting
    trainer.train()
    gaps = [end - start for start, end in zip(clock.ends, clock.ends[1:], strict=False)]
    return {"seconds": fmean(gaps), "tokens": fmean(sampled[1:STEPS]), "trained": EPISODES}
