"""TRL's `GRPOTrainer` with a cheaper loss, and with everything that a sampler needs of its internals.

`trl.py` lists what this relies on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import trl.trainer.grpo_trainer
import trl.trainer.utils
from torch import Tensor
from trl import GRPOTrainer  # type: ignore[attr-defined]
from trl.kernels import chunked_logprob

from toolrl.training.arguments import MISMATCH_LIMIT
from toolrl.training.card import write_card
from toolrl.training.credit import Credit
from toolrl.training.metrics import Mismatch, measure_mismatch, sum_mismatches
from toolrl.training.shared_prompt import Packed, can_share, pack_groups, shares_exactly, shuffle_groups
from toolrl.training.step_guard import StepGuard
from toolrl.training.timing import StepClock
from toolrl.training.tree import Tree, pack_trees

with warnings.catch_warnings():
    # TRL 1.16 knows vLLM up to 0.31; what is used here is tested with 0.32.
    warnings.filterwarnings("ignore", message="TRL currently supports vLLM")
    from trl.generation.vllm_generation import VLLMGeneration

# Rows per forward pass, padded to the longest of them.
ROWS_TOGETHER = 16
# Without Triton, TRL's fused head scores positions without a label too, because some accelerators need constant shapes.
# A CPU does not. The name is used for nothing else in that module.
trl.trainer.utils._use_triton = (  # type: ignore[attr-defined]
    lambda device: device.type == "cpu" or chunked_logprob._use_triton(device)
)


class SampledTokensTrainer(GRPOTrainer):
    """TRL's trainer without the work that its loss masks.

    TRL pads a batch to its longest prompt and its longest completion, and projects every position of the completions
    onto the vocabulary. Most tokens of an episode with tools are its prompt, observations or padding, and most groups
    have no variance once a model is good. Here a prompt that rows share is computed once (`shared_prompt`), other rows
    of similar length are batched together, only sampled tokens are scored, and rows that add 0 to the gradient are left
    out of the forward and backward passes: those without a sampled token, and, where the loss is nothing but advantages
    times ratios, those whose advantages are all 0. Normalisers count them still: the loss and its gradient are TRL's.

    Clip ratios are those of all rows, since a row without an advantage is never clipped. `entropy`, and `mismatch/...`
    where the loss computes the log-probabilities, are over the rows that were computed: the shortest if none need be.
    The old and reference log-probabilities, which TRL computes before it has rewards, are those of all rows.
    """

    mismatch_limit = MISMATCH_LIMIT  # nats a token; 0 for no alarm
    scored: list[bool] | None = None  # (B,), which episodes of the latest batch have a score
    before_checkpoint: Callable[[Path], None] | None = None  # gets the checkpoint's folder
    credit: Credit | None = None  # of the latest batch
    model_name = ""
    fresh: list[bool] | None = None  # (B,), which episodes the trainer's own weights sampled
    sources: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed
    trees: Sequence[Tree] = ()  # (B,), the conversations of each episode of the latest batch, where there are several
    _places: Tensor | None = None  # (B,), where in that batch the rows are for which a loss is computed
    _learnable = 0.0  # sampled tokens of scored episodes since the last optimiser step
    _broken = False  # whether a loss since then was not finite
    _alarms = 0  # steps skipped since the last log
    _sampled: Tensor | None = None  # (B, C), the tokens to score while a loss is computed
    _left_out: Tensor | None = None  # (B, C), sampled tokens that the loss multiplies by 0
    _old_logprobs: Tensor | None = None  # (B, C), if the batch has them
    _logprobs: Tensor | None = None  # (B, C), from which the loss was computed
    _mismatches: list[Mismatch] | None = None  # since the last log
    _shares: bool | None = None  # whether the model's log-probabilities are right with shared prompts

    def __init__(self, *args: Any, **kwargs: Any):
        """Take the arguments of TRL's trainer."""
        self.clock = StepClock()
        super().__init__(*args, **kwargs)
        self.add_callback(StepGuard(self))

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """TRL's; the rows of a group stay together."""
        module: Any = trl.trainer.grpo_trainer
        shuffle, module.shuffle_sequence_dict = module.shuffle_sequence_dict, shuffle_groups
        try:
            return super()._prepare_inputs(generation_batch)
        finally:
            module.shuffle_sequence_dict = shuffle

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's, without advantage, KL term and entropy for an unscored episode, with the advantages of `credit`."""
        self._places = None
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if any(self.trees):
            batch["place"] = torch.arange(len(self.trees), device=batch["completion_ids"].device)
        if self.scored is not None and "tool_mask" in batch:
            if self.fresh is not None:
                batch["fresh"] = torch.tensor(self.fresh, device=batch["tool_mask"].device)
            scored = torch.tensor(self.scored, device=batch["tool_mask"].device)
            batch["tool_mask"] = batch["tool_mask"] * scored[:, None]
            tokens = (batch["completion_mask"] * batch["tool_mask"]).sum()
            batch["num_items_in_batch"] = self.accelerator.gather(tokens).sum()
        if self.credit is not None:
            batch["advantages"] = self._credited(batch["advantages"], self.credit, batch["completion_ids"].size(1))
        return batch

    def _credited(self, advantages: Tensor, credit: Credit, width: int) -> Tensor:
        """The advantages of a batch: TRL's (B,), leave-one-out ones (B,), or those of tokens (B, C)."""
        if credit.advantages is not None:
            rows = [row + [0.0] * (width - len(row)) if isinstance(row, list) else row for row in credit.advantages]
            advantages = torch.tensor(rows, dtype=advantages.dtype, device=advantages.device)
        zero = torch.tensor(credit.zero, device=advantages.device)
        return advantages.masked_fill(zero.reshape(-1, *[1] * (advantages.dim() - 1)), 0.0)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """TRL's, measured."""
        with self.clock.part("forward_backward"):
            return super().training_step(*args, **kwargs)

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Tensor:
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        self._sampled = mask * self._has_gradient(inputs["advantages"], mask)
        self._places = inputs.get("place")
        self._left_out, self._old_logprobs = (mask - self._sampled).bool(), inputs.get("old_per_token_logps")
        try:
            loss = super()._compute_loss(model, inputs)
            if self.is_training:
                self._learnable += float(mask.sum())
                self._broken = self._broken or not bool(torch.isfinite(loss))
            self._compare_with_sampler(inputs, mask)
            return loss
        finally:
            self._sampled = self._left_out = self._old_logprobs = self._logprobs = None

    def _has_gradient(self, advantages: Tensor, mask: Tensor) -> Tensor:
        """Whether a row is computed, (B, 1): if it adds more than 0 to the gradient."""
        others = (self.beta, self._entropy_bonus_enabled, self.top_entropy_quantile < 1.0, self.aux_loss_enabled)
        if not self.is_training or any(others):
            return torch.ones_like(mask[:, :1])
        needed = (advantages.reshape(len(mask), -1) * mask).any(1, keepdim=True)
        if len(mask) > 1 and not needed.any():  # the shortest row, so that entropy and mismatch are known of every step
            tokens = mask.sum(1)
            needed[tokens.masked_fill(tokens == 0, mask.numel()).argmin()] = True
        return needed

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """TRL's, after what else belongs to a checkpoint: trainer_state.json, written last, says that it is whole."""
        if self.before_checkpoint is not None:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            self.before_checkpoint(folder)
        super()._save_checkpoint(model, trial)

    @property
    def is_training(self) -> bool:
        """Whether the trainer is training, not evaluating."""
        return self.model is not None and self.model.training

    def _compare_with_sampler(self, inputs: dict[str, Any], mask: Tensor) -> None:
        # Without old log-probabilities TRL treats the batch as on-policy: the loss has those of the sampled policy.
        trainer, sampler = inputs.get("old_per_token_logps"), inputs.get("sampling_per_token_logps")
        if trainer is None and self._sampled is not None:
            trainer, mask = self._logprobs, self._sampled
        if not self.is_training or trainer is None or sampler is None:
            return
        fresh = inputs["fresh"][:, None] if "fresh" in inputs else 1
        weight = inputs.get("importance_sampling_ratio")
        found = measure_mismatch(trainer.detach(), sampler, mask * fresh, weight)
        sums = torch.tensor([found], dtype=torch.float64, device=self.accelerator.device)  # (1, 5)
        gathered = self.accelerator.gather(sums).tolist()  # a row per process
        self._mismatches = [*(self._mismatches or []), *(Mismatch(*row) for row in gathered)]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's, with `time/...` and `mismatch/...`; `mismatch/alarm` is 1 if sampler and trainer differ too much."""
        if self.is_training and self._mismatches:
            logs |= sum_mismatches(self._mismatches).metrics()
            self._mismatches = []
            if "mismatch/mean" in logs:
                logs["mismatch/alarm"] = float(0 < self.mismatch_limit < logs["mismatch/mean"])
        if self.is_training and self._alarms:
            logs["loss/alarm"] = float(self._alarms)
            self._alarms = 0
        seconds, total, tokens = self.clock.report()
        if seconds:
            logs |= {f"time/{part}": value for part, value in seconds.items()}
            sampled = self.accelerator.reduce(torch.tensor(float(tokens), device=self.accelerator.device), "sum")
            logs["sampled_tokens_per_second"] = float(sampled) / total
        super().log(logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the run's README.md."""
        if self.is_world_process_zero():
            config: Any = self.args
            names = (
                "loss_type", "learning_rate", "num_generations", "generation_batch_size", "max_completion_length",
                "temperature", "beta", "seed",
            )  # fmt: skip
            facts = {"steps": self.state.global_step} | {name: getattr(config, name) for name in names}
            citation = str(self._paper.get("citation", ""))
            write_card(
                config, method="GRPO", model=self.model_name, sources=self.sources, facts=facts, citation=citation
            )

    @property
    def shards_weights(self) -> bool:
        """Whether FSDP or DeepSpeed's ZeRO-3 splits the weights between processes."""
        plugin = self.args.deepspeed_plugin
        return self.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)

    @property
    def vllm_engine(self) -> Any:
        """The engine that TRL has made for `use_vllm`."""
        return self.vllm_generation.llm

    def correct_for_sampler(self) -> None:
        """Have TRL correct for a sampler that differs slightly from the trainer, without an engine of its own."""
        self.use_vllm = True
        self.vllm_generation = _Synchronised()  # type: ignore[assignment]
        self._last_loaded_step = -1

    def sync_vllm(self) -> None:
        """Send the weights to what TRL has set up for `use_vllm`, if anything."""
        config: Any = self.args
        if config.use_vllm and self._last_loaded_step != self.state.global_step:
            self.vllm_generation.sync_weights()
            self._last_loaded_step = self.state.global_step

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
        """Log-probabilities and entropies (B, C); 0 for tokens that were not sampled."""
        if compute_aux_loss or any(value is not None for value in inputs.values()):  # experts; images
            options = (batch_size, compute_entropy, compute_aux_loss)
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *options, **inputs
            )
        scored = attention_mask.clone()  # (B, P + C)
        scored[:, :-logits_to_keep] = 0
        if self._sampled is not None:
            scored[:, -logits_to_keep:] *= self._sampled
        labels = input_ids.masked_fill(scored == 0, -100)
        together = min(batch_size or ROWS_TOGETHER, ROWS_TOGETHER)
        order = attention_mask.sum(1).argsort()
        order = order[scored[order].any(1)]
        trees = self._trees_of(order.tolist())
        order = order[~torch.isin(order, torch.tensor(list(trees), device=order.device))]
        packs = self._packs(model, input_ids, attention_mask, labels, logits_to_keep, order, together)
        if trees:
            packs += pack_trees(trees, input_ids, attention_mask, labels, logits_to_keep, share=bool(self._shares))
        alone = torch.ones(len(input_ids), dtype=torch.bool, device=order.device)
        for packed in packs:
            alone[packed.rows] = False
        order = order[alone[order]]
        chunks = order.split(together) if len(order) else ()
        passes = self._most_passes(len(chunks) + len(packs))
        logprobs, entropies = [], []
        for rows in chunks:
            used = attention_mask[rows].any(0).nonzero()
            columns = slice(int(used[0]), int(used[-1]) + 1)
            with self.accelerator.autocast():
                ids, mask = input_ids[rows, columns], attention_mask[rows, columns]
                outputs = model(input_ids=ids, attention_mask=mask, labels=labels[rows, columns], fused_lm_head=True)
            # Position t scores the token at t + 1. Pad to the columns that TRL expects, (rows, P + C).
            margins = (columns.start + 1, input_ids.size(1) - columns.stop)
            logprobs.append(torch.nn.functional.pad(outputs.log_probs, margins)[:, -logits_to_keep:])
            if compute_entropy:
                entropies.append(torch.nn.functional.pad(outputs.entropy, margins)[:, -logits_to_keep:])

        def in_place(parts: list[Tensor]) -> Tensor:
            scores = torch.zeros(len(input_ids), logits_to_keep, device=input_ids.device)
            return scores.to(parts[0].dtype).index_copy(0, order, torch.cat(parts)) if parts else scores

        scores, entropy = in_place(logprobs), in_place(entropies)
        for packed in packs:
            with self.accelerator.autocast():
                outputs = model(
                    input_ids=packed.ids, position_ids=packed.positions, attention_mask=packed.mask,
                    shift_labels=packed.labels, fused_lm_head=True,
                )  # fmt: skip
            scores = packed.put(scores, outputs.log_probs)
            if compute_entropy:
                entropy = packed.put(entropy, outputs.entropy)
        for _ in range(passes - len(chunks) - len(packs)):
            ids = input_ids[:1, :2]
            with self.accelerator.autocast():
                outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, fused_lm_head=True)
            scores = scores + 0 * outputs.log_probs.sum()
        self._logprobs = scores.detach()
        if self._left_out is not None and self._old_logprobs is not None:
            scores = torch.where(self._left_out, self._old_logprobs, scores)  # a ratio of 1, which cannot overflow
        return scores, self._with_mean(entropy) if compute_entropy else None, None

    def _packs(
        self, model: Any, ids: Tensor, mask: Tensor, labels: Tensor, completion: int, rows: Tensor, together: int
    ) -> list[Packed]:
        """The rows that share their prompt with others, as sequences of at most `together` rows."""
        plain: Any = self.accelerator.unwrap_model(model)
        if self._shares is None:
            sharded = self.shards_weights
            self._shares = can_share(plain.config) and shares_exactly(model if sharded else plain, wrapped=sharded)
        if not self._shares:
            return []
        return pack_groups(ids, mask, labels, completion, rows, together, plain.config.get_text_config().hidden_size)

    def _trees_of(self, rows: Sequence[int]) -> dict[int, Tree]:
        """The conversations of those rows that have several."""
        if not any(self.trees):
            return {}
        places = rows if self._places is None else self._places[rows].tolist()
        return {row: self.trees[place] for row, place in zip(rows, places, strict=True) if self.trees[place]}

    def _most_passes(self, own: int) -> int:
        """The forward passes of the process that needs most, at least 1.

        All processes make as many: DDP and sharded weights exchange data in each of them, and each process must take
        part in the backward pass.
        """
        return max(1, int(self.accelerator.gather(torch.tensor([own], device=self.accelerator.device)).max()))

    def _with_mean(self, entropies: Tensor) -> Tensor:
        """Entropies (B, C), with the mean over all processes for tokens left out, so that TRL logs this mean."""
        if self._sampled is None or self._left_out is None:
            return entropies
        sums = torch.stack([(entropies.detach() * self._sampled).sum(), self._sampled.sum().to(entropies.dtype)])
        total, count = self.accelerator.reduce(sums, reduction="sum")
        return torch.where(self._left_out, total / count, entropies)


class TrainerWeights(VLLMGeneration):
    """Yields all weights of a trainer's model under the names in its checkpoint, whether sharded, wrapped or adapted.

    TRL has the code for this in the class of its own engine, which is not made here.
    """

    def __init__(self, trainer: GRPOTrainer):
        assert trainer.model is not None
        self.model = trainer.model  # type: ignore[assignment] # as TRL itself passes it
        self.accelerator = trainer.accelerator
        self._dist = trainer._dist

    def __call__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield them one by one; all processes must take part."""
        return self._iter_named_params()


class _Synchronised:
    """Takes the place of TRL's engine: `GRPORun` has already sent the weights."""

    def sync_weights(self) -> None:
        """Do nothing."""
