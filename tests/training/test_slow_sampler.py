"""Promises about a slow or dead sampler during training: the model is scored only for what it says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from toolrl import StopReason
from toolrl.rollout import RolloutRequest
from toolrl.training import GRPORun


def test_a_sampler_that_is_slow_costs_no_episode_its_score(grpo_run: Callable[..., GRPORun]) -> None:
    run = grpo_run(
        None, {"num_generations": 2, "per_device_train_batch_size": 2}, policy_timeout_seconds=1.0, max_turn_tokens=16
    )
    model = run.base_model
    model.register_forward_pre_hook(lambda module, *_: None if module.training else time.sleep(0.3))
    run.trainer.train()
    spent = [sum(turn.generation_seconds for turn in trajectory.turns) for trajectory in run.last_batch]
    assert max(spent) > 1.0
    assert all(trajectory.score.value is not None for trajectory in run.last_batch)
    assert {trajectory.stop for trajectory in run.last_batch} <= {
        StopReason.ANSWER,
        StopReason.TURNS,
        StopReason.TOKENS,
    }


def test_a_sampler_that_hangs_leaves_episodes_unscored(
    grpo_run: Callable[..., GRPORun], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, gate = grpo_run(policy_timeout_seconds=0.3, retries=0), threading.Event()
    handle = run.base_model.register_forward_pre_hook(lambda *_: gate.wait(60) and None)
    [(env_id, env)] = run.environments.items()
    threading.Timer(3.0, gate.set).start()  # otherwise it would keep the model
    trajectories = run.engine.run([RolloutRequest(env, task, env_id) for task in env.tasks.take(4)])
    handle.remove()
    assert [(trajectory.score.value, trajectory.stop) for trajectory in trajectories] == [(None, StopReason.FAULT)] * 4
