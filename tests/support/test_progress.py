"""Progress of long work: a bar in a terminal, lines elsewhere, never on stdout."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import time
from typing import Any

import pytest
from rich.console import Console

from toolrl import Task, ToolEnv, say
from toolrl.audit import audit_environment, check_environment
from toolrl.evaluation import evaluate, progress
from toolrl.support.progress import describe

EVAL = [sys.executable, "-m", "toolrl", "eval", "toolrl/PythonMath-v0", "--policy", "oracle", "--tasks", "5", "--json"]


@pytest.mark.parametrize(
    ("numbers", "line"),
    [
        ((0, 0, 30.2), "episodes: 0 of ? after 30 s"),
        ((0, 100, 60.0), "episodes: 0 of 100 after 1 min 0 s"),
        ((25, 100, 50.0), "episodes: 25 of 100 after 50 s, 30.0 a minute, 2 min 30 s to go"),
        ((4000, 10_000, 1000.0), "episodes: 4000 of 10000 after 16 min 40 s, 4.0 a second, 25 min 0 s to go"),
        ((1, 101, 120.0), "episodes: 1 of 101 after 2 min 0 s, 0.5 a minute, 3 h 20 min to go"),
        ((100, 100, 50.0), "episodes: 100 of 100 after 50 s"),
        ((60, 100, 20.0, 50), "episodes: 60 of 100 after 20 s, 30.0 a minute, 1 min 20 s to go"),
    ],
)
def test_a_line_has_a_rate_and_the_time_to_go(numbers: tuple[Any, ...], line: str) -> None:
    assert describe("episodes", *numbers) == line


def test_work_without_progress_is_shown_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolrl.support.progress.LINE_SECONDS", 0.05)
    told = io.StringIO()
    with progress("episodes", Console(file=told)) as show:
        time.sleep(0.3)
        show(0, 9)
        show(3, 9)
        time.sleep(0.3)
    lines = told.getvalue().splitlines()
    assert lines[0] == "episodes: 0 of ? after 0 s"
    assert lines[-1].startswith("episodes: 3 of 9 after 1 s, ")
    time.sleep(0.2)
    assert told.getvalue().splitlines() == lines


def test_the_next_part_of_some_work_has_a_rate_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolrl.support.progress.LINE_SECONDS", 0.05)
    told, now = io.StringIO(), [1000.0]
    monkeypatch.setattr("toolrl.support.progress.time.monotonic", lambda: now[0])
    with progress("episodes", Console(file=told)) as show:
        show(0, 9)
        now[0] += 5000
        show(9, 9)
        show(0, 9)
        now[0] += 2
        show(4, 9)
        deadline = time.time() + 10
        while "episodes: 4 of 9 after 2 s, 2.0 a second, 2 s to go" not in told.getvalue():
            assert time.time() < deadline, told.getvalue()
            time.sleep(0.01)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_work_inside_other_work_has_a_bar_below_it_and_slow_work_has_a_rate() -> None:
    screen = Screen()
    console = Console(file=screen, force_terminal=True, width=120)
    with progress("steps", console) as steps:
        steps(50, 100)
        with progress("held-out episodes") as episodes:
            episodes(3, 7)
            console.print("a line above")
        steps(51, 100)
    shown = screen.getvalue()
    assert "a line above" in shown
    assert shown.index("steps") < shown.index("held-out episodes")
    with progress("steps", console):
        pass  # the other bar is closed


def environment(**_: Any) -> ToolEnv:
    return ToolEnv(
        tasks=[Task(str(n), f"{n} + {n}?", str(2 * n)) for n in range(6)],
        reward=lambda task, episode: float(episode.answer == task.answer),
        oracle=lambda task: [say(task.answer)],
    )


def test_every_episode_is_counted_where_episodes_are_played() -> None:
    seen: dict[str, list[tuple[int, int]]] = {"eval": [], "audit": [], "check": []}
    evaluate({"e": environment()}, None, None, samples=2, on_progress=lambda *n: seen["eval"].append(n))
    audit_environment(environment, tasks=2, on_progress=lambda *n: seen["audit"].append(n))
    check_environment(environment, tasks=2, on_progress=lambda *n: seen["check"].append(n))
    for numbers in seen.values():
        dones = [done for done, _ in numbers]
        assert dones == sorted(dones)
        assert dones[0] == 0
        assert dones[-1] >= numbers[-1][1] - 1 > 3
    assert seen["eval"] == [(done, 12) for done in range(13)]


@pytest.mark.slow
def test_a_command_shows_lines_on_stderr_and_its_result_alone_on_stdout() -> None:
    code = "import toolrl.support.progress as p; p.LINE_SECONDS = 0.001; from toolrl.cli import main; main()"
    command = [sys.executable, "-c", code, *EVAL[3:]]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert json.loads(ran.stdout)["toolrl/PythonMath-v0"]["success"] == 1.0
    assert "episodes: " in ran.stderr
    assert "of 5 after" in ran.stderr


@pytest.mark.slow
def test_a_terminal_shows_a_bar() -> None:
    ours, its = pty.openpty()
    with subprocess.Popen(EVAL, stdout=subprocess.PIPE, stderr=its, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(its)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65_536)
            except OSError:  # the other end is closed
                break
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["toolrl/PythonMath-v0"]["success"] == 1.0
    os.close(ours)
    assert "episodes" in shown.decode()
    assert "━" in shown.decode()
