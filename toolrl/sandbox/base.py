"""What every sandbox promises, whichever backend runs it.

Whatever the code does to itself (raises, runs too long, eats its memory, exits, crashes its interpreter)
is the model's mistake and comes back as an `ExecResult` with `error` set. Only a sandbox that cannot do
its job raises, and then `toolrl.errors.SandboxFault`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True, slots=True)
class ExecError:
    """Why a run did not finish.

    Attributes:
        name: The exception's type. "TimeoutError" and "SandboxDied" also stand for a process that was
            killed or died: its variables are gone, and `value` says so.
        value: The exception's message.
        traceback: Text for the model: only frames of its own code, as file "<tool>".
    """

    name: str
    value: str
    traceback: str


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What one run left behind.

    Attributes:
        stdout: What was written to descriptor 1, by subprocesses too; cut visibly at the limit.
        stderr: The same of descriptor 2.
        value: `repr` of the last statement if it is an expression; None if it is not, or is None.
        error: None if the code ran to its end.
        seconds: Wall-clock time of the run, the start of a process not included.
        limits_hit: Limits that were met, as far as can be told: "seconds", "memory", "processes",
            "file_size", "disk", "output".
    """

    stdout: str
    stderr: str
    value: str | None
    error: ExecError | None
    seconds: float
    limits_hit: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one sandbox may use.

    Attributes:
        seconds: Wall-clock time of one run, unless `run` is given another.
        memory_mb: Address space of each process.
        processes: Processes and threads at one time, the interpreter itself included.
        file_size_mb: Size of one file; stdout and stderr of one run count as one file each.
        disk_mb: Size of all files together, where the sandbox has a file system of its own: it is then held
            in memory, and counts while it is used.
        files: Number of files and folders, under the same condition.
        output_characters: Characters of stdout, of stderr, and of the value that are kept.
    """

    seconds: float = 5.0
    memory_mb: int = 512
    processes: int = 16
    file_size_mb: int = 16
    disk_mb: int = 64
    files: int = 4096
    output_characters: int = 20_000

    def __post_init__(self) -> None:
        check_seconds("SandboxLimits.seconds", self.seconds)
        leasts = {"memory_mb": 64, "processes": 1, "file_size_mb": 1, "disk_mb": 1, "files": 1, "output_characters": 1}
        for name, least in leasts.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"SandboxLimits.{name} must be a whole number of at least {least}, got {value!r}")


def check_seconds(name: str, seconds: float) -> None:
    """Raise ValueError unless `seconds` is a positive, finite time."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"{name} must be positive and finite, got {seconds!r}")


class Sandbox(Protocol):
    """A stateful Python session in a place of its own, used by one thread at a time."""

    def run(self, code: str, *, timeout_seconds: float | None = None) -> ExecResult:
        """Run `code` in the session's namespace.

        Variables persist from run to run. A run that is killed or dies takes them along; its error says
        so, and the next run starts on a fresh namespace. Files stay.

        Args:
            code: Python source, as in a REPL: a final expression gives the result's `value`.
            timeout_seconds: Wall-clock limit of this run; the sandbox's own if None.

        Raises:
            SandboxFault: The sandbox could not be started, or was lost through no doing of the code's.
            ValueError: The sandbox is closed, or the timeout is not positive.
        """
        ...

    def reset(self) -> None:
        """Start over as if new: variables, processes and files of this sandbox are gone."""
        ...

    def write_file(self, path: str, content: bytes) -> None:
        """Create or replace a file; `path` is relative to the working directory, folders are made.

        Raises:
            ValueError: `path` is absolute, or leaves the directory through `..` or a symbolic link.
        """
        ...

    def read_file(self, path: str) -> bytes:
        """The content of a regular file; `path` as in `write_file`.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: `path` leaves the directory, or is no regular file.
        """
        ...

    def close(self) -> None:
        """End every process and remove every file of this sandbox. A second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
