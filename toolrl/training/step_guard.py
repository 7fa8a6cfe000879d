"""Keeps the weights from steps that would destroy them, or that nothing was learned for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerState

from toolrl.errors import ConfigError

if TYPE_CHECKING:
    from toolrl.training.trainer import SampledTokensTrainer

# Training ends after this many consecutive steps whose loss or gradient is not finite.
BROKEN_STEPS = 5


class StepGuard(TrainerCallback):
    """Skips an optimiser step if no episode was scored, or if it would destroy the weights.

    Without gradients an optimiser does nothing; with gradients of 0, momentum and weight decay would still move the
    weights. DeepSpeed's own gradients are not covered.
    """

    def __init__(self, trainer: SampledTokensTrainer):
        """Guard this trainer."""
        self._trainer = trainer
        self._consecutive = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._trainer.clock.start()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """The last callback of a step: what the others did belongs to it."""
        self._trainer.clock.end_step()

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Before each optimiser step, on every process."""
        trainer = self._trainer
        assert trainer.model is not None
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        broken = trainer._broken
        if trainer.accelerator.scaler is None:  # fp16's scaler skips steps itself while it lowers its scale
            broken = broken or not all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        counts = torch.tensor([trainer._learnable, float(broken)], device=trainer.accelerator.device)
        learnable, breaks = trainer.accelerator.reduce(counts, reduction="sum").tolist()
        trainer._learnable, trainer._broken = 0.0, False
        self._consecutive = self._consecutive + 1 if breaks else 0
        if breaks or not learnable:
            trainer.model.zero_grad(set_to_none=True)
        if breaks:
            trainer._alarms += 1
        if self._consecutive >= BROKEN_STEPS:
            raise ConfigError(
                f"the loss or its gradient was not finite in {BROKEN_STEPS} consecutive steps, up to step "
                f"{state.global_step}; none of them changed the model. Lower --learning_rate {args.learning_rate}, "
                "use bf16 instead of fp16, and check the rewards"
            )
