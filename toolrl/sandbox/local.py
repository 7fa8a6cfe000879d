"""Sandboxes on this machine: forked from a warm process, walled in with what the kernel offers."""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import weakref
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from types import TracebackType
from typing import Self

from toolrl.errors import SandboxFault
from toolrl.sandbox.base import ExecResult, SandboxLimits, check_seconds
from toolrl.sandbox.launcher import Zygote, let_go_in_forks, shared_zygote
from toolrl.sandbox.levels import Isolation, Level, accept, wanted_isolation
from toolrl.sandbox.plumbing import remove_tree
from toolrl.sandbox.session import Session


class LocalSandbox:
    """A `Sandbox` in a process of its own, forked in milliseconds.

    What it covers depends on the kernel: see `toolrl doctor`. The random module starts from the same seed
    in every session, so that equal code gives equal output. After a fork of the process that made it, a
    sandbox must be `reset` before the child uses it.

    Args:
        limits: What it may use; `SandboxLimits()` if None.
        isolation: The least that is accepted. "full", "no-landlock" and "no-userns" demand a level;
            "best_effort" takes any of them and warns once if it is not "full"; "none" takes whatever
            there is. If None, the environment variable TOOLRL_ISOLATION, else "best_effort". All layers that
            this machine offers are always in force.
        zygote: Gives the process to fork from; by default one per process, shared by all sandboxes.

    Raises:
        ConfigError: This machine does not offer the isolation asked for.
        SandboxFault: No process could be started.
    """

    def __init__(
        self,
        limits: SandboxLimits | None = None,
        *,
        isolation: Isolation | None = None,
        zygote: Callable[[], Zygote] = shared_zygote,
    ) -> None:
        self.limits = limits or SandboxLimits()
        self._isolation = wanted_isolation(isolation)
        self._zygote = zygote
        self._open()

    def _open(self) -> None:
        with _as_fault():
            self._place = _Place(self._zygote, self.limits, self._isolation)
        self._finalizer = weakref.finalize(self, self._place.close)

    @property
    def level(self) -> Level:
        """How well the code is walled in."""
        return self._place.zygote.active.level

    def run(self, code: str, *, timeout_seconds: float | None = None) -> ExecResult:
        """See `Sandbox.run`."""
        seconds = self.limits.seconds if timeout_seconds is None else timeout_seconds
        check_seconds("timeout_seconds", seconds)
        with _as_fault():
            session = self._own_place().live_session()
        return session.run(code, seconds)

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
                file.write(content)

    def read_file(self, path: str) -> bytes:
        """See `Sandbox.read_file`."""
        with self._own_place().folder_of(path) as (folder, name):
            if not stat.S_ISREG(os.lstat(name, dir_fd=folder).st_mode):
                raise ValueError(f"{path!r} is not a regular file of the sandbox")
            with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder), "rb") as file:
                return file.read()

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


class _Place:
    """A working directory and the session that lives in it; both gone when closed."""

    def __init__(self, zygote: Callable[[], Zygote], limits: SandboxLimits, isolation: Isolation) -> None:
        self.pid = os.getpid()
        self.zygote = zygote()
        accept(self.zygote.active, isolation)
        self._source, self._limits = zygote, limits
        self._directory, self._uid = self.zygote.new_directory()
        self._files: list[int] = []
        let_go_in_forks(self)
        try:
            self._session = self._new_session()
        except BaseException:
            remove_tree(self._directory)
            raise

    def _new_session(self) -> Session:
        return Session(self._source(), self._directory, self._uid, self._limits, self._files)

    def live_session(self) -> Session:
        """The session, or a new one if that has ended."""
        if self._session.ended:
            self._session = self._new_session()
        return self._session

    def close(self) -> None:
        if os.getpid() == self.pid:
            self._session.end()
            self.detach()
            remove_tree(self._directory)

    def detach(self) -> None:
        """Let go of the files; in a forked child this leaves the parent's alone."""
        while self._files:
            os.close(self._files.pop())

    def _open_directory(self) -> int:
        if not self.zygote.active.holds["namespaces"]:
            return os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        if not self._files:
            self.live_session().wait_until_ready()
        return os.dup(self._files[1])

    @contextlib.contextmanager
    def folder_of(self, path: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """A descriptor of the folder that holds `path`, reached without following a link, and the last name."""
        parts = PurePosixPath(path).parts
        if not parts or parts[0] == "/" or ".." in parts or "\0" in path:
            raise ValueError(f"{path!r} must be relative to the sandbox's directory and stay inside it")
        with contextlib.ExitStack() as descriptors:
            folder = self._open_directory()
            descriptors.callback(os.close, folder)
            descriptors.enter_context(_files_belong_to(self._uid))
            for part in parts[:-1]:
                try:
                    _refuse_link(part, folder, path)
                except FileNotFoundError:
                    if not create:
                        raise
                    os.mkdir(part, 0o755, dir_fd=folder)
                folder = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                descriptors.callback(os.close, folder)
            yield folder, parts[-1]


@contextlib.contextmanager
def _files_belong_to(uid: int | None) -> Iterator[None]:
    """Use files as another user, in this thread alone: a user namespace's file system has no place for root's."""
    if uid is None:
        yield
        return
    libc = ctypes.CDLL(None)
    libc.setfsgid(uid)
    libc.setfsuid(uid)
    try:
        yield
    finally:
        libc.setfsuid(os.geteuid())
        libc.setfsgid(os.getegid())


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
