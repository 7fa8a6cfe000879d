"""Promises about single steps: unscored episodes teach nothing, and non-finite losses change nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import TrainerCallback

from toolrl import ConfigError, InfrastructureError, Score, Task, ToolEnv, make
from toolrl.training import GRPORun
from toolrl.training.callbacks import MetricsCallback, ProgressCallback
from toolrl.training.step_guard import BROKEN_STEPS
from toolrl.view.metrics import read_metrics

DOCS = "toolrl/DocsSearch-v0"


def env_with(reward: Callable[[Task, Any], Score]) -> ToolEnv:
    docs = make(DOCS, size=20)
    return ToolEnv(tasks=docs.tasks, tools=docs.toolbox.tools.values(), reward=reward, system_prompt=docs.system_prompt)


def weights(run: GRPORun) -> list[torch.Tensor]:
    assert run.trainer.model is not None
    return [parameter.detach().clone() for parameter in run.trainer.model.parameters()]


def changed(run: GRPORun, before: list[torch.Tensor]) -> bool:
    return any(not torch.equal(now, then) for now, then in zip(weights(run), before, strict=True))


class Grader:
    """Scores the first episodes with varying rewards, and then fails."""

    def __init__(self, scored: int):
        self.calls, self.scored = 0, scored

    def __call__(self, task: Task, episode: Any) -> Score:
        self.calls += 1
        if self.calls > self.scored:
            raise InfrastructureError("the grader is down")
        return Score(float(self.calls % 3))


class Snapshots(TrainerCallback):
    """The weights after each step."""

    def __init__(self) -> None:
        self.taken: list[list[torch.Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.taken.append([parameter.detach().clone() for parameter in model.parameters()])


@pytest.mark.parametrize("beta", [0.0, pytest.param(0.5, marks=pytest.mark.slow)])
def test_a_step_without_scores_leaves_the_weights_unchanged_and_says_so(
    grpo_run: Callable[..., GRPORun], tmp_path: Path, beta: float
) -> None:
    console, snapshots = Console(record=True, width=200), Snapshots()
    progress = ProgressCallback(console)
    # Momentum and weight decay act without a gradient; the KL term and entropy have their own.
    settings = {"max_steps": 2, "weight_decay": 0.1, "beta": beta, "entropy_coef": 0.1, "learning_rate": 1e-3}
    callbacks = [MetricsCallback(tmp_path), progress, snapshots]
    run = grpo_run(
        {DOCS: env_with(Grader(8))}, {**settings, "lr_scheduler_type": "constant"}, retries=0, callbacks=callbacks
    )
    progress.run = run
    start = weights(run)
    run.train()
    assert all(trajectory.score.value is None for trajectory in run.last_batch)
    first, second = snapshots.taken
    assert any(not torch.equal(a, b) for a, b in zip(start, first, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    printed = " ".join(console.export_text().split())
    assert "no episode was scored, so nothing was learnt; for example: " in printed
    assert "the grader is down" in printed
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert len(rows) >= 2
    assert all(value is not None for row in rows for value in row.values())


def test_an_unscored_episode_has_no_kl_term(grpo_run: Callable[..., GRPORun]) -> None:
    run = grpo_run({DOCS: env_with(Grader(4))}, {"beta": 0.5}, retries=0)
    trainer = run.trainer
    trainer.model.train()
    batch = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    scored = torch.tensor([trajectory.score.value is not None for trajectory in run.last_batch])
    assert scored.sum() == 4
    assert batch["tool_mask"][~scored].sum() == 0
    assert batch["num_items_in_batch"] == (batch["tool_mask"] * batch["completion_mask"]).sum() > 0


@pytest.mark.parametrize(
    "reward", [3e38, pytest.param(-1e30, marks=pytest.mark.slow), pytest.param(1e19, marks=pytest.mark.slow)]
)
def test_a_reward_too_large_for_float32_is_refused(grpo_run: Callable[..., GRPORun], reward: float) -> None:
    calls = iter(range(100))
    run = grpo_run({DOCS: env_with(lambda task, episode: Score(reward if next(calls) == 3 else 1.0))})
    with pytest.raises(ConfigError, match=r"reward of toolrl/DocsSearch-v0 for task .* scale the rewards"):
        run.train()


def test_large_rewards_within_float32_train(grpo_run: Callable[..., GRPORun]) -> None:
    scored: Counter[str] = Counter()

    def reward(task: Task, episode: Any) -> Score:
        scored[task.id] += 1  # each group has both signs, in whatever order its episodes end
        return Score(9e17 * (-1) ** scored[task.id])

    run = grpo_run({DOCS: env_with(reward)})
    before = weights(run)
    run.train()
    assert changed(run, before)
    assert all(torch.isfinite(weight).all() for weight in weights(run))


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_and_raises_an_alarm(
    grpo_run: Callable[..., GRPORun], what: str
) -> None:
    console = Console(record=True, width=200)
    run = grpo_run({DOCS: env_with(Grader(10**6))}, {"max_steps": 2}, callbacks=[ProgressCallback(console)])
    compute = run.trainer._get_per_token_logps_and_entropies

    def poison(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * torch.nan

    def broken(*arguments: Any, **options: Any) -> Any:
        scores, *rest = compute(*arguments, **options)
        if what == "loss":
            scores = scores * torch.nan
        elif scores.requires_grad:
            scores.register_hook(poison)
        return (scores, *rest)

    run.trainer._get_per_token_logps_and_entropies = broken
    before = weights(run)
    run.train()
    assert not changed(run, before)
    assert [row["loss/alarm"] for row in run.trainer.state.log_history if "loss/alarm" in row] == [1.0, 1.0]
    assert "not finite in 1 step(s)" in console.export_text()


@pytest.mark.slow
def test_training_ends_when_no_loss_is_finite_any_more(grpo_run: Callable[..., GRPORun]) -> None:
    run = grpo_run({DOCS: env_with(Grader(10**6))}, {"max_steps": 20})
    compute = run.trainer._get_per_token_logps_and_entropies
    run.trainer._get_per_token_logps_and_entropies = lambda *a, **o: (
        compute(*a, **o)[0] * torch.nan,
        *compute(*a, **o)[1:],
    )
    with pytest.raises(ConfigError, match=f"not finite in {BROKEN_STEPS} consecutive steps"):
        run.train()
    assert run.trainer.state.global_step < 20


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_float32_weights_under_autocast_are_sampled_and_followed(
    grpo_run: Callable[..., GRPORun], precision: str
) -> None:
    run = grpo_run({DOCS: env_with(Grader(10**6))}, {precision: True, "max_steps": 3, "learning_rate": 1e-3})
    run.train()
    assert all(trajectory.score.value is not None for trajectory in run.last_batch)
    rows = [row for row in run.trainer.state.log_history if "mismatch/mean" in row]
    assert len(rows) == 3
    assert all(row["mismatch/mean"] < 0.05 for row in rows), "the copy does not follow"
    copy = next(iter(run.policy.model.parameters()))  # type: ignore[attr-defined]
    assert copy.dtype == (torch.bfloat16 if precision == "bf16" else torch.float16)
    assert next(iter(run.trainer.model.parameters())).dtype == torch.float32
