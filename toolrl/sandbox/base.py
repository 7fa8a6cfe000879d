"""What every sandbox promises, whichever backend runs it.

Whatever the code does to itself (raises, runs too long, eats its memory, exits, crashes its interpreter)
is the model's mistake and comes back as an `ExecResult` with `error` set. Only a sandbox that cannot do
its job raises, and then `toolrl.errors.SandboxFault`.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Literal, Protocol, Self

# Called with the text that came since the last call, on the thread that runs the code.
OutputListener = Callable[[Literal["stdout", "stderr"], str], None]
MAX_SESSIONS = 16  # of one sandbox, its own included
_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_NAME = 255  # bytes, on every file system that sandboxes have


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
class Display:
    """Something the code showed: a figure, a table, a formula.

    Attributes:
        data: Its forms by MIME type, as Jupyter sends them: images as base64, JSON as text.
        is_result: Whether it is the value of the last expression.
    """

    data: Mapping[str, str]
    is_result: bool = False


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or folder of this machine that the code may read.

    Attributes:
        source: Where it lies on this machine.
        target: The name under which the code finds it in its working directory.
    """

    source: Path
    target: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", Path(self.source).absolute())
        if PurePosixPath(self.target).parts != (self.target,) or self.target in ("/", "..") or "\0" in self.target:
            raise ValueError(f"Mount.target must be a plain name in the working directory, got {self.target!r}")
        if not self.source.exists():
            raise ValueError(f"Mount.source {str(self.source)!r} does not exist")


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What one run left behind.

    Attributes:
        stdout: What was written to descriptor 1, by subprocesses too; cut visibly at the limit.
        stderr: The same of descriptor 2.
        value: `repr` of the last statement if it is an expression; None if it is not, or is None.
        error: None if the code ran to its end.
        seconds: Time of the run: wall-clock, less the start of a process and, where it can be told, what the machine
            was busy with others.
        limits_hit: Limits that were met, as far as can be told: "seconds", "memory", "processes",
            "file_size", "disk", "output", "displays".
        displays: What the code showed, in order: `display(...)`, figures that it left open, and the last
            expression's value if that has more forms than text.
    """

    stdout: str
    stderr: str
    value: str | None
    error: ExecError | None
    seconds: float
    limits_hit: tuple[str, ...] = ()
    displays: tuple[Display, ...] = ()

    @property
    def figures(self) -> tuple[bytes, ...]:
        """The PNG images among `displays`; what the code calls one and is none is left out."""
        decoded = (_decoded(show.data["image/png"]) for show in self.displays if "image/png" in show.data)
        return tuple(image for image in decoded if image.startswith(_PNG))


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except ValueError:
        return b""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one sandbox may use.

    Attributes:
        seconds: Time of one run, unless `run` is given another; as `ExecResult.seconds` counts it.
        memory_mb: Address space of each process.
        processes: Processes and threads at one time, the interpreter itself included; of each session where
            that has a user namespace of its own, else of all together.
        file_size_mb: Size of one file; stdout and stderr of one run count as one file each.
        disk_mb: Size of all files together, where the sandbox has a file system of its own: it is then held
            in memory, and counts while it is used.
        files: Number of files and folders, under the same condition.
        output_characters: Characters of stdout, of stderr, and of the value that are kept.
        display_mb: Size of all displays of one run; what does not fit is left out.
    """

    seconds: float = 5.0
    memory_mb: int = 512
    processes: int = 16
    file_size_mb: int = 16
    disk_mb: int = 64
    files: int = 4096
    output_characters: int = 20_000
    display_mb: int = 4

    def __post_init__(self) -> None:
        check_seconds("SandboxLimits.seconds", self.seconds)
        for name in ("memory_mb", "processes", "file_size_mb", "disk_mb", "files", "output_characters", "display_mb"):
            value, least = getattr(self, name), 64 if name == "memory_mb" else 1
            if not isinstance(value, int) or value < least:
                raise ValueError(f"SandboxLimits.{name} must be a whole number of at least {least}, got {value!r}")


