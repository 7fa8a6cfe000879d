"""Promises about the shell tool. Those about shells in sandboxes are in `tests/sandbox/test_shell.py`."""

from __future__ import annotations

import pytest

from tests.tools.conftest import CallTool
from toolrl import Task, ToolFailure
from toolrl.errors import SandboxFault
from toolrl.sandbox import FileTree, LocalSandbox, SandboxLimits
from toolrl.support.event_loop import run_sync
from toolrl.tools import ShellResult, Toolbox, shell_tool
from toolrl.tools.resources import ResourceScope
from toolrl.types import ToolCall

QUICK = SandboxLimits(seconds=0.3, processes=64)


def test_the_shell_of_an_episode_is_its_own_and_starts_among_its_files() -> None:
    toolbox = Toolbox([shell_tool(files=lambda task: {"in/a.txt": task.id.encode()}, environment={"X": "5"})])
    scopes = [ResourceScope(Task(name, "p"), ResourceScope()) for name in ("one", "two")]

    def run(command: str, scope: ResourceScope) -> str:
        return run_sync(toolbox.call(ToolCall("shell", {"command": command}), scope)).content

    assert [run("cat in/a.txt; echo $X; Y=1", scope) for scope in scopes] == ["one5", "two5"]
    assert run("Y=2; cd in; touch new", scopes[0]) == "(no output)"
    assert [run("echo $Y; ls", scope) for scope in scopes] == ["2\na.txt\nnew", "1\nin"]
    for scope in scopes:
        scope.close()


def test_what_is_not_a_success_is_said_in_brackets(call_tool: CallTool) -> None:
    shell = shell_tool(limits=QUICK)
    assert call_tool(shell, command="echo out; sh -c 'exit 2'").content == "out\n[exit code 2]"
    assert call_tool(shell, command="sh -c 'kill -9 $$'").content == "[exit code 137 (Killed)]"
    assert call_tool(shell, command="cd in 2> /dev/null || true").content == "(no output)"
    ended = call_tool(shell, command="exit 3")
    note = "exit\n[the shell ended with exit code 3; a new one is in /home/user, without its variables]"
    assert (ended.content, ended.failure) == (note, None)


def test_a_command_that_takes_too_long_counts_as_the_models_mistake(call_tool: CallTool) -> None:
    result = call_tool(shell_tool(limits=QUICK), command="echo begun; sleep 600")
    assert (result.content, result.failure) == ("begun\n[interrupted after 0.3 seconds]", ToolFailure.TIMEOUT)


def test_long_output_is_cut_and_odd_commands_are_refused(call_tool: CallTool) -> None:
    shell = shell_tool(max_output_characters=100)
    assert "[... 4900 characters cut ...]" in call_tool(shell, command="head -c 5000 /dev/zero | tr '\\0' x").content
    assert call_tool(shell, command="a\0b").content == "error: a command cannot contain NUL"
    assert call_tool(shell, command=["ls"]).failure is ToolFailure.INVALID_ARGUMENTS
    assert set(shell.schema["function"]["parameters"]["properties"]) == {"command"}


def test_files_that_cannot_be_written_are_a_fault_and_leave_no_sandbox_open(call_tool: CallTool) -> None:
    closed = []

    class Watched(LocalSandbox):
        def close(self) -> None:
            closed.append(self)
            super().close()

    tree = FileTree({"a": bytes(2 << 20)}, {"a": 0o755})
    limits = SandboxLimits(disk_mb=1)
    with pytest.raises(SandboxFault, match=r"the task's files could not be written: .*No space left"):
        call_tool(shell_tool(sandbox=Watched, limits=limits, files=lambda task: tree), command="ls")
    assert len(closed) == 1


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (ShellResult("", 0, "", "/"), "(no output)"),
        (ShellResult("a\n\n", 1, "", "/"), "a\n[exit code 1]"),
        (ShellResult("", 139, "", "/"), "[exit code 139 (Segmentation fault)]"),
        (ShellResult("", -15, "exited", "/x"), "[the shell was ended by signal 15 (Terminated); a new one is in /x, "
         "without its variables]"),
        (ShellResult("", 1, "lost", "/x", "why"), "[the shell and everything it had started are gone: why; a new one "
         "is in /x, without its variables]"),
        (ShellResult("", 1, "killed", "/x"), "[stopped after 2 seconds, and the shell with it; a new one is in /x, "
         "without its variables]"),
    ],
)  # fmt: skip
def test_a_result_reads_as_in_a_terminal(result: ShellResult, text: str) -> None:
    assert result.text(2.0) == text
