"""A batch with known advantages, and the loss and gradient that TRL and toolrl compute for it.

As a program, one of two processes that compare them: `torchrun --nproc_per_node=2 -m tests.training.rows FOLDER`.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]
from trl.trainer.utils import pad

from toolrl import Trajectory, make
from toolrl.policy.models import load_model, load_tokenizer
from toolrl.training import GRPORun
from toolrl.training.trainer import ROWS_TOGETHER, SampledTokensTrainer
from toolrl.training.tree import columns_of

PROMPT, COMPLETION = 5, 9
PAD, EOS = 0, 2
METRICS = ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/low_min", "clip_ratio/high_max")


def run_for_rows(output_dir: str, **changes: Any) -> GRPORun:
    """A run that is not started."""
    args = GRPOConfig(
        output_dir, per_device_train_batch_size=8, num_generations=4, max_steps=1, max_completion_length=32,
        gradient_checkpointing=False, bf16=False, use_cpu=True, report_to="none", **changes,
    )  # fmt: skip
    name = "toolrl/PythonMath-v0"
    run = GRPORun(load_model("tiny"), load_tokenizer("tiny"), {name: make(name, size=20)}, args)
    assert run.trainer.model is not None
    run.trainer.model.train()
    run.trainer.current_gradient_accumulation_steps = 1  # set by the training loop, which is not running here
    return run


def batch_of(advantages: Sequence[float] | torch.Tensor, seed: int = 0, group: int = 1) -> dict[str, Any]:
    """Random rows of different lengths, with observations, and with log-probabilities of other policies.

    Each `group` of them has one prompt.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    rows = len(advantages)
    lengths = torch.randint(3, COMPLETION + 1, (rows, 1), generator=generator)
    completion_mask = (torch.arange(COMPLETION) < lengths).long()
    tool_mask = (random(rows, COMPLETION) < 0.7).long()
    tool_mask[:, 0] = 1
    starts = torch.randint(0, PROMPT - 1, (rows, 1), generator=generator)
    first = torch.arange(rows) // group * group
    return {
        "prompt_ids": torch.randint(10, 300, (rows, PROMPT), generator=generator)[first],
        "prompt_mask": (torch.arange(PROMPT) >= starts).long()[first],
        "completion_ids": torch.randint(10, 300, (rows, COMPLETION), generator=generator),
        "completion_mask": completion_mask,
        "tool_mask": tool_mask,
        "advantages": torch.as_tensor(advantages, dtype=torch.float32),
        "num_items_in_batch": (completion_mask * tool_mask).sum(),
        "noise": random(rows, COMPLETION) - 0.5,
        "importance_sampling_ratio": 0.5 + random(rows, COMPLETION),
    }


def batch_of_trees(
    trajectories: Sequence[Trajectory], advantages: Sequence[float]
) -> tuple[dict[str, Any], Sequence[Any]]:
    """A batch as TRL makes it of what `rollout_func` returns, and its trees."""
    columns, trees = columns_of(trajectories, EOS, PAD, ())

    def padded(rows: Sequence[Sequence[int]], side: str = "right") -> torch.Tensor:
        return pad([torch.tensor(row) for row in rows], PAD, side)

    prompts, completions, mask = columns["prompt_ids"], columns["completion_ids"], padded(columns["env_mask"])
    return {
        "prompt_ids": padded(prompts, "left"),
        "prompt_mask": padded([[1] * len(row) for row in prompts], "left"),
        "completion_ids": padded(completions),
        "completion_mask": padded([[1] * len(row) for row in completions]),
        "tool_mask": mask,
        "advantages": torch.tensor(advantages),
        "num_items_in_batch": mask.sum(),
    }, trees


def batch_of_conversations(trajectories: Sequence[Trajectory], advantages: Sequence[float]) -> dict[str, Any]:
    """The same with each conversation as an episode of its own."""
    rows = [
        (replace(part, branches=()), value)
        for one, value in zip(trajectories, advantages, strict=True)
        for part in (*one.branches, one)
    ]
    return batch_of_trees([part for part, _ in rows], [value for _, value in rows])[0]


def with_old_logprobs(trainer: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """As if another policy had sampled: ratios between 0.6 and 1.6."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    with torch.no_grad():
        logprobs = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, COMPLETION)[0]
    return {**batch, "old_per_token_logps": logprobs + batch["noise"]}


def gradient_of(trainer: Any, compute: Callable[..., torch.Tensor], *batches: dict[str, Any]) -> torch.Tensor:
    """The losses of micro-batches (M,) and the gradient of their sum, in one vector."""
    trainer.model.zero_grad()
    losses = []
    for batch in batches:
        losses.append(compute(trainer.model_wrapped, copy.copy(batch)))
        losses[-1].backward()
    gradients = [p.grad.flatten() for p in trainer.model.parameters()]  # none may be missing
    return torch.cat([torch.stack(losses).detach(), *gradients])


def ours_and_theirs(
    trainer: SampledTokensTrainer, *batches: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, dict[str, list[float]], dict[str, list[float]]]:
    """Loss and gradient of toolrl and of TRL, and the metrics of each."""
    untyped: Any = trainer
    metrics = untyped._metrics["train"]
    metrics.clear()
    ours, our_metrics = gradient_of(trainer, untyped._compute_loss, *batches), copy.deepcopy(metrics)
    metrics.clear()
    untyped._get_per_token_logps_and_entropies = partial(GRPOTrainer._get_per_token_logps_and_entropies, trainer)
    try:
        theirs = gradient_of(trainer, partial(GRPOTrainer._compute_loss, trainer), *batches)
    finally:
        del untyped._get_per_token_logps_and_entropies
    return ours, theirs, our_metrics, copy.deepcopy(metrics)


def differ(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The relative difference of two vectors."""
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-12))


def main(output_dir: str) -> None:
    """Compare on each process: its rows differ from the other's in how many have an advantage."""
    run = run_for_rows(output_dir)
    trainer: Any = run.trainer
    trainer.model_wrapped = trainer.accelerator.prepare(trainer.model)
    rank, many = trainer.accelerator.process_index, ROWS_TOGETHER + 4
    assert trainer.accelerator.num_processes == 2
    for own in ([1.0] * many, [0.0] * many), ([0.0] * many, [0.5, -0.5, *[0.0] * (many - 2)]), ([0.0] * many,) * 2:
        batch = batch_of(own[rank], seed=rank)
        batch["num_items_in_batch"] = trainer.accelerator.gather(batch["num_items_in_batch"]).sum()
        for case in batch, with_old_logprobs(trainer, batch):
            ours, theirs, *metrics = ours_and_theirs(trainer, case)
            gathered = trainer.accelerator.gather(ours[1:])
            assert torch.equal(gathered[: len(ours) - 1], gathered[len(ours) - 1 :]), "gradients were not averaged"
            assert (gathered == 0).all() == all(not any(row) for row in own)
            assert differ(ours, theirs) < 1e-4, (own, differ(ours, theirs))
            assert all(metrics[0][name] == metrics[1][name] for name in METRICS), metrics
    run.close()


if __name__ == "__main__":
    main(sys.argv[1])
