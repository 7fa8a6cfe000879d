"""Promises about rows without a gradient: they are not computed, and loss and gradient are TRL's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.rows import METRICS, batch_of, differ, ours_and_theirs, with_old_logprobs
from toolrl.training import GRPORun
from toolrl.training.trainer import SampledTokensTrainer

ADVANTAGES = [0.0, 1.5, 0.0, 0.0, 0.0, -0.7, 0.0, 0.0]
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo")


@pytest.fixture
def computed(idle: GRPORun) -> Iterator[list[tuple[int, ...]]]:
    """The shapes that the model was given."""
    shapes: list[tuple[int, ...]] = []
    model: Any = idle.trainer.model
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield shapes
    hook.remove()


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_are_trls(
    trainer: Callable[..., SampledTokensTrainer], loss: str, level: str, corrected: bool
) -> None:
    ours = trainer(loss_type=loss, importance_sampling_level=level, use_vllm=corrected)
    batch = with_old_logprobs(ours, batch_of(ADVANTAGES))
    if not corrected:
        del batch["importance_sampling_ratio"]
    mine, theirs, *metrics = ours_and_theirs(ours, batch)
    assert theirs[1:].norm() > 0
    assert differ(mine, theirs) < 1e-4
    for name in set(METRICS) | {"cispo_clip_ratio"}:
        assert metrics[0].get(name) == metrics[1].get(name)


@pytest.mark.parametrize("loss", ["grpo", "dapo", "vespo"])
def test_micro_batches_add_up_to_trls_gradient(trainer: Callable[..., SampledTokensTrainer], loss: str) -> None:
    ours = trainer(loss_type=loss, current_gradient_accumulation_steps=3)
    batches = [batch_of(ADVANTAGES), batch_of([0.0] * 8, seed=1), batch_of(ADVANTAGES[::-1], seed=2)]
    for batch in batches:
        batch["num_items_in_batch"] = sum(each["num_items_in_batch"] for each in batches)
    mine, theirs, *_ = ours_and_theirs(ours, *batches)
    assert differ(mine, theirs) < 1e-4


def test_only_rows_with_an_advantage_are_computed(
    trainer: Callable[..., SampledTokensTrainer], computed: list[tuple[int, ...]]
) -> None:
    ours: Any = trainer()
    ours._compute_loss(ours.model, batch_of(ADVANTAGES))
    assert [rows for rows, _ in computed] == [2]
    computed.clear()
    # An advantage of tokens that were not sampled is none.
    batch = batch_of(ADVANTAGES)
    tokens = torch.zeros(8, 9)
    tokens[3] = 1.0 - batch["tool_mask"][3] * batch["completion_mask"][3]
    tokens[5, 0] = 0.2
    ours._compute_loss(ours.model, {**batch, "advantages": tokens})
    assert [rows for rows, _ in computed] == [1]


@pytest.mark.parametrize(
    "settings",
    [{"beta": 0.1}, {"_entropy_bonus_enabled": True, "entropy_coef": 0.1}, {"top_entropy_quantile": 0.5}],
)
def test_rows_that_something_else_needs_are_computed(
    trainer: Callable[..., SampledTokensTrainer], computed: list[tuple[int, ...]], settings: dict[str, Any]
) -> None:
    ours = trainer(**settings)
    batch = batch_of(ADVANTAGES)
    batch["ref_per_token_logps"] = with_old_logprobs(ours, batch)["old_per_token_logps"]
    computed.clear()
    mine, theirs, *_ = ours_and_theirs(ours, batch)
    assert computed[0][0] == 8
    assert differ(mine, theirs) < 1e-4


def test_rows_without_a_sampled_token_are_never_computed(
    trainer: Callable[..., SampledTokensTrainer], computed: list[tuple[int, ...]]
) -> None:
    batch = batch_of(ADVANTAGES)
    batch["tool_mask"][2:6] = 0
    ours = trainer(beta=0.1)
    batch["ref_per_token_logps"] = with_old_logprobs(ours, batch)["old_per_token_logps"]
    computed.clear()
    mine, theirs, *_ = ours_and_theirs(ours, batch)
    assert computed[0][0] == 4
    assert differ(mine, theirs) < 1e-4


def test_a_batch_without_advantages_gives_every_weight_a_gradient_of_0_for_next_to_no_work(
    trainer: Callable[..., SampledTokensTrainer], computed: list[tuple[int, ...]]
) -> None:
    mine, theirs, metrics, _ = ours_and_theirs(trainer(), batch_of([0.0] * 8))
    assert computed[0][0] == 1
    assert not mine.any()
    assert not theirs.any()
    assert metrics["entropy"][0] > 0, "the shortest row was computed"
    computed.clear()
    mine, *_ = ours_and_theirs(trainer(), batch_of([0.0]))
    assert computed[0] == (1, 2), "a row by itself is not"
    assert not mine.any()


def test_the_entropy_is_that_of_the_rows_computed(trainer: Callable[..., SampledTokensTrainer]) -> None:
    batch = batch_of(ADVANTAGES)
    some = {name: value if value.dim() == 0 else value[[1, 5]] for name, value in batch.items()}
    _, _, ours, _ = ours_and_theirs(trainer(), batch)
    _, _, _, of_computed = ours_and_theirs(trainer(), some)
    assert ours["entropy"] == pytest.approx(of_computed["entropy"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_processes_with_different_numbers_of_rows_average_trls_gradient(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run([*launch, "-m", "tests.training.rows", str(tmp_path)], env=environment, check=True, timeout=280)
