"""What training measures: metrics of a batch per environment, and how far the sampler is from the trainer.

A sampler with other weights, another precision, other tokens or another temperature shows up in `mismatch/...` before
it shows up in the reward; on-policy training assumes that there is no difference.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy
from torch import Tensor

from toolrl.evaluation import mean, short_name
from toolrl.trajectory import Trajectory


def batch_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Metrics named `ENV/metric`, where ENV is the id without namespace and version.

    Shares are within [0, 1], latencies in seconds; `usage_...` is the mean usage of tools' resources per episode. A
    metric without data is left out.
    """
    by_env: dict[str, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        by_env[trajectory.env_id].append(trajectory)
    return {
        f"{short_name(env_id)}/{name}": value
        for env_id, group in by_env.items()
        for name, value in _env_metrics(group).items()
    }


def _env_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    scored = [t for t in trajectories if t.score.value is not None]
    results = [result for t in trajectories for result in t.tool_results]
    metrics: dict[str, float | None] = {
        "success": mean(bool(t.score.success) for t in scored),
        "reward": mean(t.score.value or 0.0 for t in scored),
        "unscored_share": mean(t.score.value is None for t in trajectories),
        "truncated_share": mean(t.stop.truncated for t in trajectories),
        "turns": mean(len(t.turns) for t in trajectories),
        "sampled_tokens": mean(sum(t.mask) for t in trajectories),
        "observed_tokens": mean(len(t.mask) - sum(t.mask) for t in trajectories),
        "call_share": mean(bool(t.tool_results) for t in trajectories),
        "generation_seconds_p50": quantile([turn.generation_seconds for t in trajectories for turn in t.turns], 0.5),
        "generation_seconds_p95": quantile([turn.generation_seconds for t in trajectories for turn in t.turns], 0.95),
        "tool_seconds_p50": quantile([result.seconds for result in results], 0.5),
        "tool_seconds_p95": quantile([result.seconds for result in results], 0.95),
        "failed_call_share": mean(result.failure is not None for result in results),
    }
    for needed, label in ((True, "needed"), (False, "needless")):
        matching = [t for t in trajectories if t.info.get("needs_tool") is needed]
        metrics[f"call_share_{label}"] = mean(bool(t.tool_results) for t in matching)
        metrics[f"success_{label}"] = mean(bool(t.score.success) for t in matching if t.score.value is not None)
    for name in sorted({name for t in scored for name in t.score.parts}):
        metrics[f"part_{name}"] = mean(t.score.parts[name] for t in scored if name in t.score.parts)
    for name in sorted({name for t in trajectories for name in t.usage}):
        metrics[f"usage_{name}"] = mean(t.usage.get(name, 0.0) for t in trajectories)
    hits, misses = (metrics.get(f"usage_search_cache_{outcome}") or 0.0 for outcome in ("hits", "misses"))
    if hits + misses:
        metrics["search_cache_hit_rate"] = hits / (hits + misses)
    for name, count in Counter(result.call.name or "malformed" for result in results).items():
        if any(result.call.name == name and result.failure is None for result in results):
            metrics[f"calls_{name}"] = count / len(trajectories)
    for failure, count in Counter(str(result.failure) for result in results if result.failure).items():
        metrics[f"errors_{failure}"] = count / len(trajectories)
    return {name: value for name, value in metrics.items() if value is not None}


def zero_variance_shares(played: Iterable[tuple[str, str, float | None]]) -> dict[str, float]:
    """For each environment, the share of groups whose scored episodes all have the same reward; they teach nothing.

    `useful_group_share` is the share of the other groups, over all environments.

    Args:
        played: Environment, group and reward of each episode, of all processes.
    """
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for env_id, group, reward in played:
        if reward is not None:
            groups[env_id, group].append(reward)
    by_env: dict[str, list[bool]] = defaultdict(list)
    for (env_id, _), rewards in groups.items():
        by_env[env_id].append(max(rewards) - min(rewards) < 1e-9)
    shares = {f"{short_name(env)}/zero_variance_group_share": sum(same) / len(same) for env, same in by_env.items()}
    same = [value for values in by_env.values() for value in values]
    return shares | ({"useful_group_share": 1 - sum(same) / len(same)} if same else {})


def staleness_metrics(values: Iterable[int | None]) -> dict[str, float]:
    """How many optimiser steps older than the trained weights those that sampled an episode were; None if unknown."""
    known = [value for value in values if value is not None]
    return {"staleness/mean": sum(known) / len(known), "staleness/max": max(known)} if known else {}


def equal_in_float32(played: Iterable[tuple[str, str, float | None]]) -> bool:
    """Whether different rewards of a group are equal in TRL's float32.

    Args:
        played: As for `zero_variance_shares`.
    """
    groups: dict[str, set[float]] = defaultdict(set)
    for _, group, reward in played:
        if reward is not None:
            groups[group].add(float(reward))
    return any(
        len(rewards) > 1 and len(numpy.unique(numpy.asarray(list(rewards), numpy.float32))) == 1
        for rewards in groups.values()
    )


def quantile(values: Sequence[float], q: float) -> float | None:
    """The `q`-quantile by the nearest-rank method; None for no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else None


class Mismatch(NamedTuple):
    """Differences between sampler and trainer, summed over sampled tokens.

    Attributes:
        tokens: Number of tokens.
        absolute: Sum of |difference|, in nats.
        largest: The largest |difference|.
        divergence: Sum of r - 1 - log r with r the ratio of trainer to sampler. Its mean is an unbiased, non-negative
            estimate of KL(sampler || trainer) (Schulman 2020, "Approximating KL Divergence", k3).
        masked: Tokens that importance correction removes from the loss.
    """

    tokens: float = 0.0
    absolute: float = 0.0
    largest: float = 0.0
    divergence: float = 0.0
    masked: float = 0.0

    def metrics(self) -> dict[str, float]:
        """Means and shares under the names they are logged with; empty without tokens."""
        if not self.tokens:
            return {}
        return {
            "mismatch/mean": self.absolute / self.tokens,
            "mismatch/max": self.largest,
            "mismatch/kl": self.divergence / self.tokens,
            "mismatch/masked_share": self.masked / self.tokens,
        }


def measure_mismatch(trainer: Tensor, sampler: Tensor, sampled: Tensor, weight: Tensor | None = None) -> Mismatch:
    """Compare the log-probabilities of a batch.

    Args:
        trainer: (B, C) of the model that the batch was sampled with.
        sampler: (B, C) as the sampler reported them; NaN where it reported none.
        sampled: (B, C) 1 where the model chose the token.
        weight: (B, C) or (B, 1) importance ratios; 0 removes a token from the loss.
    """
    sampled = sampled.bool() & ~sampler.isnan()
    difference = (trainer - sampler)[sampled].double()
    if not difference.numel():
        return Mismatch()
    return Mismatch(
        float(difference.numel()),
        float(difference.abs().sum()),
        float(difference.abs().max()),
        float((difference.exp() - 1 - difference).sum()),
        0.0 if weight is None else float((weight.expand_as(sampler)[sampled] == 0).sum()),
    )


def sum_mismatches(parts: Sequence[Mismatch]) -> Mismatch:
    """The mismatch of several batches together."""
    return Mismatch(
        sum(part.tokens for part in parts),
        sum(part.absolute for part in parts),
        max((part.largest for part in parts), default=0.0),
        sum(part.divergence for part in parts),
        sum(part.masked for part in parts),
    )
