"""Promises about the numbers that training logs."""

from __future__ import annotations

from dataclasses import replace

from toolrl.training.metrics import batch_metrics
from toolrl.trajectory import Trajectory
from toolrl.types import Score, StopReason


def trajectory(env_id: str, usage: dict[str, float]) -> Trajectory:
    return Trajectory("", env_id, "task", (), [], (), Score(1.0), StopReason.ANSWER, usage=usage)


def test_usage_of_resources_is_logged_per_episode_of_the_environment() -> None:
    batch = [trajectory("toolrl/One-v0", {"dollars": 3.0}), trajectory("toolrl/One-v0", {}), trajectory("Two", {})]
    metrics = batch_metrics(batch)
    assert metrics["One/usage_dollars"] == 1.5
    assert not [name for name in metrics if name.startswith("Two/usage")]


def test_the_cache_hit_rate_is_over_all_searches() -> None:
    hits, misses = "search_cache_hits", "search_cache_misses"
    batch = [trajectory("One", {hits: 3.0, misses: 1.0}), trajectory("One", {hits: 2.0, misses: 2.0})]
    assert batch_metrics(batch)["One/search_cache_hit_rate"] == 5 / 8
    assert "Two/search_cache_hit_rate" not in batch_metrics([trajectory("Two", {})])


def test_episodes_that_were_played_count_whether_they_are_trained_on_or_not() -> None:
    batch = [trajectory("One", {}), replace(trajectory("One", {}), score=Score(0.0), info={"dropped": "no variance"})]
    assert batch_metrics(batch)["One/success"] == 0.5
