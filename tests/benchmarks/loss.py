"""Loss and gradient of one batch of tool episodes, with all advantages, and with most of them 0.

The same trainer on the same batch, 64 episodes of the embedded policy on the three environments, computes it three
times: as TRL scores every padded position, as toolrl scores the sampled tokens of every row by itself, and as it does
for rows with an advantage only, whose prompt is computed once a group. The gradients are compared too.
"""

from __future__ import annotations

import copy
import tempfile
import time
from functools import partial
from statistics import median
from typing import Any

import torch
import trl.trainer.utils
from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]
from trl.kernels import chunked_logprob

from tests.benchmarks.common import EPISODES, table
from toolrl import make
from toolrl.policy.models import load_model, load_tokenizer
from toolrl.training import GRPORun

trl_utils: Any = trl.trainer.utils
REPEATS = 3
ZERO_SHARE = 0.85
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
        rows = [_compare(trainer, batch, share) for share in (0.0, ZERO_SHARE)]
        run.close()
    padded = batch["completion_mask"].numel() + batch["prompt_mask"].numel()
    real = int(batch["completion_mask"].sum() + batch["prompt_mask"].sum())
    sampled = int((batch["completion_mask"] * batch["tool_mask"]).sum())
    title = f"Loss and gradient of {EPISODES} episodes: {padded:,} positions, {real:,} tokens, {sampled:,} sampled"
    columns = [
        "advantages of 0", "TRL's scoring", "sampled tokens of all rows", "with an advantage, shared prompts",
        "faster than TRL", "faster than all rows", "gradient differs from TRL's by",
    ]  # fmt: skip
    return table(title, columns, rows)


def _compare(trainer: Any, batch: dict[str, Any], zero_share: float) -> list[str]:
    """A row of the table: medians, and the range of the ratios."""
    advantages = torch.tensor([1.0, -1.0]).repeat(EPISODES // 2)
    advantages[: round(zero_share * EPISODES)] = 0  # of whole groups, but for one
    ours = (
        trainer._get_per_token_logps_and_entropies, trainer._has_gradient, trainer._packs, trl_utils._use_triton
    )  # fmt: skip
    scoring, needs_rows, packs, triton = ours
    theirs = (
        partial(GRPOTrainer._get_per_token_logps_and_entropies, trainer), needs_rows, packs, chunked_logprob._use_triton
    )  # fmt: skip
    all_rows: Any = scoring, lambda advantages, mask: torch.ones_like(mask[:, :1]), lambda *_: [], triton
    gradients = []

    def seconds(way: tuple[Any, Any, Any, Any]) -> float:
        (
            trainer._get_per_token_logps_and_entropies, trainer._has_gradient, trainer._packs, trl_utils._use_triton
        ) = way  # fmt: skip
        trainer.model.zero_grad()
        start = time.perf_counter()
        trainer.compute_loss(trainer.model, {**copy.copy(batch), "advantages": advantages}).backward()
        spent = time.perf_counter() - start
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()]))
        return spent

    try:
        for way in (ours, all_rows, theirs):
            seconds(way)
        difference = (gradients[0] - gradients[2]).norm() / gradients[2].norm()
        times = [(seconds(theirs), seconds(all_rows), seconds(ours)) for _ in range(REPEATS)]
    finally:
        trainer._get_per_token_logps_and_entropies, trainer._has_gradient, trainer._packs, trl_utils._use_triton = ours
    row = [f"{zero_share:.0%}", *(f"{median(column):.2f} s" for column in zip(*times, strict=True))]
    for ratios in [theirs / ours for theirs, _, ours in times], [all / ours for _, all, ours in times]:
        row.append(f"{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
    return [*row, f"{difference:.0e}"]
