"""The shell tool: runs the model's commands in a bash of its own, in a sandbox."""

from __future__ import annotations

import ast
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from toolrl.errors import SandboxFault, ToolError
from toolrl.sandbox import FileTree, Sandbox, SandboxFactory, SandboxLimits, Session, open_sandbox
from toolrl.support.python_source import parse_python
from toolrl.tools.definition import Tool, tool
from toolrl.tools.resources import per_episode
from toolrl.types import Task

End = Literal["", "interrupted", "exited", "killed", "lost"]

SHELL_LIMITS = SandboxLimits(seconds=20.0, processes=64)
ENVIRONMENT = {"TERM": "dumb", "PAGER": "cat", "GIT_PAGER": "cat"}
_BASH = Path(__file__).parents[1] / "sandbox" / "inside" / "bash.py"
_PATIENCE_SECONDS = 10.0  # for bash to be interrupted, killed and started again
# bash cannot restore the state of a terminal that it does not have.
_NO_TERMINAL = re.compile(r"^bash: \[\d+: \d+ \(\d+\)\] tcsetattr: .*\n?", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ShellResult:
    """What a command did.

    Attributes:
        output: Its stdout and stderr.
        exit_code: Its exit code; 128 and more for a signal. If the shell ended, that of the shell, where a negative
            number is a signal.
        end: "" if the command ended by itself, "interrupted" if it ran out of time and the shell goes on. In the other
            cases a new shell has been started: "exited" if the shell ended with the command, "killed" if it could not
            be interrupted, "lost" if everything in its session ended.
        folder: The folder of the next command.
        reason: Why the session was lost.
    """

    output: str
    exit_code: int
    end: End
    folder: str
    reason: str = ""

    def text(self, seconds: float) -> str:
        """The result as the model sees it: the output, then in brackets whatever was not a success."""
        notes = {
            "": f"exit code {self.exit_code}{_signal_name(self.exit_code - 128)}",
            "interrupted": f"interrupted after {seconds:g} seconds",
            "exited": f"the shell ended with exit code {self.exit_code}",
            "killed": f"stopped after {seconds:g} seconds, and the shell with it",
            "lost": f"the shell and everything it had started are gone: {self.reason}",
        }
        note = notes[self.end] if self.end or self.exit_code else ""
        if self.end == "exited" and self.exit_code < 0:
            note = f"the shell was ended by signal {-self.exit_code}{_signal_name(-self.exit_code)}"
        if self.end in ("exited", "killed", "lost"):
            note += f"; a new one is in {self.folder}, without its variables"
        return "\n".join(part for part in (self.output.rstrip("\n"), note and f"[{note}]") if part) or "(no output)"


def _signal_name(number: int) -> str:
    name = signal.strsignal(number) if 0 < number < signal.NSIG else None
    return f" ({name})" if name else ""


class Shell:
    """A bash in a sandbox. It keeps its folder, variables, functions and background jobs from command to command.

    It runs in a session of its own, so that the sandbox's first session never runs what the model wrote.

    Args:
        sandbox: Closed with the shell.
        folder: Where it starts, relative to the sandbox's working directory; created if it does not exist.
        path: Another path of this folder, which the shell shows.
        environment: Environment variables.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        folder: str = ".",
        path: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.sandbox = sandbox
        self.folder = folder
        self._path = path or folder
        self._environment = {**ENVIRONMENT, **(environment or {})}
        self._session: Session | None = None
        self._has_run = False

    def run(self, command: str, seconds: float) -> ShellResult:
        """Run a command, which is interrupted after some time.

        Raises:
            ToolError: The command contains NUL.
            SandboxFault: The sandbox is lost, or has no bash.
        """
        if "\0" in command:
            raise ToolError("a command cannot contain NUL")
        command = command.encode("utf-8", "replace").decode()
        try:
            session = self._session or self._start()
        except OSError as error:
            return ShellResult("", 1, "lost", self._path, str(error))
        self._has_run = True
        result = session.run(
            f"_toolrl_shell.run({command!r}, {float(seconds)!r})", timeout_seconds=seconds + _PATIENCE_SECONDS
        )
        output = _NO_TERMINAL.sub("", result.stdout)
        if result.error is not None:
            self.end()
            return ShellResult(output, 1, "lost", self._path, f"{result.error.name}: {result.error.value}")
        try:
            code, end, folder = ast.literal_eval(parse_python(result.value or "", "eval"))
            if end not in get_args(End):
                raise ValueError(end)
            return ShellResult(output, int(code), end, str(folder))
        except (ValueError, TypeError, SyntaxError, RecursionError):  # a command has tampered with the session
            self.end()
            return ShellResult(output, 1, "lost", self._path, "its process sent an invalid answer")

    def _start(self) -> Session:
        """Start bash in a new session; raise OSError if that fails because of what earlier commands have done."""
        self._session = self.sandbox.new_session()
        source = _BASH.read_text("utf-8")
        started = self._session.run(
            f"import types\n_toolrl_shell = types.ModuleType('bash')\n"
            f"exec(compile({source!r}, '<toolrl bash>', 'exec'), vars(_toolrl_shell))\n"
            f"_toolrl_shell = _toolrl_shell.Bash({self._path!r}, {self._environment!r})",
            timeout_seconds=_PATIENCE_SECONDS,
        )
        if started.error is None:
            return self._session
        self.end()
        reason = f"no shell could be started: {started.error.name}: {started.error.value}"
        if self._has_run:
            raise OSError(reason)
        raise SandboxFault(reason)

    def end(self) -> None:
        """End the shell and everything it has started, and keep the files. The next command starts another."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    @property
    def usage(self) -> Mapping[str, float]:
        """What the sandbox has used."""
        return getattr(self.sandbox, "usage", {})

    def close(self) -> None:
        """Close the sandbox, and with it the shell."""
        self.sandbox.close()


def shell_tool(
    *,
    limits: SandboxLimits = SHELL_LIMITS,
    sandbox: str | SandboxFactory = "local",
    max_output_characters: int = 4000,
    files: Callable[[Task], FileTree | Mapping[str, bytes]] | None = None,
    environment: Mapping[str, str] | None = None,
    open_shell: Callable[[Task], Shell] | None = None,
) -> Tool:
    """Make a `shell(command)` tool.

    A reward finds the open `Shell` as `episode.state["shell"]`: `shell.end()` ends what the model has started, and
    `shell.sandbox.read_file(path)` reads the files it has left.

    Args:
        limits: Time of one command, memory, processes, file sizes.
        sandbox: Name of a registered backend ("local", "e2b"), or a factory called with the limits.
        max_output_characters: How much of a command's output the model sees.
        files: Files in the folder where a task's shell starts.
        environment: Environment variables of the shell.
        open_shell: Opens a task's shell, in place of `sandbox`, `files` and `environment`.
    """

    def open_one(task: Task) -> Shell:
        opened, given = open_sandbox(sandbox, limits), files(task) if files else {}
        write_task_files(opened, given if isinstance(given, FileTree) else FileTree(given))
        return Shell(opened, environment=environment)

    # bash is interrupted in time; the sandbox's own limit is behind it.
    @tool(timeout_seconds=limits.seconds, max_output_characters=max_output_characters, keeps_time=True)
    def shell(command: str, shell: Shell = per_episode(open_shell or open_one)) -> str:
        """Run a command in bash and return its output. Folder, variables and background jobs persist between calls.

        Args:
            command: One or more lines of bash. They get no input.
        """
        result = shell.run(command, limits.seconds)
        text = result.text(limits.seconds)
        if result.end in ("interrupted", "killed", "lost"):
            raise ToolError(text, output=text, timed_out=result.end != "lost")
        return text

    return shell


def write_task_files(sandbox: Sandbox, tree: FileTree, folder: str = ".") -> None:
    """Write a task's files into a new sandbox.

    Raises:
        SandboxFault: That failed. The sandbox is closed then.
    """
    try:
        tree.write(sandbox, folder)
    except BaseException as error:
        sandbox.close()
        if isinstance(error, OSError):  # no command has run yet
            raise SandboxFault(f"the task's files could not be written: {error}") from error
        raise


__all__ = ["Shell", "ShellResult", "shell_tool", "write_task_files"]
