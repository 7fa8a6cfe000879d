"""What models do with questions that no template made, and in an environment that they were not trained on.

A hundred questions in other words (`paraphrased=True` of PythonMath and DocsSearch), and `toolrl/WorldQA-v0` with one
fact a question. TRANSFER_MODELS names the models; by default those of `make train` and `make train-lm`, before
and after.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from tests.benchmarks.common import table
from toolrl import Renderer, SamplingParams, make
from toolrl.evaluation import evaluate
from toolrl.policy import TransformersPolicy
from toolrl.policy.models import load_model, load_tokenizer

MODELS = os.environ.get(
    "TRANSFER_MODELS", "tiny runs/tiny/model smollm2 runs/smollm2-sft/model runs/smollm2/model"
).split()
ENVIRONMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "PythonMath, in other words": ("toolrl/PythonMath-v0", {"paraphrased": True}),
    "DocsSearch, in other words": ("toolrl/DocsSearch-v0", {"paraphrased": True}),
    "WorldQA, one fact": ("toolrl/WorldQA-v0", {"hops": 1, "results": 1, "snippet_characters": 120, "size": 100}),
}
TEMPERATURE = {"tiny": 0.6, "runs/tiny/model": 0.6}  # as in training; the others at 0.8


def main() -> str:
    rows = []
    for model in MODELS:
        if "/" in model and not Path(model).is_dir():
            return (
                f"transfer: {model!r} is missing; `make train` and `make train-lm` write it, or set TRANSFER_MODELS\n"
            )
        for name, report in play(model).items():
            low, high = report.success_interval
            share = report.call_share_needed
            rows.append(
                [
                    model,
                    name,
                    report.samples,
                    f"{report.success:.2f} [{low:.2f}, {high:.2f}]",
                    "-" if share is None else f"{share:.2f}",
                    "-" if report.call_share_needless is None else f"{report.call_share_needless:.2f}",
                ]
            )
            print(rows[-1], flush=True)
    columns = ["model", "questions", "episodes", "success", "tool use if needed", "if not"]
    return table("Questions and an environment that were not trained on", columns, rows)


def play(model: str) -> dict[str, Any]:
    """Reports by the names of `ENVIRONMENTS`."""
    renderer = Renderer(load_tokenizer(model))
    policy = TransformersPolicy(load_model(model), stop_token_ids=renderer.stop_token_ids, seed=0)
    with ExitStack() as stack, closing(policy):
        environments = {
            name: stack.enter_context(closing(make(env_id, split="test", **settings)))
            for name, (env_id, settings) in ENVIRONMENTS.items()
        }
        return evaluate(
            environments,
            policy,
            renderer,
            sampling=SamplingParams(TEMPERATURE.get(model, 0.8), 96),
            max_completion_tokens=640,
        )
