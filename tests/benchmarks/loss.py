"""Loss and gradient of one batch of tool episodes: TRL's scoring of every padded position compared with ours.

Both are the same trainer on the same batch, 64 episodes of the embedded policy on the three environments,
so the loss is the same too (tests/training/test_trl.py compares the gradients).
"""

from __future__ import annotations

import copy
import tempfile
import time
from functools import partial
from statistics import median
from typing import Any

import trl.trainer.utils
from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]
from trl.kernels import chunked_logprob

from tests.benchmarks.common import EPISODES, table
from toolrl import make
from toolrl.policy.models import load_model, load_tokenizer
from toolrl.training import GRPORun

trl_utils: Any = trl.trainer.utils
REPEATS = 5
ENVIRONMENTS = ("toolrl/PythonMath-v0", "toolrl/DocsSearch-v0", "toolrl/DocsCompute-v0")


def main() -> str:
    with tempfile.TemporaryDirectory() as folder:
        args = GRPOConfig(
            folder, per_device_train_batch_size=EPISODES, num_generations=8, max_steps=1, max_completion_length=256,
            gradient_checkpointing=False, bf16=False, use_cpu=True, report_to="none",
        )  # fmt: skip
        run = GRPORun(
            load_model("tiny"), load_tokenizer("tiny"), {name: make(name) for name in ENVIRONMENTS}, args,
            max_turn_tokens=64,
        )  # fmt: skip
        trainer: Any = run.trainer  # the trainer's methods are swapped
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        batch = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
        ours = trainer._get_per_token_logps_and_entropies, trl_utils._use_triton
        theirs = partial(GRPOTrainer._get_per_token_logps_and_entropies, trainer), chunked_logprob._use_triton

        def seconds(scoring: tuple[Any, Any]) -> float:
            trainer._get_per_token_logps_and_entropies, trl_utils._use_triton = scoring
            start = time.perf_counter()
            trainer.compute_loss(trainer.model, copy.copy(batch)).backward()
            return time.perf_counter() - start

        seconds(ours), seconds(theirs)
        pairs = [(seconds(theirs), seconds(ours)) for _ in range(REPEATS)]
        trl_utils._use_triton = ours[1]
        run.close()
    padded = batch["completion_mask"].numel() + batch["prompt_mask"].numel()
    real = int(batch["completion_mask"].sum() + batch["prompt_mask"].sum())
    sampled = int((batch["completion_mask"] * batch["tool_mask"]).sum())
    slow, fast = (median(column) for column in zip(*pairs, strict=True))
    row = [f"{padded:,}", f"{real:,}", f"{sampled:,}", f"{slow:.2f} s", f"{fast:.2f} s"]
    row.append(f"{median(a / b for a, b in pairs):.1f}")
    columns = ["positions with padding", "tokens", "sampled", "TRL's scoring", "toolrl's", "ratio"]
    return table(f"Loss and gradient of {EPISODES} episodes", columns, [row])
