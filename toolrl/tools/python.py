"""The python tool: runs the model's code in a sandbox of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

from toolrl.errors import SandboxFault, ToolError
from toolrl.sandbox import ExecResult, Sandbox, SandboxFactory, SandboxLimits, open_sandbox
from toolrl.tools.definition import Tool, tool
from toolrl.tools.resources import per_episode
from toolrl.types import Task


def python_tool(
    *,
    session: Literal["episode", "call"] = "episode",
    limits: SandboxLimits | None = None,
    sandbox: str | SandboxFactory = "local",
    max_output_characters: int = 2000,
    files: Callable[[Task], Mapping[str, bytes]] | None = None,
) -> Tool:
    """Make a `python(code)` tool.

    Args:
        session: "episode" keeps variables between the calls of an episode; "call" starts every call with a fresh
            namespace.
        limits: Time, memory, processes, file size and output of one call.
        sandbox: Name of a registered backend ("local", "e2b"), or a factory called with the limits, for example
            `functools.partial(LocalSandbox, packages=True, isolation="full")`, for NumPy and the like and nothing less
            than full isolation.
        max_output_characters: How much of the output the model sees.
        files: Writable files in the working directory of a task's code, by path.
    """
    limits = limits or SandboxLimits()
    open_empty = partial(open_sandbox, sandbox, limits)

    def open_with_files(task: Task) -> Sandbox:
        opened = open_empty()
        try:
            _write(opened, files(task) if files else {})
        except BaseException:
            opened.close()
            raise
        return opened

    open_one: Callable[..., Sandbox] = open_with_files if files else open_empty

    # The sandbox enforces the time limit itself, by killing the code.
    @tool(timeout_seconds=limits.seconds, max_output_characters=max_output_characters, keeps_time=True)
    def python(
        code: str, sandbox: Sandbox = per_episode(open_one), given: Mapping[str, bytes] = per_episode(files or dict)
    ) -> str:
        """Run Python code and return what it prints, or the value of its last expression.

        Args:
            code: Python source code.
        """
        if session == "call":
            sandbox.reset()
            _write(sandbox, given)
        result = sandbox.run(code)
        if result.error is not None:
            timed_out = result.error.name == "TimeoutError" and "seconds" in result.limits_hit
            raise ToolError(result.error.value, output=format_result(result), timed_out=timed_out)
        return format_result(result)

    return python


def _write(sandbox: Sandbox, files: Mapping[str, bytes]) -> None:
    for path, content in files.items():
        try:
            sandbox.write_file(path, content)
        except OSError as error:  # the model's code has not run yet
            raise SandboxFault(f"the task's file {path!r} could not be written: {error}") from error


def format_result(result: ExecResult) -> str:
    """An execution as the model sees it: output, displays, last value, then the error's traceback."""
    shown = [show.data.get("text/plain", "") for show in result.displays if not show.is_result]
    parts = [result.stdout.rstrip("\n"), *shown, result.value or "", result.stderr.rstrip("\n")]
    if result.error is not None:
        parts.append(result.error.traceback.rstrip("\n") or f"{result.error.name}: {result.error.value}")
    return "\n".join(part for part in parts if part) or "(no output)"
