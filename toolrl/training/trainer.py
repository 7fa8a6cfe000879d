"""TRL's `GRPOTrainer` with a cheaper loss, and with its sampler watched. Relied on is what `trl.py` says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import trl.trainer.utils
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOTrainer  # type: ignore[attr-defined]
from trl.kernels import chunked_logprob

from toolrl.errors import ConfigError
from toolrl.training.arguments import MISMATCH_LIMIT
from toolrl.training.card import write_card
from toolrl.training.mismatch import Mismatch, add, as_tensor, compare

# Rows that go through the model together, padded to the longest of them.
ROWS_TOGETHER = 16
# Steps in a row whose loss or gradient is not finite, after which training ends.
BROKEN_STEPS = 5
# Without Triton, TRL's fused head scores every position, those without a label too, since some accelerators
# want shapes that never change. A CPU does not. The name decides nothing else in that module.
trl.trainer.utils._use_triton = (  # type: ignore[attr-defined]
    lambda device: device.type == "cpu" or chunked_logprob._use_triton(device)
)


class SampledTokensTrainer(GRPOTrainer):
    """TRL's trainer without the work that its loss masks away.

    TRL pads a batch to its longest prompt and its longest completion, and projects every position of the
    completions onto the vocabulary. Most tokens of an episode with tools are observations or padding. Here
    rows of like length go through the model together, and only sampled tokens are scored: the same loss.
    """

    mismatch_limit = MISMATCH_LIMIT  # nats a token; 0 for no alarm
    scored: list[bool] | None = None  # (B,), which episodes of the batch just played have a verdict
    model_name = ""
    env_ids: list[str] = []  # noqa: RUF012 - replaced, never changed
    _learnable = 0.0  # sampled tokens of scored episodes since the last optimiser step
    _broken = False  # whether a loss since then was not finite
    _alarms = 0  # steps left out since the last log
    _sampled: Tensor | None = None  # (B, C), while a loss is computed
    _scored: Tensor | None = None  # (B, C), what the loss was computed from
    _mismatches: list[Mismatch] | None = None  # since the last log

    def __init__(self, *args: Any, **kwargs: Any):
        """Build it as TRL's."""
        super().__init__(*args, **kwargs)
        self.add_callback(StepGuard(self))

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's, but that an episode without a verdict adds nothing: no advantage, no KL term, no entropy."""
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.scored is not None and "tool_mask" in batch:
            scored = torch.tensor(self.scored, device=batch["tool_mask"].device)
            batch["tool_mask"] = batch["tool_mask"] * scored[:, None]
            tokens = (batch["completion_mask"] * batch["tool_mask"]).sum()
            batch["num_items_in_batch"] = self.accelerator.gather(tokens).sum()
        return batch

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Tensor:
        self._sampled = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        try:
            loss = super()._compute_loss(model, inputs)
            if self.is_training:
                self._learnable += float(self._sampled.sum())
                self._broken = self._broken or not bool(torch.isfinite(loss))
            self._compare_with_sampler(inputs)
            return loss
        finally:
            self._sampled = self._scored = None

    @property
    def is_training(self) -> bool:
        """Whether this is a step, and not an evaluation."""
        return self.model is not None and self.model.training

    def _compare_with_sampler(self, inputs: dict[str, Any]) -> None:
        # Without old log-probabilities TRL takes the batch for on-policy: those of the loss are those at sampling.
        trainer, sampler = inputs.get("old_per_token_logps", self._scored), inputs.get("sampling_per_token_logps")
        if not self.is_training or trainer is None or sampler is None or self._sampled is None:
            return
        found = compare(trainer.detach(), sampler, self._sampled, inputs.get("importance_sampling_ratio"))
        gathered = self.accelerator.gather(as_tensor(found).to(self.accelerator.device))
        self._mismatches = [*(self._mismatches or []), *(Mismatch(*row) for row in gathered.tolist())]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's, with how far the sampler is from the trainer: `mismatch/...`, and 1 as `mismatch/alarm` if too far."""
        if self.is_training and self._mismatches:
            logs |= add(self._mismatches).metrics()
            self._mismatches = []
            if "mismatch/mean" in logs:
                logs["mismatch/alarm"] = float(0 < self.mismatch_limit < logs["mismatch/mean"])
        if self.is_training and self._alarms:
            logs["loss/alarm"] = float(self._alarms)
            self._alarms = 0
        super().log(logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The run's README.md; TRL's draft names no local model."""
        if self.is_world_process_zero():
            config: Any = self.args
            facts = {
                "loss": config.loss_type,
                "learning rate": config.learning_rate,
                "episodes of a task": config.num_generations,
                "tokens of an episode": config.max_completion_length,
                "steps": self.state.global_step,
            }
            write_card(
                Path(config.output_dir),
                method="GRPO",
                model=self.model_name,
                learnt_from=self.env_ids,
                citation=str(self._paper.get("citation", "")),
                facts=facts,
            )

    def _get_per_token_logps_and_entropies(
        self,
        model: torch.nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **inputs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities and entropies (B, C); 0 where nothing was sampled."""
        if compute_aux_loss or any(value is not None for value in inputs.values()):  # experts; images
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **inputs,
            )
        scored = attention_mask.clone()  # (B, P + C)
        scored[:, :-logits_to_keep] = 0
        if self._sampled is not None:
            scored[:, -logits_to_keep:] *= self._sampled
        labels = input_ids.masked_fill(scored == 0, -100)
        order = attention_mask.sum(1).argsort()
        logprobs, entropies = [], []
        for rows in order.split(min(batch_size or ROWS_TOGETHER, ROWS_TOGETHER)):
            used = attention_mask[rows].any(0).nonzero()
            columns = slice(int(used[0]), int(used[-1]) + 1)
            with self.accelerator.autocast():
                outputs = model(
                    input_ids=input_ids[rows, columns],
                    attention_mask=attention_mask[rows, columns],
                    labels=labels[rows, columns],
                    fused_lm_head=True,
                )
            # Of position t is the token at t + 1: back to where TRL looks for them, (rows, P + C).
            margins = (columns.start + 1, input_ids.size(1) - columns.stop)
            logprobs.append(torch.nn.functional.pad(outputs.log_probs, margins)[:, -logits_to_keep:])
            if compute_entropy:
                entropies.append(torch.nn.functional.pad(outputs.entropy, margins)[:, -logits_to_keep:])
        back = order.argsort()
        scores = torch.cat(logprobs)[back]
        self._scored = scores.detach()
        return scores, torch.cat(entropies)[back] if compute_entropy else None, None


