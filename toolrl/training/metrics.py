"""What training logs about a batch of trajectories, per environment."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy

from toolrl.evaluation import short_name
from toolrl.trajectory import Trajectory


def batch_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Metrics named `ENV/metric`, where ENV is the id without namespace and version.

    Shares are within [0, 1], latencies are seconds; `usage_...` is what tools' resources used, per episode. A
    metric without anything to measure is left out.
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
    """Of each environment, the share of groups whose scored members all have one reward: they teach nothing.

    Args:
        played: Environment, group and reward of each episode, those of all processes.
    """
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for env_id, group, reward in played:
        if reward is not None:
            groups[env_id, group].append(reward)
    by_env: dict[str, list[bool]] = defaultdict(list)
    for (env_id, _), rewards in groups.items():
        by_env[env_id].append(max(rewards) - min(rewards) < 1e-9)
    return {f"{short_name(env_id)}/zero_variance_group_share": sum(same) / len(same) for env_id, same in by_env.items()}


def alike_in_float32(played: Iterable[tuple[str, str, float | None]]) -> bool:
    """Whether a group's rewards differ so little, for their size, that TRL's float32 takes them for one.

    Args:
        played: As `zero_variance_shares` takes it.
    """
    groups: dict[str, set[float]] = defaultdict(set)
    for _, group, reward in played:
        if reward is not None:
            groups[group].add(float(reward))
    return any(
        len(rewards) > 1 and len(numpy.unique(numpy.asarray(list(rewards), numpy.float32))) == 1
        for rewards in groups.values()
    )


def mean(values: Iterable[float]) -> float | None:
    """The mean; None of nothing."""
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers) if numbers else None


def quantile(values: Sequence[float], q: float) -> float | None:
    """The `q`-quantile by the nearest-rank method; None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else None
