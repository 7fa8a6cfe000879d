"""Promises about programs in a sandbox: they reach the gateway, and nothing else."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.gateway.test_program import CLIENT, counting
from tests.gateway.test_tools import CALL
from toolrl import ConfigError, Renderer, RolloutRequest, SamplingParams
from toolrl.gateway import AgentProgram, ProgramEngine
from toolrl.policy import TransformersPolicy
from toolrl.sandbox import LocalSandbox, SandboxLimits
from toolrl.trajectory import Trajectory
from toolrl.types import StopReason


@pytest.fixture(scope="module", autouse=True)
def isolated() -> None:
    with LocalSandbox() as sandbox:
        if not sandbox.workspace.zygote.active.holds["namespaces"]:
            pytest.skip("this machine has no user namespaces")


@pytest.fixture
def reachable() -> Iterator[int]:
    """A port of this machine on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def played(
    folder: Path, program: str, policy: TransformersPolicy, renderer: Renderer, seconds: float = 60.0
) -> list[Trajectory]:
    (folder / "agent.py").write_text(program)
    agent = AgentProgram(command=["python", "agent.py"], sandbox=folder, seconds=seconds)
    engine = ProgramEngine(agent, policy, renderer, sampling=SamplingParams(0.0, 24), retries=0)
    env = counting()
    try:
        return engine.run([RolloutRequest(env, task, "e", task.id) for task in env.tasks.take(3)])
    finally:
        engine.close()
        env.close()


def test_an_agent_plays_from_a_sandbox(tmp_path: Path, tiny: TransformersPolicy, renderer: Renderer) -> None:
    program = f'{CLIENT}\nprint(ask([{{"role": "user", "content": os.environ["TOOLRL_TASK"]}}]))'
    trajectories = played(tmp_path, program, tiny, renderer)
    assert all(trajectory.has_tokens and len(trajectory.turns) == 1 for trajectory in trajectories)
    assert all(trajectory.stop is StopReason.ANSWER for trajectory in trajectories)


def test_the_sdk_works_from_a_sandbox(tmp_path: Path, tiny: TransformersPolicy, renderer: Renderer) -> None:
    program = """
import os
from openai import OpenAI

answer = OpenAI(max_retries=0).chat.completions.create(
    model=os.environ["TOOLRL_MODEL"], messages=[{"role": "user", "content": os.environ["TOOLRL_TASK"]}]
)
print(answer.choices[0].message.content)
"""
    assert all(len(trajectory.turns) == 1 for trajectory in played(tmp_path, program, tiny, renderer))


def test_it_calls_the_environments_tools(tmp_path: Path, tiny: TransformersPolicy, renderer: Renderer) -> None:
    assert all(trajectory.score.success for trajectory in played(tmp_path, CALL, tiny, renderer))


def test_how_it_failed_is_kept(tmp_path: Path, tiny: TransformersPolicy, renderer: Renderer) -> None:
    program = f'{CLIENT}\nask([{{"role": "user", "content": "hello"}}])\nraise SystemExit("a reason")'
    for trajectory in played(tmp_path, program, tiny, renderer):
        assert trajectory.info["program"] == "ended with status 1: a reason"
    for trajectory in played(tmp_path, "import no_such_package", tiny, renderer):
        assert trajectory.score.value is None
        assert "No module named 'no_such_package'" in trajectory.error


@pytest.mark.parametrize("command", ["no-such-command", "./agent.txt"])
def test_what_cannot_be_started_is_said(
    tmp_path: Path, tiny: TransformersPolicy, renderer: Renderer, command: str
) -> None:
    (tmp_path / "agent.txt").write_text("not a program")
    env = counting()
    engine = ProgramEngine(AgentProgram(command=[command], sandbox=tmp_path), tiny, renderer)
    with pytest.raises(ConfigError, match="in the sandbox, the program cannot be started"):
        engine.run([RolloutRequest(env, env.tasks[0])])
    engine.close()
    env.close()


