"""Shell commands in a hosted sandbox, through E2B's own SDK."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import e2b_code_interpreter
import pytest

from tests.raw_http import answered, exchange, request
from toolrl.sandbox.server import SandboxServer


@pytest.fixture
def remote(sandbox_server: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("E2B_API_KEY", "any")
    sandbox = e2b_code_interpreter.Sandbox.create(timeout=60, envs={"EVERYWHERE": "here"})
    yield sandbox
    sandbox.kill()


def test_a_command_returns_its_output_and_exit_code(remote: Any) -> None:
    done = remote.commands.run("pwd; echo $EVERYWHERE $ONCE; echo err >&2", envs={"ONCE": "é"})
    assert (done.stdout, done.stderr, done.exit_code) == ("/home/user\nhere é\n", "err\n", 0)
    with pytest.raises(e2b_code_interpreter.CommandExitException) as raised:
        remote.commands.run("echo out; exit 3")
    assert (raised.value.exit_code, raised.value.stdout) == (3, "out\n")


def test_commands_code_and_files_share_the_home_folder(remote: Any) -> None:
    remote.files.write("d/in", "1")
    assert remote.commands.run("cat in && echo 2 > out", cwd="/home/user/d").stdout == "1"
    assert remote.run_code("open('d/out').read()").text == "2\\n"


def test_output_is_streamed_while_a_command_runs(remote: Any) -> None:
    came: list[float] = []
    remote.commands.run("echo 1; sleep 1; echo 2", on_stdout=lambda text: came.append(time.monotonic()))
    assert came[-1] - came[0] > 0.5


def test_a_command_in_the_background_is_listed_and_killed(remote: Any, eventually: Callable[..., bool]) -> None:
    running = remote.commands.run("sleep 60", background=True)
    assert [process.pid for process in remote.commands.list()] == [running.pid]
    assert remote.commands.kill(running.pid)
    assert not remote.commands.kill(running.pid)
    with pytest.raises(e2b_code_interpreter.CommandExitException):
        running.wait()
    assert remote.commands.list() == []


def test_a_command_ends_when_its_client_gives_up(remote: Any, eventually: Callable[..., bool]) -> None:
    with pytest.raises(e2b_code_interpreter.TimeoutException):
        remote.commands.run("trap '' INT; sleep 60", timeout=1)
    assert eventually(lambda: remote.commands.list() == [])


def test_the_codes_modules_cannot_intercept_a_command(remote: Any) -> None:
    remote.files.write("subprocess.py", "raise SystemExit('forged')")
    assert remote.commands.run("echo well").stdout == "well\n"


def test_unsupported_requests_say_so(remote: Any) -> None:
    with pytest.raises(Exception, match="terminals"):
        remote.pty.create(e2b_code_interpreter.PtySize(rows=24, cols=80))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\0\0\0\0",
        b"\1\0\0\0\2{}",
        b"\0\0\0\0\3{}",
        b"\0\xff\xff\xff\xff{}",
        b"\0\0\0\0\2{}",
        b"\0\0\0\0\2[]",
        b"{}",
    ],
)
def test_malformed_messages_are_refused(sandbox_server: SandboxServer, remote: Any, message: bytes) -> None:
    sent = request("POST", "/process.Process/Start", message, E2b_Sandbox_Id=remote.sandbox_id)
    assert answered(exchange(sandbox_server.url, sent))[0] == 400


@pytest.mark.parametrize(
    "process", [{"cmd": 1}, {"cmd": "a", "args": "b"}, {"cmd": "a", "envs": {"": "x"}}, {"cmd": "a", "cwd": 3}, {}]
)
def test_invalid_commands_are_refused(sandbox_server: SandboxServer, remote: Any, process: Any) -> None:
    content = json.dumps({"process": process}).encode()
    message = b"\0" + len(content).to_bytes(4, "big") + content
    sent = request("POST", "/process.Process/Start", message, E2b_Sandbox_Id=remote.sandbox_id)
    assert answered(exchange(sandbox_server.url, sent))[0] == 400
