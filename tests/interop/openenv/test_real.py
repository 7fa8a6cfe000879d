"""openenv itself, in an environment of its own: its clients play ours, we play its servers. `make test-agents`."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from toolrl import Task, ToolEnv, call, make, say
from toolrl.audit import audit_environment
from toolrl.interop import from_openenv
from toolrl.interop.serve import EnvironmentServer

HERE = Path(__file__).parent
PYTHON = HERE.parents[2] / ".venv-openenv" / "bin" / "python"

pytestmark = [
    pytest.mark.agents,
    pytest.mark.skipif(not PYTHON.exists(), reason="openenv is not installed: make test-agents"),
    pytest.mark.timeout(300),
]

IDS = ["toolrl/PythonMath-v0", "toolrl/DocsSearch-v0", "toolrl/Retail-v0"]


def opening(env: ToolEnv, task: Task) -> tuple[list[Any], str]:
    """The calls with which an oracle begins, and its last words."""
    solution = list(env.oracle(task))
    made = [(one.name, dict(one.arguments)) for message in solution for one in message.tool_calls]
    calls = [(name, arguments) for name, arguments in made if "name" not in arguments]  # its client takes that itself
    return calls, next(message.content for message in reversed(solution) if not message.tool_calls)


@pytest.mark.parametrize("env_id", IDS)
def test_its_clients_and_its_validation(env_id: str) -> None:
    environments = {split: make(env_id, split=split) for split in ("train", "test")}
    env = environments["test"]
    calls, words = opening(env, env.tasks[0])
    try:
        with EnvironmentServer([env_id], lambda name, split: environments[split]) as server:
            command = [PYTHON, HERE / "real_client.py", server.url, json.dumps(calls[:2]), words]
            done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
            assert done.returncode == 0, done.stderr
            validated = subprocess.run(
                [PYTHON.parent / "openenv", "validate", "--url", server.url, "--json"],
                capture_output=True, text=True, timeout=200, check=False,
            )  # fmt: skip
    finally:
        for one in environments.values():
            one.close()
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["actions"]["prompt"] == env.tasks[0].prompt
    assert found["actions"]["results"] == found["tools"]["results"]
    assert found["actions"]["steps"] == len(calls[:2]) + 1
    if env.user is None:
        assert found["actions"]["done"]
        assert found["tools"]["done"]
        assert found["actions"]["reward"] == found["tools"]["reward"] is not None
    assert [line.split()[0] for line in found["at_once"]] == [task.id for task in environments["train"].tasks.take(16)]
    assert all(line.split()[0] == line.split()[1] for line in found["at_once"])
    report = json.loads(validated.stdout)
    assert (report["passed"], report["mode"]) == (True, "simulation"), report


@pytest.fixture
def server() -> Iterator[Callable[[str], str]]:
    """Starts a server of openenv's."""
    running: list[subprocess.Popen[bytes]] = []

    def start(kind: str) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        running.append(subprocess.Popen([PYTHON, HERE / "real_server.py", kind, str(port)]))
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            try:
                httpx.get(f"{url}/health").raise_for_status()
                return url
            except httpx.HTTPError:
                assert running[-1].poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)

    yield start
    for process in running:
        process.terminate()
        process.wait(30)


def test_its_echo_environment_with_sixteen_sessions_at_once(server: Callable[[str], str]) -> None:
    env = from_openenv(server("echo"), tasks=16)

    def play(place: int) -> tuple[str, float]:
        own = env.copy()
        own.reset(options={"task": place})
        text = own.step(call("act", message=f"number {place}"))[0]
        reward = sum(own.step(turn)[1] for turn in (call("act", message="b" * 20), say("done")))
        own.close()
        return text, reward

    with ThreadPoolExecutor(16) as pool:
        played = list(pool.map(play, range(16)))
    assert [text.splitlines()[0] for text, _ in played] == [f"echoed_message: number {n}" for n in range(16)]
    env.close()


def test_its_tools(server: Callable[[str], str]) -> None:
    def describe(observation: Any) -> str:
        goal = observation.get("metadata", {}).get("goal")
        return f"Reach {goal}." if goal else str(observation.get("result") or observation.get("error"))

    env = from_openenv(server("tools"), tasks=3, describe=describe)
    assert [task.prompt for task in env.tasks] == ["Reach 40.", "Reach 41.", "Reach 42."]
    assert [schema["function"]["name"] for schema in env.toolbox.schemas] == ["add", "divide"]
    env.reset(options={"task": 0})
    assert "42" in env.step(call("add", a=40, b=2))[0]
    assert env.step(call("divide", a=1, b=0))[-1]["failures"] == ["raised"]
    assert env.step(call("add", a="x", b=2))[-1]["failures"] == ["invalid_arguments"]
    env.close()


def test_the_audit_finds_that_anything_earns_reward(server: Callable[[str], str]) -> None:
    assert not audit_environment(f"openenv:{server('echo')}", tasks=2, settings={"tasks": 8}).passed