def test_it_reaches_nothing_else(tmp_path: Path, tiny: TransformersPolicy, renderer: Renderer, reachable: int) -> None:
    """The program asks the model for as many turns as it has reached places: only the gateway's own."""
    program = f"""{CLIENT}
import glob, pathlib, socket

def reaches(family, address):
    try:
        with socket.socket(family, socket.SOCK_STREAM) as attempt:
            attempt.settimeout(3)
            attempt.connect(address)
        return True
    except OSError:
        return False

places = [
    (socket.AF_INET, ("127.0.0.1", {reachable})), (socket.AF_INET, ("192.0.2.1", 80)),
    (socket.AF_INET, ("1.1.1.1", 53)), (socket.AF_INET6, ("2606:4700::1111", 53)),
    (socket.AF_INET6, ("::1", {reachable})),
]
places += [(socket.AF_UNIX, path) for path in ("/run/docker.sock", "/var/run/dbus/system_bus_socket")]
found = [place for place in places if reaches(*place)]
try:
    socket.getaddrinfo("example.com", 80)
    found.append("names")
except OSError:
    pass
for family, kind in ((socket.AF_NETLINK, socket.SOCK_RAW), (socket.AF_PACKET, socket.SOCK_RAW)):
    try:
        socket.socket(family, kind).close()
        found.append(family)
    except OSError:
        pass
try:
    pathlib.Path("agent.py").write_text("")
    found.append("its own folder")
except OSError:
    pass
found += [path for path in ("{tmp_path.parent}", "/root/.ssh", "/home") if glob.glob(path + "/*")]
assert not found, found
ask([{{"role": "user", "content": "hello"}}])
print("unreachable")
"""
    trajectories = played(tmp_path, program, tiny, renderer)
    assert [len(trajectory.turns) for trajectory in trajectories] == [1, 1, 1]


def test_a_key_of_nobody_and_of_another_episode_is_refused(
    tmp_path: Path, tiny: TransformersPolicy, renderer: Renderer
) -> None:
    program = f"""{CLIENT}
key, refused = os.environ["OPENAI_API_KEY"], 0
for wrong in ("", "toolrl-guess", key[:-1]):
    os.environ["OPENAI_API_KEY"] = wrong
    try:
        ask([{{"role": "user", "content": "hello"}}])
    except urllib.error.HTTPError as error:
        refused += error.code == 401
os.environ["OPENAI_API_KEY"] = key
if refused == 3:
    ask([{{"role": "user", "content": "hello"}}])
"""
    assert [len(one.turns) for one in played(tmp_path, program, tiny, renderer)] == [1, 1, 1]


def test_one_that_takes_too_long_is_ended_with_all_that_it_started(
    tmp_path: Path, tiny: TransformersPolicy, renderer: Renderer
) -> None:
    mark = "sleep-in-the-sandbox"
    program = f'import subprocess; subprocess.run(["python", "-c", "import time; time.sleep(600)  # {mark}"])'
    started = time.monotonic()
    trajectories = played(tmp_path, program, tiny, renderer, seconds=2.0)
    assert time.monotonic() - started < 60
    assert [trajectory.turns for trajectory in trajectories] == [(), (), ()]
    assert not [process for process in psutil.process_iter(["cmdline"]) if mark in str(process.info["cmdline"])]


def test_what_cannot_be_in_a_sandbox(tmp_path: Path, tiny: TransformersPolicy, renderer: Renderer) -> None:
    async def play(context: object) -> str:
        return ""

    with pytest.raises(ConfigError, match="only a command can have a sandbox"):
        AgentProgram(play, sandbox=tmp_path)
    engine = ProgramEngine(AgentProgram(command=["true"], sandbox=tmp_path / "no"), tiny, renderer)
    env = counting()
    try:
        with pytest.raises(ConfigError, match="does not exist"):
            engine.run([RolloutRequest(env, env.tasks[0])])
    finally:
        engine.close()


def test_loopback_is_each_sandboxs_own_and_off_by_default() -> None:
    listen = "import socket; s = socket.create_server(('127.0.0.1', 7000)); s.getsockname()"
    dial = "import socket; socket.create_connection(('127.0.0.1', 7000), 2)"
    limits = SandboxLimits(loopback=True)
    with LocalSandbox(limits) as one, LocalSandbox(limits) as other, LocalSandbox() as usual:
        assert one.run(listen).error is None
        assert one.run(dial).error is None
        refused = other.run(dial).error
        assert refused is not None
        assert refused.name == "ConnectionRefusedError"
        denied = usual.run(dial).error
        assert denied is not None
        assert denied.name == "PermissionError"
