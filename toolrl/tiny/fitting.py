"""Next-token training of the embedded policy on a CPU."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from toolrl.trajectory import Trajectory

IGNORED = -100
_SECONDS_BETWEEN_LINES = 60.0  # of progress, within an epoch


class Example(NamedTuple):
    """A sequence and its labels: the same ids, or `IGNORED` where there is nothing to learn."""

    ids: list[int]
    labels: list[int]


def as_row(trajectory: Trajectory, *, observed: bool) -> Example:
    """Label the policy's tokens; with `observed`, also those that a tool's output repeats.

    Documents repeat the names that were searched for, so they teach copying too. New tokens, such as the result of a
    calculation, cannot be predicted.
    """
    labels = [IGNORED] * len(trajectory.prompt_ids)
    seen = set(trajectory.prompt_ids)
    for token, bit in zip(trajectory.completion_ids, trajectory.mask, strict=True):
        labels.append(token if bit or (observed and token in seen) else IGNORED)
        seen.add(token)
    return Example(trajectory.prompt_ids + trajectory.completion_ids, labels)


class Renaming:
    """Replaces the words and numbers of a sequence consistently by others.

    A model that often saw the same names would memorise them, and could not copy new ones.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, fixed: Set[int]):
        """Sort the vocabulary into words and numbers of two or more digits.

        Args:
            tokenizer: Decodes the vocabulary.
            fixed: Tokens that keep their meaning: the wording, the format.
        """
        texts = [str(tokenizer.decode([token])) for token in range(len(tokenizer))]
        words = [token for token, text in enumerate(texts) if text.isalpha() and token not in fixed]
        numbers = [token for token, text in enumerate(texts) if text.isdigit() and len(text) > 1]
        self._pools = (words, numbers)

    def __call__(self, row: Example, rng: random.Random) -> Example:
        """Rename one row."""
        names: dict[int, int] = {}
        for pool in self._pools:
            names.update(zip(pool, rng.sample(pool, len(pool)), strict=True))
        return Example(
            [names.get(token, token) for token in row.ids], [names.get(token, token) for token in row.labels]
        )


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) with update sizes as AdamW's.

    torch's own orthogonalises in bfloat16, which is many times slower on a CPU without bfloat16 arithmetic.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": learning_rate, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the matrices."""
        for group in self.param_groups:
            for matrix in group["params"]:
                state = self.state[matrix]
                average = state.setdefault("average", torch.zeros_like(matrix))
                average.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonal(matrix.grad.lerp(average, group["momentum"]))
                # Scaled to the root mean square of an AdamW update (Liu et al. 2025, arXiv:2502.16982).
                matrix.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(matrix.shape)))


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """Approximate the nearest semi-orthogonal matrix by Newton-Schulz iteration with Muon's coefficients."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        square = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * square + 2.0315 * square @ square) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


def batches(rows: Sequence[Example], tokens: int, rng: random.Random) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (B, T) of ids and labels, each of about `tokens` tokens in sequences of similar length."""
    ordered = sorted(rows, key=lambda row: (len(row.ids), rng.random()))
    groups: list[list[Example]] = [[]]
    for row in ordered:
        if len(row.ids) * (len(groups[-1]) + 1) > tokens:
            groups.append([])
        groups[-1].append(row)
    rng.shuffle(groups)
    for group in groups:
        length = len(group[-1].ids)
        # Padding follows its sequence, so the causal mask hides it: any id will do.
        ids = torch.tensor([row.ids + [0] * (length - len(row.ids)) for row in group])
        labels = torch.tensor([row.labels + [IGNORED] * (length - len(row.labels)) for row in group])
        yield ids, labels


def predictions(model: Qwen3ForCausalLM, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, V) of the N labelled positions only, and their labels (N,)."""
    learnt = labels[:, 1:] != IGNORED  # (B, T-1)
    hidden: Any = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]  # (B, T-1, H)
    return model.lm_head(hidden[learnt]), labels[:, 1:][learnt]


def fit(
    model: Qwen3ForCausalLM,
    rows_of_epoch: Callable[[int], Sequence[Example]],
    *,
    epochs: int,
    learning_rate: float,
    batch_tokens: int,
    seed: int,
) -> None:
    """Train with Muon on the matrices and AdamW on the rest: a warm-up, half at full rate, a linear decay.

    Prints the loss of each epoch, and the progress every minute.
    """
    rng = random.Random(seed)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        Muon(matrices, learning_rate),
        torch.optim.AdamW(others, learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]
    total = epochs * sum(1 for _ in batches(rows_of_epoch(0), batch_tokens, random.Random(0)))
    step, start = 0, time.monotonic()
    shown = start
    model.train()
    for epoch in range(epochs):
        losses = []
        for ids, labels in batches(rows_of_epoch(epoch), batch_tokens, rng):
            logits, targets = predictions(model, ids, labels)
            loss = cross_entropy(logits, targets)
            model.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            rate = learning_rate * max(0.02, min(1.0, (step + 1) / 50, 2 * (1 - step / total)))
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
            losses.append(loss.item())
            step += 1
            if time.monotonic() - shown > _SECONDS_BETWEEN_LINES:
                shown = time.monotonic()
                recent = losses[-20:]
                print(f"  step {step}/{total}  loss {sum(recent) / len(recent):.4f}  {shown - start:.0f} s", flush=True)
        seconds = time.monotonic() - start
        print(f"  epoch {epoch + 1}/{epochs}  loss {sum(losses) / len(losses):.4f}  {seconds:.0f} s", flush=True)
    model.eval()


@torch.no_grad()
def share_exact(model: Qwen3ForCausalLM, rows: Sequence[Example]) -> float:
    """Share of rows in which every label is the most probable token, given the correct tokens before it."""
    exact = 0
    for row in rows:
        logits, targets = predictions(model, torch.tensor([row.ids]), torch.tensor([row.labels]))
        exact += bool((logits.argmax(-1) == targets).all())
    return exact / len(rows)
