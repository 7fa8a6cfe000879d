"""Sandboxes on this machine: forked from a warm process, walled in with what the kernel offers."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from toolrl.errors import SandboxFault
from toolrl.sandbox.base import (
    MAX_SESSIONS,
    ExecResult,
    Mount,
    OutputListener,
    SandboxLimits,
    check_environment,
    check_seconds,
    parts_of,
)
from toolrl.sandbox.launcher import Zygote, shared_zygote
from toolrl.sandbox.mounts import PreparedMounts
from toolrl.sandbox.plumbing import remove_tree
from toolrl.sandbox.session import Connection


class LocalSandbox:
    """A `Sandbox` whose sessions are processes of their own, forked in milliseconds.

    What it covers depends on the kernel (see `toolrl.sandbox.isolation`). The random module, and NumPy's,
    start from the same seed in every session, so that equal code gives equal output. After a fork of the
    process that made it, a sandbox must be `reset` before the child uses it.

    Args:
        limits: What each session may use; `SandboxLimits()` if None.
        packages: Whether the code can import the packages that this process can; NumPy, SymPy, pandas and
            matplotlib are then loaded before it starts. Without, it has the standard library.
        mounts: What the code may read of this machine: bound read-only, or copied where namespaces, or the
            permissions of the files, do not allow that.
        zygote: Gives the process to fork from, in place of one per process and value of `packages`.

    Raises:
        SandboxFault: No process could be started.
    """

    def __init__(
        self,
        limits: SandboxLimits | None = None,
        *,
        packages: bool = False,
        mounts: Sequence[Mount] = (),
        zygote: Callable[[], Zygote] | None = None,
    ) -> None:
        self.limits = limits or SandboxLimits()
        self.mounts = tuple(mounts)
        self._zygote = zygote or partial(shared_zygote, packages)
        self._open()

    def _open(self) -> None:
        with _as_fault():
            self._place = _Place(self._zygote, self.limits, self.mounts)
        self._finalizer = weakref.finalize(self, self._place.close)

    @property
    def network_isolated(self) -> bool:
        """Whether the code is cut off from every network; False where the kernel does not permit it."""
        return self._place.zygote.network_isolated

    def run(
        self,
        code: str,
        *,
        timeout_seconds: float | None = None,
        environment: Mapping[str, str] | None = None,
        on_output: OutputListener | None = None,
    ) -> ExecResult:
        """See `Session.run`."""
        return (
            self._own_place()
            .sessions[0]
            .run(code, timeout_seconds=timeout_seconds, environment=environment, on_output=on_output)
        )

    def interrupt(self) -> None:
        """See `Session.interrupt`."""
        self._own_place().sessions[0].interrupt()

    def new_session(self) -> LocalSession:
        """See `Sandbox.new_session`."""
        with _as_fault():
            return self._own_place().open_session()

    def reset(self) -> None:
        """See `Sandbox.reset`."""
        self._check_open()
        self._finalizer()
        self._open()

    def write_file(self, path: str, content: bytes) -> None:
        """See `Sandbox.write_file`."""
        place = self._own_place()
        with place.folder_of(path, create=True) as (folder, name):
            with contextlib.suppress(FileNotFoundError):
                _refuse_link(name, folder, path)
                os.unlink(name, dir_fd=folder)
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder)
            with open(descriptor, "wb") as file:
                place.give(descriptor)
                file.write(content)

    def read_file(self, path: str) -> bytes:
        """See `Sandbox.read_file`."""
        with self._own_place().folder_of(path) as (folder, name):
            if not stat.S_ISREG(os.lstat(name, dir_fd=folder).st_mode):
                raise ValueError(f"{path!r} is not a regular file of the sandbox")
            with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder), "rb") as file:
                return file.read()

    def list_files(self) -> list[str]:
        """See `Sandbox.list_files`."""
        return self._own_place().files()

    def close(self) -> None:
        """See `Sandbox.close`."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if not self._finalizer.alive:
            raise ValueError("this sandbox is closed; open another one")

    def _own_place(self) -> _Place:
        self._check_open()
        if self._place.pid != os.getpid():
            raise SandboxFault(f"this sandbox belongs to process {self._place.pid}; call reset() after a fork")
        return self._place


