"""Sandboxes on this machine: forked from a warm process, isolated by what the kernel offers."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence, Set
from functools import partial

from toolrl.errors import ConfigError, SandboxFault
from toolrl.sandbox.backend import BaseSandbox, BaseSession
from toolrl.sandbox.base import MAX_SESSIONS, ExecResult, Mount, OutputListener, SandboxLimits
from toolrl.sandbox.local.files import Files, PreparedMounts
from toolrl.sandbox.local.launcher import Zygote, detach_in_forks, shared_zygote
from toolrl.sandbox.local.levels import LAYERS, ActiveLayers, Isolation, Level, accept, wanted_isolation
from toolrl.sandbox.local.pool import Spares, take_open_slot
from toolrl.sandbox.local.session import Connection
from toolrl.support.cleanup import remove_tree


class LocalSandbox(BaseSandbox):
    """A `Sandbox` whose sessions are processes of their own: forked in a few milliseconds, or taken from spares in one.

    Spares are kept for sandboxes without mounts, per set of limits that was requested before. At most 512 sandboxes
    are open per process (set by TOOLRL_SANDBOXES), and at most eight per core run code; further runs wait, and
    their time starts when they do.

    What the isolation covers depends on the kernel: see `toolrl doctor`. The random modules of Python and NumPy start
    from the same seed in every session, so that equal code gives equal output. After a fork, the child must `reset` a
    sandbox before using it.

    Args:
        limits: Limits of each session; `SandboxLimits()` if None.
        isolation: The minimum to accept. "full", "no-landlock" and "no-userns" require a level; "best_effort"
            accepts any of them and warns once below "full"; "none" accepts anything. If None, the environment
            variable TOOLRL_ISOLATION, else "best_effort". Every layer that this machine offers is always in
            force, in every session.
        packages: Whether the code can import the packages of this process; NumPy, SymPy, pandas and matplotlib
            are then preloaded. Otherwise it has the standard library only.
        mounts: Files of this machine that the code may read: bound read-only, or copied where namespaces or file
            permissions do not allow that.
        in_root: Names of folders in the working directory that the code also finds in the root: "app" is `/app` too.
            The names of mounts may be among them. Needs namespaces.
        zygote: Returns the process to fork from; by default one per process and value of `packages`.

    Raises:
        ConfigError: This machine does not offer the requested isolation, or its root has an entry of such a name.
        SandboxFault: No process could be started, or too many sandboxes are open.
    """

    def __init__(
        self,
        limits: SandboxLimits | None = None,
        *,
        isolation: Isolation | None = None,
        packages: bool = False,
        mounts: Sequence[Mount] = (),
        in_root: Sequence[str] = (),
        zygote: Callable[[], Zygote] | None = None,
    ) -> None:
        self.limits = limits or SandboxLimits()
        self.mounts = tuple(mounts)
        isolation = wanted_isolation(isolation)
        new_workspace = partial(
            _Workspace, zygote or partial(shared_zygote, packages), self.limits, self.mounts, isolation, tuple(in_root)
        )
        self._take_workspace: Callable[[], _Workspace] = new_workspace
        if zygote is None and not self.mounts and not in_root:
            kind = (packages, self.limits, isolation)
            if kind not in spares_by_kind:
                spares_by_kind.setdefault(kind, Spares(new_workspace))
            self._take_workspace = spares_by_kind[kind].take
        self._open()

    def _open(self) -> None:
        leave = take_open_slot()
        try:
            with _as_fault():
                self.workspace = self._take_workspace()
        except BaseException:
            leave()
            raise
        self._finalizer = weakref.finalize(self, _close, self.workspace, leave)

    @property
    def level(self) -> Level:
        """The level of isolation in force."""
        return self.workspace.zygote.active.level

    @property
    def held_modules(self) -> Set[str]:
        """Names of the modules that code can import because they were preloaded; see `launcher.preload`."""
        return self.workspace.zygote.preloaded.keys()

    @property
    def files(self) -> Files:
        """The files in the working directory."""
        return self._usable_workspace().files

    def new_session(self) -> LocalSession:
        """See `Sandbox.new_session`."""
        with _as_fault():
            return self._usable_workspace().open_session()

    def reset(self) -> None:
        """See `Sandbox.reset`."""
        self._check_open()
        self._finalizer()
        self._open()

    def close(self) -> None:
        """See `Sandbox.close`."""
        self._finalizer()

    def _check_open(self) -> None:
        if not self._finalizer.alive:
            raise ValueError("this sandbox is closed; open a new one")

    def _usable_workspace(self) -> _Workspace:
        self._check_open()
        if self.workspace.pid != os.getpid():
            raise SandboxFault(f"this sandbox belongs to process {self.workspace.pid}; call reset() after a fork")
        return self.workspace


class LocalSession(BaseSession):
    """A `Session` of a `LocalSandbox`.

    Args:
        connect: Starts a worker for the session.
        limits: Limits of the session.
    """

    def __init__(self, connect: Callable[[], Connection], limits: SandboxLimits) -> None:
        super().__init__(limits)
        self._connect = connect
        self.connection = connect()
        self._lock = threading.Lock()
        self.closed = False

    def _run(
        self, code: str, seconds: float, environment: dict[str, str], on_output: OutputListener | None
    ) -> ExecResult:
        return self._live_connection().run(code, seconds, environment, on_output)

    def start(self) -> None:
        """Wait until the worker is ready."""
        self._live_connection().wait_until_ready()

    @property
    def idle(self) -> bool:
        """Whether the worker is ready and has sent nothing."""
        return self.connection.idle

    def _live_connection(self) -> Connection:
        with self._lock:
            if self.closed:
                raise ValueError("this session is closed; open a new one")
            if self.connection.ended:
                with _as_fault():
                    self.connection = self._connect()
            return self.connection

    def interrupt(self) -> None:
        """See `Session.interrupt`."""
        self.connection.interrupt()

    def close(self) -> None:
        """See `Session.close`."""
        with self._lock:
            was_closed, self.closed = self.closed, True
        if not was_closed:
            self.connection.end()


class _Workspace:
    """A working directory and the sessions over it; closing removes both."""

    def __init__(
        self,
        zygote: Callable[[], Zygote],
        limits: SandboxLimits,
        mounts: tuple[Mount, ...],
        isolation: Isolation,
        in_root: tuple[str, ...] = (),
    ) -> None:
        self.pid = os.getpid()
        self.zygote = zygote()
        accept(self.zygote.active, isolation)
        _check_in_root(in_root, self.zygote.active)
        if limits.loopback and not self.zygote.active.holds["namespaces"]:
            raise ConfigError(
                f"sandboxes on this machine have isolation level {self.zygote.active.level!r}, at which none can have "
                f"a network of its own, as loopback=True asks for. To get namespaces: {LAYERS['namespaces'].remedy}"
            )
        self.sessions: list[LocalSession] = []
        self._source, self._limits = zygote, limits
        self._private = self.zygote.active.holds["namespaces"]  # then only workers see the files
        self._view: list[int] = []
        self.directory, self.uid = self.zygote.new_directory()
        self.files = Files(self.open_directory, self.uid, mounts, own_space=self._private)
        detach_in_forks(self)
        try:
            self.prepared = PreparedMounts(mounts, self.directory, self.uid, self._private)
            self.prepared.bindings += [("/", f"/{name}") for name in in_root]
            self.open_session()
        except BaseException:
            self.close()
            raise

    def open_session(self) -> LocalSession:
        self.sessions[1:] = [session for session in self.sessions[1:] if not session.closed]
        if len(self.sessions) >= MAX_SESSIONS:
            raise ValueError(f"a sandbox has at most {MAX_SESSIONS} sessions; close one first")
        if self.sessions:
            self._ensure_view()
        self.sessions.append(LocalSession(self._connect, self._limits))
        return self.sessions[-1]

    def _connect(self) -> Connection:
        if self.pid != os.getpid():
            raise SandboxFault(f"this session belongs to process {self.pid}; open a new one after a fork")
        zygote, bindings = self.zygote if self.zygote.alive else self._source(), self.prepared.bindings
        if self._view and zygote is not self.zygote:  # no other zygote may enter its mount namespace
            raise SandboxFault("the process that this sandbox was forked from is gone; reset() opens a new sandbox")
        return Connection(zygote, self.directory, self.uid, self._limits, bindings, self._view)

    @property
    def usable(self) -> bool:
        """Whether it is still pristine and was forked from the current zygote."""
        return self.zygote is self._source() and self.sessions[0].idle

    def make_ready(self) -> None:
        """Run an empty program in the first session, to prove that it works and to fault its memory in.

        Raises:
            SandboxFault: The program failed.
        """
        if self.sessions[0].run("").error is not None:
            raise SandboxFault("a new sandbox could not run an empty program")

    def _ensure_view(self) -> None:
        """Wait until the first session has created the file system that all sessions share."""
        if self._private and not self._view:
            self.sessions[0].start()

    def open_directory(self) -> int:
        self._ensure_view()
        return os.dup(self._view[1]) if self._private else os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        if os.getpid() == self.pid:
            for session in self.sessions:
                session.close()
            self.detach()
            remove_tree(self.directory)
            remove_tree(f"{self.directory}-mounts")

    def detach(self) -> None:
        """Close the descriptors of the files; in a forked child this leaves the parent's files alone."""
        while self._view:
            os.close(self._view.pop())


def _check_in_root(names: tuple[str, ...], active: ActiveLayers) -> None:
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\0" in name or os.path.lexists(f"/{name}"):
            raise ConfigError(
                f"in_root={names!r}: {name!r} must be a plain name that this machine's root does not have"
            )
    if names and not active.holds["namespaces"]:
        raise ConfigError(
            f"sandboxes on this machine have isolation level {active.level!r}, at which none can have its own folders "
            f"in the root, as in_root={names!r} asks for. To get namespaces: {LAYERS['namespaces'].remedy}"
        )


spares_by_kind: dict[Hashable, Spares[_Workspace]] = {}


def close_spares() -> None:
    """End all spare workspaces of this process."""
    for spares in list(spares_by_kind.values()):
        spares.close()


def _close(workspace: _Workspace, leave: Callable[[], None]) -> None:
    try:
        workspace.close()
    finally:
        leave()


@contextlib.contextmanager
def _as_fault() -> Iterator[None]:
    """Turn an error of the operating system, which the code did not cause, into a fault."""
    try:
        yield
    except OSError as error:
        raise SandboxFault(f"a sandbox could not be opened: {error}") from error
