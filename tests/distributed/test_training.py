"""Promises about training with rollout workers, on Ray: `make test-ray`."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from tests.gateway.test_training import AGENT
from toolrl import read_trajectories
from toolrl.errors import ConfigError
from toolrl.training.run import parse_arguments, run_training
from toolrl.view.metrics import read_metrics

pytestmark = [pytest.mark.ray, pytest.mark.timeout(200)]
pytest.importorskip("ray", reason="the extra `ray` is not installed")

SETTINGS = [
    "--envs", "toolrl/PythonMath-v0", "--max_steps=3", "--num_generations=4", "--per_device_train_batch_size=16",
    "--max_completion_length=128", "--max_turn_tokens=48", "--temperature=0.6", "--learning_rate=5e-4", "--beta=0",
    "--loss_type=dapo", "--use_cpu=true", "--bf16=false", "--gradient_checkpointing=false", "--logging_steps=1",
    "--save_strategy=no", "--report_to=none", "--eval_tasks=8", "--train_tasks=50", "--rollout_workers=2",
]  # fmt: skip


@pytest.mark.parametrize("staleness", [0, 1])
def test_workers_play_with_the_trainers_weights(tmp_path: Path, staleness: int) -> None:
    folder = tmp_path / "run"
    reports = run_training(
        *parse_arguments([*SETTINGS, f"--max_staleness={staleness}", f"--output_dir={folder}"]),
        console=Console(quiet=True),
    )
    played = list(read_trajectories(folder / "trajectories.jsonl"))
    assert reports["after"]["toolrl/PythonMath-v0"].samples == 8
    trained = [t for t in played if t.info["mode"] == "train" and "dropped" not in t.info]
    assert len(trained) == 48
    assert len({t.id for t in played}) == len(played)
    behind = {
        t.info["step"] + 1 - turn.sample.policy_version for t in trained for turn in t.turns if turn.sample.token_ids
    }
    assert behind == {0} if not staleness else behind <= {0, 1, 2}
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "mismatch/mean" in row]
    assert rows
    if not staleness:
        assert all(row["mismatch/mean"] < 1e-4 for row in rows)


@pytest.mark.parametrize("engines", [0, 1])
def test_an_agent_plays_on_workers(tmp_path: Path, engines: int) -> None:
    folder = tmp_path / "run"
    run_training(
        *parse_arguments(
            [*SETTINGS, f"--agent={AGENT}", f"--rollout_engines={engines}", f"--output_dir={folder}", "--max_steps=2"]
        ),
        console=Console(quiet=True),
    )
    trained = [t for t in read_trajectories(folder / "trajectories.jsonl") if t.info["mode"] == "train"]
    assert len(trained) == 32
    assert all(t.score.value is not None and t.has_tokens for t in trained)
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "mismatch/mean" in row]
    assert rows
    assert all(row["mismatch/mean"] < 1e-3 for row in rows)


def test_settings_that_contradict_workers_are_refused(tmp_path: Path) -> None:
    for further, message in (
        (["--sampler=http://127.0.0.1:9"], "a sampler of its own"),
        (["--eval_alone=4"], "eval_alone 4 changes environments"),
        (["--worker_resources=[1]"], "worker_resources must be like"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_training(
                *parse_arguments([*SETTINGS, *further, f"--output_dir={tmp_path / 'x'}"]), console=Console(quiet=True)
            )