class StepGuard(TrainerCallback):
    """Lets the optimiser leave the weights alone where a step has nothing to learn from, or would destroy them.

    Without gradients an optimiser does nothing, whereas gradients of 0 let it go on by momentum and weight decay.
    DeepSpeed keeps gradients of its own, which are not seen here.
    """

    def __init__(self, trainer: SampledTokensTrainer):
        """Guard a trainer."""
        self._trainer = trainer
        self._in_a_row = 0

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before each optimiser step, on every process."""
        trainer = self._trainer
        assert trainer.model is not None
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        broken = trainer._broken
        if trainer.accelerator.scaler is None:  # one tries too large a scale for fp16, and leaves steps out itself
            broken = broken or not all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        counts = torch.tensor([trainer._learnable, float(broken)], device=trainer.accelerator.device)
        learnable, breaks = trainer.accelerator.reduce(counts, reduction="sum").tolist()
        trainer._learnable, trainer._broken = 0.0, False
        self._in_a_row = self._in_a_row + 1 if breaks else 0
        if breaks or not learnable:
            trainer.model.zero_grad(set_to_none=True)
        if breaks:
            trainer._alarms += 1
        if self._in_a_row >= BROKEN_STEPS:
            raise ConfigError(
                f"the loss or its gradient was not finite in {BROKEN_STEPS} steps in a row, up to step "
                f"{state.global_step}; none of them changed the model. Lower learning_rate={args.learning_rate}, "
                "compute in bf16 and not in fp16, and look at the rewards"
            )
