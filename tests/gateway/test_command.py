"""Promises about commands that play episodes: their failures are told apart, and nothing of them is left."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.gateway.test_conversations import scripted
from tests.gateway.test_program import CLIENT, played
from toolrl import ConfigError, Renderer, RolloutRequest, Task, ToolEnv
from toolrl.gateway import AgentProgram, ProgramEngine

ASK = 'ask([{"role": "user", "content": os.environ["TOOLRL_TASK"]}])'


def agent(folder: Path, code: str, **settings: float) -> AgentProgram:
    file = folder / "agent.py"
    file.write_text(code)
    return AgentProgram(command=[sys.executable, str(file)], **settings)


def processes_with(mark: str) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if any(mark in word for word in p.info["cmdline"] or ())]


def wait_for(count: int, mark: str) -> None:
    until = time.monotonic() + 20
    while len(processes_with(mark)) != count:
        assert time.monotonic() < until, processes_with(mark)
        time.sleep(0.05)


def test_a_command_plays_over_the_address_that_it_finds(tmp_path: Path, renderer: Renderer) -> None:
    program = agent(tmp_path, f"{CLIENT}\nprint({ASK})\nprint('not the answer', file=sys.stderr)")
    (trajectory,) = played(program, scripted(renderer, "8"), renderer)
    assert trajectory.score.success
    assert trajectory.turns[0].message.content == "8"
    assert "program" not in trajectory.info


@pytest.mark.parametrize("code", ["sys.exit(3)", "raise SystemExit('no')", "ask([])", "os.kill(os.getpid(), 9)"])
def test_a_command_that_fails_after_a_turn_has_no_answer_and_says_why(
    tmp_path: Path, renderer: Renderer, code: str
) -> None:
    program = agent(tmp_path, f"{CLIENT}\nprint({ASK}, flush=True)\nprint('a reason', file=sys.stderr)\n{code}")
    (trajectory,) = played(program, scripted(renderer, "8"), renderer)
    assert trajectory.score.value == 0.0
    assert "ended with status" in trajectory.info["program"]
    assert "a reason" in trajectory.info["program"]


@pytest.mark.parametrize("code", ["sys.exit(3)", "import no_such_package", "ask([])", "import time; time.sleep(60)"])
def test_a_command_that_fails_before_it_asks_is_a_fault(tmp_path: Path, renderer: Renderer, code: str) -> None:
    program = agent(tmp_path, f"{CLIENT}\nprint('8', flush=True)\n{code}", seconds=2)
    (trajectory,) = played(program, scripted(renderer, "8"), renderer, retries=0)
    assert trajectory.score.value is None
    assert "ProgramFault: the program" in trajectory.error
    assert "no_such_package" not in code or "No module named 'no_such_package'" in trajectory.error


def test_a_command_that_does_not_end_is_ended_with_what_it_started(tmp_path: Path, renderer: Renderer) -> None:
    code = f"{CLIENT}\n{ASK}\nimport subprocess, time\n"
    code += "subprocess.Popen(['sleep', '4321'], start_new_session=True)\ntime.sleep(4321)"
    (trajectory,) = played(agent(tmp_path, code, seconds=3), scripted(renderer, "8"), renderer)
    assert trajectory.score.value == 0.0
    assert trajectory.info["program"] == "had not ended after 3 s (--agent_seconds)"
    assert not processes_with("4321")
    assert not processes_with(str(tmp_path))


def test_what_a_command_leaves_behind_is_ended_and_not_waited_for(tmp_path: Path, renderer: Renderer) -> None:
    code = f"{CLIENT}\nprint({ASK})\nimport subprocess\nsubprocess.Popen(['sleep', '4322'], start_new_session=True)"
    (trajectory,) = played(agent(tmp_path, code, seconds=60), scripted(renderer, "8"), renderer)
    assert trajectory.score.success
    assert not processes_with("4322")


def test_nothing_of_a_command_survives_the_kill_of_its_trainer(tmp_path: Path) -> None:
    agent(tmp_path, "import subprocess\nsubprocess.run(['sleep', '4323'])")
    run = tmp_path / "run.py"
    run.write_text(
        f"""
from tests.gateway.test_command import AgentProgram, played, sys
from toolrl import Renderer
from toolrl.policy import ScriptedPolicy
from toolrl.policy.models import load_tokenizer
played(AgentProgram(command=[sys.executable, {str(tmp_path / "agent.py")!r}]), ScriptedPolicy([[1]]),
       Renderer(load_tokenizer("tiny")), count=3)
"""
    )
    started = subprocess.Popen([sys.executable, str(run)], env={**os.environ, "PYTHONPATH": os.getcwd()})
    try:
        wait_for(3, "4323")
    finally:
        started.send_signal(signal.SIGKILL)
        started.wait()
    wait_for(0, "4323")
    wait_for(0, str(tmp_path))


@pytest.mark.parametrize("text", ["x" * 200_000, "a\0b"])
def test_a_task_that_no_variable_can_hold_is_said(renderer: Renderer, text: str) -> None:
    env = ToolEnv(tasks=[Task("t", text, "8")], reward=lambda task, episode: 1.0)
    with (
        closing(ProgramEngine(AgentProgram(command=["true"]), scripted(renderer, "8"), renderer)) as engine,
        pytest.raises(ConfigError, match="TOOLRL_TASK cannot be given to a command"),
    ):
        engine.run([RolloutRequest(env, env.tasks[0])])
    fits = ToolEnv(tasks=[Task("t", "x" * 131_000, "8")], reward=lambda task, episode: 1.0)
    with closing(ProgramEngine(AgentProgram(command=["true"]), scripted(renderer, "8"), renderer)) as engine:
        assert engine.run([RolloutRequest(fits, fits.tasks[0])])[0].score.value == 1.0


def test_a_machine_that_cannot_start_it_is_a_fault(
    tmp_path: Path, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*arguments: object, **options: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", full)
    (trajectory,) = played(agent(tmp_path, ""), scripted(renderer, "8"), renderer, retries=0)
    assert trajectory.score.value is None
    assert "could not be started" in trajectory.error


def test_a_command_that_does_not_exist_is_said(renderer: Renderer) -> None:
    with pytest.raises(ConfigError, match="'no-such-agent' cannot be started"):
        played(AgentProgram(command=["no-such-agent"]), scripted(renderer, "8"), renderer)
