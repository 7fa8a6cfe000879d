"""Promises about the comparison of sampler and trainer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from toolrl.policy import TransformersPolicy
from toolrl.training import GRPORun
from toolrl.training.callbacks import ProgressCallback
from toolrl.training.metrics import Mismatch, measure_mismatch, sum_mismatches


def test_differences_count_for_sampled_tokens_with_a_logprob() -> None:
    trainer = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, -9.0]])
    sampler = torch.tensor([[-1.5, -2.0, -9.0], [-0.5, math.nan, -1.0]])
    sampled = torch.tensor([[1, 1, 0], [1, 1, 0]])
    found = measure_mismatch(trainer, sampler, sampled)
    assert (found.tokens, found.absolute, found.largest, found.masked) == (3, 1.0, 0.5, 0.0)
    ratio = [math.exp(0.5), 1.0, math.exp(-0.5)]
    assert found.divergence == pytest.approx(sum(r - 1 - math.log(r) for r in ratio))


def test_the_estimated_divergence_is_that_of_the_distributions() -> None:
    torch.manual_seed(0)
    sampler, trainer = (torch.randn(8).log_softmax(0) for _ in range(2))
    drawn = torch.multinomial(sampler.exp(), 200_000, replacement=True)[None]
    found = measure_mismatch(trainer[drawn], sampler[drawn], torch.ones_like(drawn))
    exact = float((sampler.exp() * (sampler - trainer)).sum())
    assert found.metrics()["mismatch/kl"] == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("weight", [[[0.0], [1.0]], [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]])
def test_tokens_that_importance_correction_masks_are_counted(weight: list[list[float]]) -> None:
    logprobs = torch.zeros(2, 3)
    found = measure_mismatch(logprobs, logprobs, torch.tensor([[1, 1, 0], [1, 1, 0]]), torch.tensor(weight))
    assert found.metrics()["mismatch/masked_share"] == 0.5


def test_mismatches_add_up_and_no_tokens_give_no_metrics() -> None:
    both = sum_mismatches([Mismatch(2, 1.0, 0.6, 0.2, 1), Mismatch(6, 1.0, 0.9, 0.2, 0)])
    assert both.metrics() == pytest.approx(
        {"mismatch/mean": 0.25, "mismatch/max": 0.9, "mismatch/kl": 0.05, "mismatch/masked_share": 0.125}
    )
    nothing = measure_mismatch(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2))
    assert sum_mismatches([nothing]).metrics() == {}


def logged(run: GRPORun, name: str) -> list[float]:
    return [row[name] for row in run.trainer.state.log_history if name in row]


def test_training_logs_the_mismatch_of_the_model_itself_too(grpo_run: Callable[..., GRPORun]) -> None:
    run = grpo_run(changes={"max_steps": 2})
    run.trainer.train()
    assert len(logged(run, "mismatch/mean")) == 2
    assert max(logged(run, "mismatch/max")) < 1e-3
    assert logged(run, "mismatch/alarm") == [0.0, 0.0]


@pytest.mark.parametrize(
    ("limit", "alarm"),
    [(0.05, 1.0), pytest.param(0.0, 0.0, marks=pytest.mark.slow), pytest.param(9.0, 0.0, marks=pytest.mark.slow)],
)
def test_a_sampler_with_other_logprobs_trips_the_alarm(
    grpo_run: Callable[..., GRPORun], monkeypatch: pytest.MonkeyPatch, limit: float, alarm: float
) -> None:
    run = grpo_run(mismatch_limit=limit)
    assert isinstance(run.policy, TransformersPolicy)
    submit = run.policy.submit

    def shifted(prompt_ids: list[int], sampling: Any) -> Any:
        future = submit(prompt_ids, sampling)
        sample = future.result()
        sample.logprobs[:] = [logprob - 0.1 for logprob in sample.logprobs]
        return future

    monkeypatch.setattr(run.policy, "submit", shifted)
    run.trainer.train()
    assert logged(run, "mismatch/mean") == pytest.approx([0.1], abs=1e-3)
    assert logged(run, "mismatch/alarm") == [alarm]


@pytest.mark.parametrize("alarm", [0.0, 1.0])
def test_an_alarm_is_printed(alarm: float) -> None:
    console = Console(record=True, width=300)
    logs = {"reward": 0.5, "mismatch/mean": 0.25, "mismatch/max": 3.0, "mismatch/masked_share": 0.5}
    ProgressCallback(console).on_log(
        TrainingArguments(use_cpu=True), TrainerState(), TrainerControl(), {**logs, "mismatch/alarm": alarm}
    )
    assert ("differ by 0.250 nats a token, at most by 3.00; 50% of" in console.export_text()) is bool(alarm)
