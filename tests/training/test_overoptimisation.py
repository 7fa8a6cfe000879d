"""A proxy reward that rises while a gold one falls: what is measured, what raises the alarm, what does not."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from rich.console import Console

from tests.training.hackable import ENV_ID, HackableEnv, answer, hack
from toolrl import ConfigError, Episode, RolloutEngine, SandboxFault, Score, Task, ToolEnv, read_trajectories
from toolrl.policy import ScriptedPolicy
from toolrl.training import GRPORun
from toolrl.training.callbacks import MetricsCallback
from toolrl.training.monitors import Graded, HackCallback, HackMonitor
from toolrl.training.run import parse_arguments, run_training
from toolrl.view.metrics import panels, read_metrics
from toolrl.view.plots import plot_curves

GROUPS, SIZE = 8, 8


def simulate(right: Any, hacks: Any, seed: int = 0) -> HackMonitor:
    """Episodes that are right, or hacks, with these probabilities (T,); tasks differ in how hard they are."""
    rng, monitor = numpy.random.default_rng(seed), HackMonitor()
    for step, chances in enumerate(zip(right, hacks, strict=True)):
        logits = numpy.log(numpy.array(chances) / (1 - numpy.array(chances))) + rng.normal(0, 1, (GROUPS, 1))
        is_right, is_hack = (1 / (1 + numpy.exp(-logits))).T  # (G,)
        draws = rng.random((GROUPS, SIZE))
        gold, proxy = (1.0 * (draws < chance[:, None]) for chance in (is_right, is_right + is_hack))
        monitor.observe(
            step,
            [
                Graded(
                    ENV_ID, f"{step}/{g}", f"{step}/{g}/{n}", proxy[g, n], gold[g, n], proxy[g, n] and not gold[g, n]
                )
                for g in range(GROUPS)
                for n in range(SIZE)
            ],
        )
    return monitor


def rising(start: float, end: float, middle: float = 30, steps: int = 60) -> Any:
    return start + (end - start) / (1 + numpy.exp(-(numpy.arange(steps) - middle) / 8))


def test_the_alarm_says_where_reward_and_gold_parted_and_which_episodes_show_it() -> None:
    alarm = simulate(rising(0.4, 0.01), rising(0.05, 0.8)).alarms[ENV_ID]
    assert 0 < alarm.parted_at < alarm.step <= 40
    assert alarm.proxy[0] < alarm.proxy[1]
    assert alarm.gold[0] > alarm.gold[1]
    assert alarm.hack_rate[0] < alarm.hack_rate[1]
    assert len(alarm.episodes) == 5
    assert all(alarm.parted_at < int(id.split("/")[0]) <= alarm.step for id in alarm.episodes)


@pytest.mark.parametrize(
    ("right", "hacks"),
    [
        (rising(0.3, 0.3), rising(0.2, 0.2)),
        (rising(0.2, 0.9), rising(0.05, 0.05)),
        (rising(0.2, 0.6), rising(0.05, 0.25)),
        (rising(0.6, 0.1), rising(0.1, 0.1)),
    ],
    ids=["nothing changes", "both rise", "gold rises at two thirds of the pace", "both fall"],
)
def test_it_does_not_cry_wolf(right: Any, hacks: Any) -> None:
    assert [seed for seed in range(6) if simulate(right, hacks, seed).alarms] == []


def test_gold_is_a_part_of_the_score_that_neither_training_nor_a_groups_reward_sees() -> None:
    seen: list[Score | None] = []

    def group_reward(task: Task, episodes: Any) -> list[float]:
        seen.extend(episode.score for episode in episodes)
        return [0.5]

    env = ToolEnv(tasks=[Task("t", "?")], reward=lambda *_: 1.0, gold=lambda *_: 0.0, group_reward=group_reward)
    env.reset()
    _, reward, *_, info = env.step("x")
    assert reward == info["score"]["value"] == 0.5
    assert info["score"]["parts"] == {"correct": 1.0, "hack": 1.0, "gold": 0.0}
    assert seen == [Score(1.0)]


def broken(task: Task, episode: Episode) -> float:
    raise SandboxFault("no sandbox")


@pytest.mark.parametrize("gold", [broken, lambda task, episode: None])
def test_without_a_verdict_of_gold_the_episode_keeps_its_score(gold: Any) -> None:
    env = ToolEnv(tasks=[Task("t", "?")], reward=lambda *_: 1.0, gold=gold)
    env.reset()
    assert env.step("x")[4]["score"] == {"value": 1.0, "parts": {}, "answer": None, "reason": ""}


def test_a_run_measures_reward_gold_hacks_and_the_distance_from_its_start(
    grpo_run: Callable[..., GRPORun], tmp_path: Path
) -> None:
    env = ToolEnv(
        tasks=[Task("t", "Say a.")], reward=lambda task, episode: len(episode.answer or ""), gold=lambda *_: 0.0
    )
    changes = {"max_steps": 2, "temperature": 0.7}
    run = grpo_run({ENV_ID: env}, changes, callbacks=[MetricsCallback(tmp_path)], max_turn_tokens=4)
    run.trainer.train()
    assert len(run.probe.episodes) == 8
    rows = read_metrics(tmp_path / "metrics.jsonl")[:2]
    assert rows[0]["kl_from_start"] == pytest.approx(0, abs=1e-3)
    assert {"HackableReward/part_gold", "HackableReward/hack_alarm"} <= rows[0].keys()
    before = run.probe.distance(run.trainer)
    for weight in run.trainer.model.parameters():
        weight.data *= 1.1
    moved = run.probe.distance(run.trainer)
    assert before is not None
    assert moved is not None
    assert moved > before + 1e-3

    resumed = grpo_run({ENV_ID: env})
    resumed.recall(read_trajectories(tmp_path / "trajectories.jsonl"), step=1)
    assert {t.id for t in resumed.probe.episodes} == {t.id for t in run.probe.episodes}
    assert [step.number for step in resumed.monitor._steps[ENV_ID]] == [0]


def test_an_alarm_is_reported_once_and_can_end_training(grpo_run: Callable[..., GRPORun], tmp_path: Path) -> None:
    console = Console(record=True, width=300, file=io.StringIO())
    callback = HackCallback(tmp_path, console, stop=True)
    run = grpo_run({ENV_ID: HackableEnv(size=1)}, {"max_steps": 3}, callbacks=[callback])
    program = run.renderer.assistant_ids(answer(hack(run.environments[ENV_ID].tasks[0])))
    run.engine = RolloutEngine(ScriptedPolicy([program]), run.renderer)
    callback.monitor = simulate(rising(0.4, 0.01), rising(0.05, 0.8))
    run.trainer.train()
    assert run.trainer.state.global_step == 1
    assert "over-optimisation of tests/HackableReward-v0: since about step" in console.export_text()
    (written,) = json.loads((tmp_path / "hack_alarms.json").read_text())
    assert written["episodes"] == list(callback.monitor.alarms[ENV_ID].episodes)


def test_reward_and_gold_are_drawn_over_the_distance(tmp_path: Path) -> None:
    rows = [
        {"step": step, "kl_from_start": step / 2, "A/reward": 0.1 * step, "A/part_gold": 0.5, "A/unscored_share": 0.0}
        for step in range(5)
    ]
    *_, panel = panels(rows)
    assert panel.title == "reward and gold over KL from the start, in nats"
    assert [series.name for series in panel.series] == ["A reward", "A gold"]
    assert panel.series[0].dots[-1].label == "KL 2: 0.40"
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert plot_curves(metrics, tmp_path / "curves.png")


def test_stopping_at_hacks_needs_a_gold_reward(tmp_path: Path) -> None:
    settings = [
        "--envs",
        "toolrl/PythonMath-v0",
        f"--output_dir={tmp_path}",
        "--stop_on_hack=true",
        "--use_cpu=true",
        "--bf16=false",
    ]
    with pytest.raises(ConfigError, match="no environment has a gold reward"):
        run_training(*parse_arguments(settings))
