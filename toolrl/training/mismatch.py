"""Whether the sampler and the trainer are the same model: log-probabilities of one and the same tokens, compared.

A sampler with other weights, another precision, other tokens or another temperature shows here before it shows in the
reward. On-policy training takes the difference for 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Sums over sampled tokens, so that batches and processes can be added.

    Attributes:
        tokens: How many there are.
        absolute: Sum of |difference|, in nats.
        largest: The largest |difference|.
        divergence: Sum of r - 1 - log r with r the ratio of trainer to sampler: its mean estimates KL(sampler ||
            trainer) without bias and is never negative (Schulman 2020, "Approximating KL Divergence", k3).
        masked: Tokens that importance correction takes out of the loss.
    """

    tokens: float
    absolute: float
    largest: float
    divergence: float
    masked: float

    def metrics(self) -> dict[str, float]:
        """Means and shares, named as they are logged; nothing if there are no tokens."""
        if not self.tokens:
            return {}
        return {
            "mismatch/mean": self.absolute / self.tokens,
            "mismatch/max": self.largest,
            "mismatch/kl": self.divergence / self.tokens,
            "mismatch/masked_share": self.masked / self.tokens,
        }


def compare(trainer: Tensor, sampler: Tensor, sampled: Tensor, weight: Tensor | None = None) -> Mismatch:
    """Compare the log-probabilities of a batch.

    Args:
        trainer: (B, C) of the model as it was when the batch was sampled.
        sampler: (B, C) as the sampler gave them; NaN where it gave none.
        sampled: (B, C) 1 where the model chose the token.
        weight: (B, C) or (B, 1) importance ratios; 0 takes a token out of the loss.
    """
    sampled = sampled.bool() & ~sampler.isnan()
    difference = (trainer - sampler)[sampled].double()
    if not difference.numel():
        return Mismatch(0.0, 0.0, 0.0, 0.0, 0.0)
    masked = 0.0 if weight is None else float((weight.expand_as(sampler)[sampled] == 0).sum())
    return Mismatch(
        float(difference.numel()),
        float(difference.abs().sum()),
        float(difference.abs().max()),
        float((difference.exp() - 1 - difference).sum()),
        masked,
    )


def add(parts: list[Mismatch]) -> Mismatch:
    """All of several batches."""
    return Mismatch(
        sum(part.tokens for part in parts),
        sum(part.absolute for part in parts),
        max((part.largest for part in parts), default=0.0),
        sum(part.divergence for part in parts),
        sum(part.masked for part in parts),
    )


def as_tensor(mismatch: Mismatch) -> Tensor:
    """(1, 5), to be gathered from other processes."""
    fields = (mismatch.tokens, mismatch.absolute, mismatch.largest, mismatch.divergence, mismatch.masked)
    return torch.tensor([fields], dtype=torch.float64)
