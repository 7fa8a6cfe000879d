"""Promises of `toolrl view` and `toolrl export`."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from toolrl import TrajectoryWriter
from toolrl.cli import main
from toolrl.types import Message, Sample, Score, StopReason


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of twenty episodes."""
    from toolrl.trajectory import Trajectory, Turn

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
def test_the_page_answers_until_a_signal_ends_it_in_good_order(run: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "toolrl", "view", str(run), "--no-browser"],
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


def test_a_taken_port_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from toolrl.view.server import PageServer

    server = PageServer([run])
    port = urlsplit(server.url).port
    server.start()
    try:
        assert command("view", str(run), "--no-browser", "--port", str(port)) == 2
    finally:
        server.stop()
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_export_writes_what_fits_a_query(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert command("export", str(run), "--html", str(out), "--where", "success == 1", "--n", "4") == 0
    assert re.search(r"4 episodes, [\d.]+ MB", capsys.readouterr().out)
    page = out.read_text("utf-8")
    assert page.count("<template") == 4
    assert "4 of 20 episodes, where success == 1" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--where", "reward > 5"], "no episode of"),
        (["--where", "sucess"], "did you mean success"),
        (["--html", "/nowhere/page.html"], "cannot write '/nowhere/page.html'"),
    ],
)
def test_what_export_cannot_do_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert command("export", str(run), "--html", str(tmp_path / "page.html"), *arguments) == 2
    assert words in capsys.readouterr().err.replace("\n", " ")
