"""Promises about training with vLLM as the sampler, on a CPU: the weights reach the engine, or an alarm says so."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from tests.policy.vllm.checks import UNCLOSED
from tests.training.commands import command
from toolrl import ConfigError, make
from toolrl.policy import PolicySettings, VLLMPolicy
from toolrl.training import GRPORun
from toolrl.trajectory import Trajectory, TrajectoryWriter, read_trajectories

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400), pytest.mark.filterwarnings(UNCLOSED)]
VLLM = PolicySettings(sampler="vllm")
# Enough episodes that some group has both right and wrong ones: without, no weight changes.
STEPS = {"max_steps": 3, "temperature": 0.6, "learning_rate": 3e-3, "per_device_train_batch_size": 48}


def mathematics() -> dict[str, Any]:
    return {"toolrl/PythonMath-v0": make("toolrl/PythonMath-v0", size=50)}


def logged(run: GRPORun, name: str) -> list[float]:
    return [row[name] for row in run.trainer.state.log_history if name in row]


def test_each_step_is_sampled_with_the_weights_of_the_step_before(grpo_run: Callable[..., GRPORun]) -> None:
    run = grpo_run(mathematics(), STEPS, sampler=VLLM)
    run.trainer.train()
    assert len(logged(run, "mismatch/mean")) == 3
    assert max(logged(run, "mismatch/max")) < 1e-3
    assert logged(run, "mismatch/masked_share") == logged(run, "mismatch/alarm") == [0.0, 0.0, 0.0]
    assert {turn.sample.policy_version for t in run.last_batch for turn in t.turns} == {3}


def test_an_engine_that_keeps_its_old_weights_trips_the_alarm(
    grpo_run: Callable[..., GRPORun], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = grpo_run(mathematics(), STEPS, sampler=VLLM)
    assert isinstance(run.policy, VLLMPolicy)
    update, calls = run.policy.update_weights, []

    def only_once() -> None:
        calls.append(1)
        if len(calls) == 1:
            update()

    monkeypatch.setattr(run.policy, "update_weights", only_once)
    run.trainer.train()
    first, *later = logged(run, "mismatch/mean")
    assert first < 1e-4
    assert min(later) > 0.1
    assert logged(run, "mismatch/alarm") == [0.0, 1.0, 1.0]
    assert min(logged(run, "mismatch/kl")[1:]) > 0.01
    # Whether sequences are masked depends on the draw; `test_mismatch` checks the share.
    assert all(0 <= share <= 1 for share in logged(run, "mismatch/masked_share"))


def test_an_adapter_reaches_the_engine_merged(grpo_run: Callable[..., GRPORun]) -> None:
    adapter = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    run = grpo_run(mathematics(), {**STEPS, "learning_rate": 3e-2}, sampler=VLLM, peft_config=adapter)
    run.trainer.train()
    assert max(logged(run, "mismatch/max")) < 1e-3
    run.sync_weights()
    assert run.policy.version == 4


def test_episodes_that_do_not_fit_into_the_engines_context_are_refused(grpo_run: Callable[..., GRPORun]) -> None:
    with pytest.raises(ConfigError, match=r"max_completion_length=4096 .* context of 2048 tokens"):
        grpo_run(mathematics(), {"max_completion_length": 4096}, sampler=VLLM)


def test_the_command_trains_and_evaluates_with_vllm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    options = ["--max_steps", "2", "--eval_tasks", "4", "--sampler", "vllm", "--save_strategy", "no"]
    assert command("train", "--config", "tiny", "--output_dir", str(out), *options) == 0
    assert "held-out tasks" in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert max(row["mismatch/max"] for row in rows if "mismatch/max" in row) < 1e-3
    versions = {turn.sample.policy_version for t in read_trajectories(out / "trajectories.jsonl") for turn in t.turns}
    assert versions == {1, 2, 3}
    arguments = ["--model", str(out / "model"), "--tasks", "4", "--sampler", "vllm", "--json"]
    assert command("eval", "toolrl/PythonMath-v0", *arguments) == 0
    assert json.loads(capsys.readouterr().out)["toolrl/PythonMath-v0"]["samples"] == 4


def test_episodes_go_on_while_the_trainer_steps_and_the_bound_of_staleness_holds(
    grpo_run: Callable[..., GRPORun], tmp_path: Path
) -> None:
    writer = TrajectoryWriter(tmp_path / "trajectories.jsonl")
    run = grpo_run(
        mathematics(),
        {**STEPS, "max_steps": 5},
        sampler=VLLM,
        max_staleness=1,
        refill=1,
        curriculum=True,
        writer=writer,
    )
    run.trainer.train()
    run.close()
    writer.close()
    groups: dict[str, list[Trajectory]] = defaultdict(list)
    for trajectory in read_trajectories(tmp_path / "trajectories.jsonl"):
        groups[trajectory.info["group"]].append(trajectory)
    used = [group for group in groups.values() if "dropped" not in group[0].info]
    assert {len(group) for group in groups.values()} == {4}
    assert len(used) == 5 * 12
    assert {group[0].info["staleness"] for group in used} == {0, 1}
    # A turn has one version; an episode may go on with a newer one, never with an older.
    versions = [[turn.sample.policy_version for turn in t.turns] for group in used for t in group]
    assert all(found == sorted(found) for found in versions)
    # The log-probabilities are those of the weights that sampled: where these are the trainer's, nothing differs.
    assert max(logged(run, "mismatch/max")) < 1e-3
    assert max(logged(run, "staleness/max")) == 1
    assert max(logged(run, "sampling/sampling_logp_difference/max")) > 1e-3, "older weights differ: they are corrected"