def check_seconds(name: str, seconds: float) -> None:
    """Raise ValueError unless `seconds` is a positive, finite time."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"{name} must be positive and finite, got {seconds!r}")


def check_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """A copy of environment variables; raise ValueError unless they can be some."""
    for name, value in environment.items():
        if not name or "=" in name or "\0" in f"{name}{value}":
            raise ValueError(f"environment variable {name!r}={value!r}: no name, or a character that none may have")
    return dict(environment)


def parts_of(path: str, mounts: tuple[Mount, ...] = ()) -> tuple[str, ...]:
    """The parts of a path below the working directory.

    Raises:
        ValueError: It is absolute, empty, has `..` or a name of more than 255 bytes in it, or leads into a mount.
    """
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in path:
        raise ValueError(f"{path!r} must be relative to the sandbox's directory and stay inside it")
    if max(len(os.fsencode(part)) for part in parts) > _MAX_NAME:
        raise ValueError(f"{path!r} has a name of more than {_MAX_NAME} bytes")
    if parts[0] in {mount.target for mount in mounts}:
        raise ValueError(f"{path!r} lies in the mount {parts[0]!r}, which is this machine's")
    return parts


class Session(Protocol):
    """A namespace of variables that lives from run to run.

    Used by one thread at a time, except for `interrupt` and `close`: closed while it runs, it ends that run
    as one that died.
    """

    def run(
        self,
        code: str,
        *,
        timeout_seconds: float | None = None,
        environment: Mapping[str, str] | None = None,
        on_output: OutputListener | None = None,
    ) -> ExecResult:
        """Run `code` in the session's namespace.

        Variables persist from run to run. A run that is killed or dies takes them along; its error says
        so, and the next run starts on a fresh namespace. Files stay.

        Args:
            code: Python source, as in a REPL: a final expression gives the result's `value`.
            timeout_seconds: Wall-clock limit of this run; the sandbox's own if None.
            environment: Environment variables that hold for this run.
            on_output: Told of output while the code runs, within the sandbox's limit; the result has it
                again. If it raises, the session loses its variables and the exception travels up.

        Raises:
            SandboxFault: The session could not be started, or was lost through no doing of the code's.
            ValueError: The session is closed, or an argument is not what it should be.
        """
        ...

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the code that another thread runs here; if none does, nothing happens."""
        ...

    def close(self) -> None:
        """End every process of the session. A second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Sandbox(Session, Protocol):
    """A working directory, and sessions over it; it is a session itself, its first.

    Mounts given to it are found in the working directory and can be read by the code, not changed. The
    methods for files do not reach into them. They raise OSError and ValueError for what the code has made of its
    files, which a grader can count as its answer, and `SandboxFault` where the sandbox cannot do its job.
    """

    def new_session(self) -> Session:
        """A further namespace over the same files. It may be used beside the others, and ends with the sandbox.

        Raises:
            SandboxFault: It could not be started.
            ValueError: The sandbox is closed, or has `MAX_SESSIONS` already.
        """
        ...

    def reset(self) -> None:
        """Start over as if new: variables, processes, further sessions and files of this sandbox are gone."""
        ...

    def write_file(self, path: str, content: bytes) -> None:
        """Create or replace a file; `path` is relative to the working directory, folders are made.

        Raises:
            PermissionError: The code has locked a folder on the way.
            NotADirectoryError: A file stands where `path` needs a folder.
            OSError: With errno ENOSPC: the sandbox's file system is full. Nothing of the file is kept.
            ValueError: `path` is absolute, leaves the directory through `..` or a symbolic link, or is there
                already and no regular file.
            SandboxFault: The sandbox is lost, or this machine has no room left.
        """
        ...

    def read_file(self, path: str) -> bytes:
        """The content of a regular file; `path` as in `write_file`.

        Raises:
            FileNotFoundError: There is no such file.
            PermissionError: The code has locked it, or a folder on the way.
            NotADirectoryError: A file stands where `path` needs a folder.
            ValueError: `path` leaves the directory, or is no regular file.
            SandboxFault: The sandbox is lost, or out of reach.
        """
        ...

    def list_files(self) -> list[str]:
        """Every regular file, as a sorted list of paths for `read_file`.

        Links are not followed; folders that the code has locked are left out.
        """
        ...

    def close(self) -> None:
        """End every process and remove every file of this sandbox. A second call does nothing."""
        ...
