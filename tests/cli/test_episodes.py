"""`toolrl show` and `toolrl regrade`, as they are typed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

from toolrl import ConfigError, Score, Trajectory, TrajectoryWriter, make, read_trajectories
from toolrl.chat import Renderer
from toolrl.cli import app
from toolrl.evaluation import evaluate
from toolrl.policy.models import load_tokenizer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six episodes of the oracle, the first of them scored wrongly."""
    folder = tmp_path_factory.mktemp("run")
    played: list[Trajectory] = []
    env = make("toolrl/PythonMath-v0", split="test")
    renderer, about = Renderer(load_tokenizer("tiny")), {"mode": "eval", "split": "test"}
    evaluate({"toolrl/PythonMath-v0": env}, None, renderer, tasks=6, on_trajectory=played.append, info=about)
    played[0] = dataclasses.replace(played[0], score=Score(0.0))
    with TrajectoryWriter(folder / "trajectories.jsonl") as writer:
        for trajectory in played:
            writer.write(trajectory)
    return folder


def output(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_show_prints_the_episodes_that_fit(run: Path) -> None:
    text = output("show", run, "--where", "reward == 0", "--tokens", "tiny")
    first = next(read_trajectories(run / "trajectories.jsonl"))
    assert first.prompt[-1].content in text
    assert "reward 0.0" in text
    assert "<answer>" in text
    assert output("show", run, "--n", "3").count("reward ") >= 3
    assert first.task_id in output("show", run, "--id", first.id)


def test_show_says_what_does_not_fit(run: Path) -> None:
    for arguments, message in (
        (["--where", "reward > 5"], "fits 'reward > 5'"),
        (["--id", "nobody"], "has the id 'nobody'"),
        (["--where", "rewrd > 5"], "did you mean reward"),
    ):
        with pytest.raises(ValueError, match=message):
            output("show", run, *arguments)


def test_regrade_shows_what_changes_and_writes_it_elsewhere(run: Path, tmp_path: Path) -> None:
    before = (run / "trajectories.jsonl").read_bytes()
    out = tmp_path / "again.jsonl"
    text = output("regrade", run, "--out", out)
    again = list(read_trajectories(out))
    assert [trajectory.score.success for trajectory in again] == [True] * 6
    assert f"{again[0].id}: 0.0 -> {again[0].score.value} (right)" in " ".join(text.split())
    assert (run / "trajectories.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match="exists, and its episodes must not be mixed"):
        output("regrade", run, "--out", out)
