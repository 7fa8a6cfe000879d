"""Promises about trackers: each that `--report_to` names gets the metrics, and episodes as a table."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from toolrl.training.trackers import MOST, _markdown, episode_rows
from toolrl.trajectory import Trajectory, Turn
from toolrl.types import Message, Sample, Score, StopReason


def episode(group: str, reward: float | None, text: str = "2") -> Trajectory:
    turn = Turn(Sample([1, 2], [0.0, 0.0], "stop"), Message("assistant", text))
    prompt = (Message("user", "1 + 1?"),)
    return Trajectory(
        "", "mine/Sums-v0", "one", prompt, [1], (turn,), Score(reward), StopReason.ANSWER, info={"group": group}
    )


def test_a_table_shows_a_group_that_something_is_learnt_from() -> None:
    same = [episode("a", 1.0) for _ in range(4)]
    mixed = [episode("b", float(n % 2)) for n in range(MOST + 4)]
    rows = episode_rows([*same, *mixed], 7)
    assert [row["reward"] for row in rows] == [0.0, 1.0] * (MOST // 2)
    assert rows[0]["conversation"] == "user: 1 + 1?\n\nassistant: 2"
    assert (rows[0]["step"], rows[0]["environment"], rows[0]["sampled_tokens"]) == (7, "mine/Sums-v0", 2)
    assert len(episode_rows(same, 7)) == 4


def test_what_a_model_wrote_cannot_break_the_table() -> None:
    hostile = "a | b\n| c | <img src=x onerror=alert(1)>"
    table = _markdown(episode_rows([episode("a", None, hostile)], 1))
    assert len(table.splitlines()) == 3
    assert {line.count("|") for line in table.splitlines()} == {12}
    assert "<img" not in table


def tensorboard(folder: Path) -> tuple[set[str], str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = folder.glob("run/runs/*")
    found = EventAccumulator(str(events)).Reload()
    text = found.Tensors("episodes/text_summary")[0].tensor_proto.string_val[0].decode()
    return {name.removeprefix("train/") for name in found.Tags()["scalars"]}, text


def trackio(folder: Path) -> tuple[set[str], str]:
    (path,) = folder.glob("trackio/*.db")
    rows = [json.loads(row[0]) for row in sqlite3.connect(path).execute("SELECT metrics FROM metrics")]
    (table,) = [row["episodes"] for row in rows if "episodes" in row]
    return {name.removeprefix("train/") for row in rows for name in row}, json.dumps(table)


def wandb(folder: Path) -> tuple[set[str], str]:
    (table,) = folder.glob("wandb/offline-run-*/files/media/table/episodes_*.json")
    (binary,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    names = ("time/generation", "PythonMath/success", "useful_group_share")
    return {name for name in names if f"train/{name}".encode() in binary.read_bytes()}, table.read_text()


def mlflow(folder: Path) -> tuple[set[str], str]:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    (run,) = mlflow.search_runs(output_format="list")
    (table,) = folder.glob("mlruns/**/episodes/step-1.json")
    return set(run.data.metrics), table.read_text()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("read", [tensorboard, trackio, wandb, mlflow], ids=lambda read: read.__name__)
def test_a_tracker_gets_the_metrics_and_a_table(read: Callable[[Path], tuple[set[str], str]], tmp_path: Path) -> None:
    pytest.importorskip(read.__name__, reason=f"{read.__name__} is not installed")
    places = {
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }
    flags = [
        "--envs=toolrl/PythonMath-v0", "--model_name_or_path=tiny", "--max_steps=1", "--num_generations=4",
        "--per_device_train_batch_size=4", "--use_cpu=true", "--bf16=false", "--gradient_checkpointing=false",
        "--logging_steps=1", "--save_strategy=no", "--eval_tasks=0", "--output_dir=run", f"--report_to={read.__name__}",
    ]  # fmt: skip
    # A process of its own: these libraries read the variables when they are imported, and keep threads.
    subprocess.run(
        [sys.executable, "-m", "toolrl", "train", *flags],
        cwd=tmp_path,
        env={**os.environ, **places, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        timeout=280,
    )
    names, table = read(tmp_path)
    assert {"time/generation", "PythonMath/success", "useful_group_share"} <= names
    assert "toolrl/PythonMath-v0" in table
    assert "assistant: " in table
