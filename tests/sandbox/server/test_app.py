"""`toolrl sandbox serve` as a process: from its first line of output to its end, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import e2b_code_interpreter
import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder that other users can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o711)
        yield Path(path)


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address; it and its children keep temporary files in `folder`."""
    command = [sys.executable, "-m", "toolrl", "sandbox", "serve", "--port", "0", *arguments]
    environment = {**os.environ, "TMPDIR": str(folder)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as server:
        try:
            line = server.stdout.readline()
            yield server, re.match(r"export E2B_API_URL=(\S+) E2B_SANDBOX_URL=\1 E2B_API_KEY=\S+$", line)[1]
        finally:
            server.kill()


def below(pid: int) -> set[int]:
    """A process's descendants."""
    found = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            listed = children.read_text()
        except OSError:  # the thread has ended meanwhile
            continue
        for child in map(int, listed.split()):
            found |= {child} | below(child)
    return found


def is_running(argument: str) -> bool:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument.encode() in entry.read_bytes():
                return True
        except OSError:
            continue
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("busy", [False, True])
def test_a_signal_ends_the_server_and_everything_it_started(
    folder: Path, eventually: Callable[..., bool], number: int, busy: bool
) -> None:
    sleeper = f"86400.{uuid.uuid4().int}"
    with serving(folder) as (server, url):
        sandbox = e2b_code_interpreter.Sandbox.create(api_url=url, sandbox_url=url, api_key="any")
        sandbox.files.write("file", "text")
        sandbox.run_code(f"import subprocess; p = subprocess.Popen(['sleep', '{sleeper}'])")
        if busy:
            context = sandbox.create_code_context()
            with pytest.raises(e2b_code_interpreter.TimeoutException):
                sandbox.run_code(HOLDS_ON, context=context, timeout=0.5)
        processes = below(server.pid)
        assert processes
        assert eventually(lambda: is_running(sleeper))
        assert list(folder.iterdir())
        server.send_signal(number)
        assert (server.wait(30), server.stderr.read()) == (0, "")
    assert eventually(lambda: not is_running(sleeper))
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes))
    assert eventually(lambda: not list(folder.iterdir()))


HOLDS_ON = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"


def test_the_command_requires_a_key_beyond_loopback() -> None:
    command = [sys.executable, "-m", "toolrl", "sandbox", "serve", "--host", "0.0.0.0", "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "TOOLRL_SANDBOX_API_KEY"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "API key" in done.stderr


def test_the_key_in_the_environment_is_required_of_clients(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLRL_SANDBOX_API_KEY", "right")
    with serving(folder, "--host", "0.0.0.0") as (_, url):
        url = url.replace("0.0.0.0", "127.0.0.1")
        options = {"api_url": url, "sandbox_url": url}
        with pytest.raises(e2b_code_interpreter.AuthenticationException):
            e2b_code_interpreter.Sandbox.create(api_key="wrong", **options)
        assert e2b_code_interpreter.Sandbox.create(api_key="right", **options).run_code("1").text == "1"