class LocalSession:
    """One namespace of a `LocalSandbox`; see `Session`.

    Args:
        connect: Starts a worker for it.
        limits: What it may use.
    """

    def __init__(self, connect: Callable[[], Connection], limits: SandboxLimits) -> None:
        self._connect, self._limits = connect, limits
        self._connection = connect()
        self._lock = threading.Lock()
        self.closed = False

    def run(
        self,
        code: str,
        *,
        timeout_seconds: float | None = None,
        environment: Mapping[str, str] | None = None,
        on_output: OutputListener | None = None,
    ) -> ExecResult:
        """See `Session.run`."""
        seconds = self._limits.seconds if timeout_seconds is None else timeout_seconds
        check_seconds("timeout_seconds", seconds)
        variables = check_environment(environment or {})
        with self._lock, _as_fault():
            if self.closed:
                raise ValueError("this session is closed; open another one")
            if self._connection.ended:
                self._connection = self._connect()
        return self._connection.run(code, seconds, variables, on_output)

    def interrupt(self) -> None:
        """See `Session.interrupt`."""
        self._connection.interrupt()

    def close(self) -> None:
        """See `Session.close`."""
        with self._lock:
            was_closed, self.closed = self.closed, True
        if not was_closed:
            self._connection.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Place:
    """A working directory and the sessions that live in it; all gone when closed."""

    def __init__(self, zygote: Callable[[], Zygote], limits: SandboxLimits, mounts: tuple[Mount, ...]) -> None:
        self.pid = os.getpid()
        self.zygote = zygote()
        self.sessions: list[LocalSession] = []
        self._source, self._limits, self._mounts = zygote, limits, mounts
        self._directory, self._uid = self.zygote.new_directory()
        try:
            self._prepared = PreparedMounts(mounts, self._directory, self._uid, self.zygote.namespaces, self.give)
            self.open_session()
        except BaseException:
            self.close()
            raise

    def open_session(self) -> LocalSession:
        self.sessions[1:] = [session for session in self.sessions[1:] if not session.closed]
        if len(self.sessions) >= MAX_SESSIONS:
            raise ValueError(f"a sandbox has {MAX_SESSIONS} sessions at most; close one")
        self.sessions.append(LocalSession(self._connect, self._limits))
        return self.sessions[-1]

    def _connect(self) -> Connection:
        return Connection(self._source(), self._directory, self._uid, self._limits, self._prepared.bindings)

    def close(self) -> None:
        if os.getpid() == self.pid:
            for session in self.sessions:
                session.close()
            remove_tree(self._directory)
            remove_tree(f"{self._directory}-mounts")

    def files(self) -> list[str]:
        """Regular files below the working directory, mounts left out."""
        found = []
        for folder, folders, files, descriptor in os.fwalk(self._directory):
            inside = os.path.relpath(folder, self._directory)
            if inside == ".":
                folders[:] = [name for name in folders if name not in {mount.target for mount in self._mounts}]
                files = [name for name in files if name not in {mount.target for mount in self._mounts}]
            found += [
                os.path.normpath(f"{inside}/{name}")
                for name in files
                if stat.S_ISREG(os.lstat(name, dir_fd=descriptor).st_mode)
            ]
        return sorted(found)

    def give(self, descriptor: int) -> None:
        """Let the code own what we made in its directory."""
        if self._uid is not None:
            os.fchown(descriptor, self._uid, self._uid)

    @contextlib.contextmanager
    def folder_of(self, path: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """A descriptor of the folder that holds `path`, reached without following a link, and the last name."""
        parts = parts_of(path, self._mounts)
        with contextlib.ExitStack() as descriptors:
            folder = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            descriptors.callback(os.close, folder)
            for part in parts[:-1]:
                new = False
                try:
                    _refuse_link(part, folder, path)
                except FileNotFoundError:
                    if not create:
                        raise
                    os.mkdir(part, 0o755, dir_fd=folder)
                    new = True
                folder = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                descriptors.callback(os.close, folder)
                if new:
                    self.give(folder)
            yield folder, parts[-1]


def _refuse_link(name: str, folder: int, path: str) -> None:
    if stat.S_ISLNK(os.lstat(name, dir_fd=folder).st_mode):
        raise ValueError(f"{path!r} goes through the symbolic link {name!r}")


@contextlib.contextmanager
def _as_fault() -> Iterator[None]:
    """What the operating system refuses us is no doing of the code's."""
    try:
        yield
    except OSError as error:
        raise SandboxFault(f"a sandbox could not be opened: {error}") from error
