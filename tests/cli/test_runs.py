"""Promises about `toolrl view`, `show`, `export` and `regrade`."""

from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from toolrl import ConfigError, Trajectory, TrajectoryWriter, make, read_trajectories
from toolrl.chat import Renderer
from toolrl.cli import app, main
from toolrl.evaluation import evaluate
from toolrl.policy.models import load_tokenizer
from toolrl.trajectory import Turn
from toolrl.types import Message, Sample, Score, StopReason


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of twenty episodes."""
    folder = tmp_path / "run"
    with TrajectoryWriter(folder / "trajectories.jsonl") as writer:
        for number in range(20):
            turn = Turn(Sample([5, 2], [-0.1, -0.2]), Message("assistant", f"said {number}"))
            prompt = (Message("user", f"question {number}"),)
            score = Score(float(number % 2), {}, "", "")
            writer.write(Trajectory(f"e{number}", "a/B-v0", "t", prompt, [1], (turn,), score, StopReason.ANSWER))
    return folder


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_page_answers_until_a_signal_ends_it_cleanly(run: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "toolrl", "view", str(run), "--no_browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = urlsplit(process.stdout.readline().strip())
    assert address.hostname == "127.0.0.1"
    connection = HTTPConnection("127.0.0.1", address.port or 0)
    connection.request("GET", f"/?{address.query}")
    assert connection.getresponse().status == 200
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


def test_a_port_in_use_is_reported(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from toolrl.view.server import PageServer

    server = PageServer([run])
    port = urlsplit(server.url).port
    server.start()
    try:
        assert command("view", str(run), "--no_browser", "--port", str(port)) == 2
    finally:
        server.close()
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_export_writes_the_episodes_that_match(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert command("export", str(run), "--out", str(out), "--where", "success == 1", "--limit", "4") == 0
    assert re.search(r"4 episodes, [\d.]+ MB", capsys.readouterr().out)
    page = out.read_text("utf-8")
    assert page.count("<template") == 4
    assert "4 of 20 episodes, where success == 1" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--where", "reward > 5"], "no episode of"),
        (["--where", "sucess"], "did you mean success"),
        (["--out", "/nowhere/page.html"], "cannot write '/nowhere/page.html'"),
    ],
)
def test_what_export_cannot_do_is_one_clear_error(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert command("export", str(run), "--out", str(tmp_path / "page.html"), *arguments) == 2
    assert words in capsys.readouterr().err.replace("\n", " ")


@pytest.fixture(scope="module")
def played_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def test_show_prints_the_episodes_that_match(played_run: Path) -> None:
    text = output("show", played_run, "--where", "reward == 0", "--tokens", "tiny")
    first = next(read_trajectories(played_run / "trajectories.jsonl"))
    assert first.prompt[-1].content in text
    assert "reward 0.0" in text
    assert "<answer>" in text
    assert output("show", played_run, "--limit", "3").count("reward ") >= 3
    assert first.task_id in output("show", played_run, "--id", first.id)


def test_show_says_what_does_not_match(played_run: Path) -> None:
    for arguments, message in (
        (["--where", "reward > 5"], "matches 'reward > 5'"),
        (["--id", "nobody"], "has the id 'nobody'"),
        (["--where", "rewrd > 5"], "did you mean reward"),
    ):
        with pytest.raises(ValueError, match=message):
            output("show", played_run, *arguments)


def test_regrade_shows_what_changes_and_writes_it_elsewhere(played_run: Path, tmp_path: Path) -> None:
    before = (played_run / "trajectories.jsonl").read_bytes()
    out = tmp_path / "again.jsonl"
    text = output("regrade", played_run, "--out", out)
    again = list(read_trajectories(out))
    assert [trajectory.score.success for trajectory in again] == [True] * 6
    assert f"{again[0].id}: 0.0 -> {again[0].score.value} (right)" in " ".join(text.split())
    assert (played_run / "trajectories.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match="exists, and its episodes must not be mixed"):
        output("regrade", played_run, "--out", out)
