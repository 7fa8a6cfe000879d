"""Promises about the python tool."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Literal

import pytest

from toolrl import Task, Tool, ToolCall, ToolFailure
from toolrl.errors import InfrastructureError
from toolrl.sandbox import ExecResult, LocalSandbox, SandboxLimits
from toolrl.sandbox.base import ExecError
from toolrl.support.event_loop import run_sync
from toolrl.tools import Toolbox, dispatch, python_tool
from toolrl.tools.python import format_result
from toolrl.tools.resources import ResourceScope

Run = Callable[[str], str]


@pytest.fixture
def episode() -> Iterator[Callable[[Tool], Run]]:
    """Starts an episode with a python tool and returns a function that runs code in it."""
    scopes = []

    def start(python: Tool) -> Run:
        scope = ResourceScope(Task("t", "p"), ResourceScope())
        scopes.append(scope)
        toolbox = Toolbox([python])
        return lambda code: run_sync(toolbox.call(ToolCall("python", {"code": code}), scope)).content

    yield start
    for scope in scopes:
        scope.close()


def test_variables_live_as_long_as_their_episode_and_no_longer(episode: Callable[[Tool], Run]) -> None:
    python = python_tool()
    first, second = episode(python), episode(python)
    assert first("x = 41") == "(no output)"
    assert first("x + 1") == "42"
    assert "NameError: name 'x' is not defined" in second("x + 1")


def test_with_a_session_per_call_nothing_is_left_for_the_next(episode: Callable[[Tool], Run]) -> None:
    run = episode(python_tool(session="call"))
    assert run("x = 41\nopen('note', 'w').write('n')") == "1"
    assert "NameError" in run("x")
    assert "FileNotFoundError" in run("open('note')")


@pytest.mark.parametrize("session", ["episode", "call"])
def test_a_tasks_files_are_there_when_its_code_begins(
    episode: Callable[[Tool], Run], session: Literal["episode", "call"]
) -> None:
    python = python_tool(session=session, files=lambda task: {"in/a.txt": task.id.encode(), "b.bin": b"\xff"})
    for run in (episode(python), episode(python)):
        assert run("open('in/a.txt').read() + open('b.bin', 'rb').read().hex()") == "'tff'"
        run("open('in/a.txt', 'w').write('changed')")
        assert run("open('in/a.txt').read()") == ("'changed'" if session == "episode" else "'t'")
    assert set(python.schema["function"]["parameters"]["properties"]) == {"code"}


def test_files_that_cannot_be_written_are_a_fault_and_leave_no_sandbox_open(
    episode: Callable[[Tool], Run],
) -> None:
    closed = []

    class Full(LocalSandbox):
        def write_file(self, path: str, content: bytes) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            closed.append(self)
            super().close()

    run = episode(python_tool(sandbox=Full, files=lambda task: {"a.txt": b"a"}))
    with pytest.raises(InfrastructureError, match=r"'a.txt' could not be written: .*No space left"):
        run("1")
    assert len(closed) == 1


def test_the_model_sees_output_then_value_then_the_traceback_of_its_own_code(episode: Callable[[Tool], Run]) -> None:
    run = episode(python_tool())
    assert run("print('a')\nprint('b')\n'c'") == "a\nb\n'c'"
    shown = run("def f():\n    return 1 / 0\nprint('before')\nf()")
    assert shown.startswith("before\nTraceback (most recent call last):\n")
    assert shown.endswith("ZeroDivisionError: division by zero")
    assert "in f" in shown
    assert "toolrl" not in shown


def test_code_that_runs_too_long_is_killed_and_says_so(episode: Callable[[Tool], Run]) -> None:
    run = episode(python_tool(limits=SandboxLimits(seconds=0.5)))
    assert "TimeoutError" in run("while True: pass")
    assert run("1 + 1") == "2"


def test_long_output_is_cut(episode: Callable[[Tool], Run]) -> None:
    shown = episode(python_tool(max_output_characters=100))("print('x' * 5000)")
    assert "[... 4900 characters cut ...]" in shown


def test_text_that_no_tokenizer_can_encode_is_shown_as_an_escape(episode: Callable[[Tool], Run]) -> None:
    episode(python_tool())("chr(0xD800)").encode()


def test_code_that_is_not_text_is_refused() -> None:
    toolbox = Toolbox([python_tool()])
    result = run_sync(toolbox.call(ToolCall("python", {"code": 5}), ResourceScope()))
    assert result.failure is ToolFailure.INVALID_ARGUMENTS
    assert toolbox.schemas[0]["function"]["parameters"]["required"] == ["code"]


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (ExecResult("", "", None, None, 0.0), "(no output)"),
        (ExecResult("out\n\n", "err\n", "7", None, 0.0), "out\n7\nerr"),
        (ExecResult("", "", None, ExecError("SandboxDied", "it is gone", ""), 0.0), "SandboxDied: it is gone"),
        (ExecResult("out\n", "", None, ExecError("E", "v", "Traceback\nE: v\n"), 0.0), "out\nTraceback\nE: v"),
    ],
)
def test_an_execution_reads_as_in_a_terminal(result: ExecResult, text: str) -> None:
    assert format_result(result) == text


@pytest.mark.parametrize(("code", "failure"), [("1/0", ToolFailure.RAISED), ("while True: pass", ToolFailure.TIMEOUT)])
def test_code_that_raises_or_takes_too_long_counts_as_the_models_mistake(code: str, failure: ToolFailure) -> None:
    scope = ResourceScope(Task("t", "p"), ResourceScope())
    try:
        toolbox = Toolbox([python_tool(limits=SandboxLimits(seconds=0.5))])
        result = run_sync(toolbox.call(ToolCall("python", {"code": code}), scope))
    finally:
        scope.close()
    assert result.failure is failure


def test_a_sandbox_that_does_not_come_back_is_a_fault(
    episode: Callable[[Tool], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    class Stuck(LocalSandbox):
        """Hangs in reset."""

        def reset(self) -> None:
            release.wait(60)

    monkeypatch.setattr(dispatch, "OPENING_SECONDS", 0.1)
    run = episode(python_tool(session="call", sandbox=Stuck, limits=SandboxLimits(seconds=0.5)))
    try:
        with pytest.raises(InfrastructureError, match="'python' has not answered"):
            run("1")
    finally:
        release.set()
