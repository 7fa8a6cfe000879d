"""Hack rate and gap of code answers reach a run's metrics, whatever the reward pays for."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from tests.training.hackable import ENV_ID, HackableEnv, answer, hack, sloppy
from toolrl import RolloutEngine, RolloutRequest
from toolrl.policy import ScriptedPolicy
from toolrl.training import GRPORun
from toolrl.training.callbacks import MetricsCallback, ProgressCallback
from toolrl.training.metrics import batch_metrics
from toolrl.view.metrics import read_metrics


@pytest.mark.parametrize(("paid", "reward"), [("visible", 1.0), ("hidden", 0.0)])
def test_a_run_shows_hacks_whether_its_reward_pays_for_them_or_not(
    paid: str, reward: float, grpo_run: Callable[..., GRPORun], tmp_path: Path
) -> None:
    env = HackableEnv(paid=paid, size=1)
    console = Console(record=True, width=200, file=io.StringIO())
    run = grpo_run({ENV_ID: env}, callbacks=[MetricsCallback(tmp_path), ProgressCallback(console)])
    program = run.renderer.assistant_ids(answer(hack(env.tasks[0])))
    run.engine = RolloutEngine(ScriptedPolicy([program]), run.renderer)
    run.trainer.train()
    metrics = read_metrics(tmp_path / "metrics.jsonl")[0]
    assert metrics["HackableReward/reward"] == reward
    assert metrics["HackableReward/success"] == 0.0
    assert metrics["HackableReward/part_hack"] == 1.0
    assert metrics["HackableReward/part_gap"] == 1.0
    assert "hacks 1.00, visible - hidden 1.00" in console.export_text()


def test_hack_rate_and_gap_are_those_of_the_programs(grpo_run: Callable[..., GRPORun]) -> None:
    renderer, env = grpo_run().renderer, HackableEnv(size=4)
    first, second, third, fourth = env.tasks
    programs = [
        (first, hack(first)),
        (second, str(second.answer)),
        (third, sloppy(third, random.Random(0), wrong=1.0)),
        (fourth, hack(fourth)),
    ]
    requests = [
        RolloutRequest(env, task, ENV_ID, task.id, ScriptedPolicy([renderer.assistant_ids(answer(program))]))
        for task, program in programs
    ]
    metrics = batch_metrics(RolloutEngine(ScriptedPolicy([[renderer.end_of_turn_id]]), renderer).run(requests))
    assert metrics["HackableReward/part_hack"] == 0.5
    assert metrics["HackableReward/part_gap"] == 0.5
    assert (metrics["HackableReward/reward"], metrics["HackableReward/success"]) == (0.75, 0.25)
