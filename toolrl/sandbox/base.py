"""The contract of a sandbox, whichever backend runs it.

Whatever the code does to itself (raises, runs too long, exhausts its memory, exits, crashes its interpreter)
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

# Called with the text written since the last call, on the thread that called `run`.
OutputListener = Callable[[Literal["stdout", "stderr"], str], None]
MAX_SESSIONS = 16  # per sandbox, including its own
_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_NAME = 255  # bytes, on every file system that sandboxes use


@dataclass(frozen=True, slots=True)
class ExecError:
    """Why a run did not finish.

    Attributes:
        name: The exception's type. "TimeoutError" and "SandboxDied" also stand for a process that was
            killed or died; its variables are then lost, and `value` says so.
        value: The exception's message.
        traceback: For the model: only frames of its own code, in the file "<tool>".
    """

    name: str
    value: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Display:
    """Something the code showed: a figure, a table, a formula.

    Attributes:
        data: Its representations by MIME type, as Jupyter sends them: images as base64, JSON as text.
        is_result: Whether it is the value of the last expression.
    """

    data: Mapping[str, str]
    is_result: bool = False


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or folder of this machine that the code may read.

    Attributes:
        source: Its path on this machine.
        target: Its name in the code's working directory.
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
    """The result of one run.

    Attributes:
        stdout: Everything written to descriptor 1, by subprocesses too; visibly truncated at the limit.
        stderr: The same for descriptor 2.
        value: `repr` of the last statement if that is an expression whose value is not None.
        error: None if the code finished.
        seconds: Wall-clock time of the run, without the start of a process and, where the kernel reports it, the time
            the code waited for a core.
        limits_hit: Limits that were reached, as far as can be told: "seconds", "memory", "processes",
            "file_size", "disk", "output" (stdout, stderr or the value was cut), "displays".
        displays: What the code showed, in order: calls of `display(...)`, figures it left open, and the last
            expression's value if that has more than a text representation.
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
        """The PNG images among `displays`; data that is not a PNG is left out."""
        decoded = (_decoded(show.data["image/png"]) for show in self.displays if "image/png" in show.data)
        return tuple(image for image in decoded if image.startswith(_PNG))


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except ValueError:
        return b""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Resource limits of one sandbox.

    Attributes:
        seconds: Default time limit of one run; counted as `ExecResult.seconds`.
        memory_mb: Address space of each process.
        processes: Concurrent processes and threads, including the interpreter: per session where sessions have
            user namespaces of their own, otherwise in total.
        file_size_mb: Size of one file; stdout and stderr of one run count as one file each.
        disk_mb: Total size of all files, where the sandbox has a file system of its own (which is held in memory).
        files: Number of files and folders, under the same condition.
        output_characters: Characters kept of stdout, of stderr, and of the value.
        display_mb: Total size of the displays of one run; those that do not fit are left out.
        loopback: Whether the code may open sockets, in a network that has nothing but this sandbox. Otherwise it may
            not. Local sandboxes with namespaces only.
    """

    seconds: float = 5.0
    memory_mb: int = 512
    processes: int = 16
    file_size_mb: int = 16
    disk_mb: int = 64
    files: int = 4096
    output_characters: int = 20_000
    display_mb: int = 4
    loopback: bool = False

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
    """Copy environment variables; raise ValueError for a name or value that the system does not allow."""
    for name, value in environment.items():
        if not name or "=" in name or "\0" in f"{name}{value}":
            raise ValueError(f"environment variable {name!r}={value!r} has an empty name or a forbidden character")
    return dict(environment)


def parts_of(path: str, mounts: tuple[Mount, ...] = ()) -> tuple[str, ...]:
    """Split a path relative to the working directory.

    Raises:
        ValueError: The path is absolute, empty, contains `..` or a name of more than 255 bytes, or is inside a mount.
    """
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in path:
        raise ValueError(f"{path!r} must be relative to the sandbox's directory and stay inside it")
    if max(len(os.fsencode(part)) for part in parts) > _MAX_NAME:
        raise ValueError(f"{path!r} has a name of more than {_MAX_NAME} bytes")
    if parts[0] in {mount.target for mount in mounts}:
        raise ValueError(f"{path!r} is inside the mount {parts[0]!r}, which is read-only")
    return parts


class Session(Protocol):
    """A namespace of variables that persists from run to run.

    Not thread-safe, except for `interrupt` and `close`: closing a session ends its current run as "SandboxDied".
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

        Variables persist from run to run. If a run is killed or dies they are lost: its error says so, and
        the next run starts with a fresh namespace. Files are kept.

        Args:
            code: Python source, as in a notebook cell: a final expression sets the result's `value` unless a
                semicolon follows, `_` is the last value, and `await`, `!command` and a few magics work.
            timeout_seconds: Wall-clock limit of this run; the sandbox's default if None.
            environment: Environment variables for this run.
            on_output: Called with output while the code runs, up to the sandbox's limit; the result contains it
                too. If it raises, the session loses its variables and the exception propagates.

        Raises:
            SandboxFault: The session could not be started, or was lost for a reason not caused by the code.
            ValueError: The session is closed, or an argument is invalid.
        """
        ...

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the code that another thread is running here, if any."""
        ...

    def close(self) -> None:
        """Kill every process of the session. Idempotent."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Sandbox(Session, Protocol):
    """A working directory and sessions over it; the sandbox is itself the first session.

    Mounts appear in the working directory; the code can read them but not change them, and the file methods do not
    reach into them. Those methods raise OSError or ValueError for a state of the files that the code caused, which a
    grader can count as its answer, and `SandboxFault` if the sandbox cannot do its job.
    """

    def new_session(self) -> Session:
        """Open another namespace over the same files. It can be used concurrently and ends with the sandbox.

        Raises:
            SandboxFault: The session could not be started.
            ValueError: The sandbox is closed, or already has `MAX_SESSIONS` sessions.
        """
        ...

    def reset(self) -> None:
        """Start over as new: discard all variables, processes, other sessions and files."""
        ...

    def write_file(self, path: str, content: bytes) -> None:
        """Create or replace a file; `path` is relative to the working directory. Missing folders are created.

        Raises:
            PermissionError: The code has made a folder on the path inaccessible.
            NotADirectoryError: A parent in `path` is a file.
            OSError: With errno ENOSPC, the sandbox's file system is full. No partial file is kept.
            ValueError: `path` is absolute, leaves the directory through `..` or a symbolic link, or names
                something that is not a regular file.
            SandboxFault: The sandbox is lost, or this machine's disk is full.
        """
        ...

    def read_file(self, path: str) -> bytes:
        """Read a regular file; `path` as in `write_file`.

        Raises:
            FileNotFoundError: No file has this path.
            PermissionError: The code has made the file, or a folder on the path, inaccessible.
            NotADirectoryError: A parent in `path` is a file.
            ValueError: `path` leaves the directory, or is not a regular file.
            SandboxFault: The sandbox is lost or unreachable.
        """
        ...

    def list_files(self) -> list[str]:
        """List every regular file, as a sorted list of paths for `read_file`.

        Links are not followed; folders that the code has made inaccessible are skipped.
        """
        ...

    def close(self) -> None:
        """Kill every process and remove every file of this sandbox. Idempotent."""
        ...
