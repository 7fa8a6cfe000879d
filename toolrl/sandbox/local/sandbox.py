"""Sandboxes on this machine: forked from a warm process, walled in with what the kernel offers."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial

from toolrl.errors import SandboxFault
from toolrl.sandbox.base import MAX_SESSIONS, ExecResult, Mount, OutputListener, SandboxLimits
from toolrl.sandbox.handle import SandboxHandle, SessionHandle
from toolrl.sandbox.local.files import Files
from toolrl.sandbox.local.launcher import Zygote, let_go_in_forks, shared_zygote
from toolrl.sandbox.local.levels import Isolation, Level, accept, wanted_isolation
from toolrl.sandbox.local.mounts import PreparedMounts
from toolrl.sandbox.local.pool import Spares, take_open_slot
from toolrl.sandbox.local.session import Connection
from toolrl.support.cleanup import remove_tree


class LocalSandbox(SandboxHandle):
    """A `Sandbox` whose sessions are processes of their own, forked in milliseconds or taken from spares in one.

    Sandboxes without mounts, of limits that were asked for before, are taken from spares that stand ready. No more
    than 512 are open in a process at a time (TOOLRL_SANDBOXES sets another number), and no more than eight for each
    core run code: others wait for their turn, a run's time begins when it has it.

    What it covers depends on the kernel: see `toolrl doctor`. The random module, and NumPy's, start from the
    same seed in every session, so that equal code gives equal output. After a fork of the process that made
    it, a sandbox must be `reset` before the child uses it.

    Args:
        limits: What each session may use; `SandboxLimits()` if None.
        isolation: The least that is accepted. "full", "no-landlock" and "no-userns" demand a level;
            "best_effort" takes any of them and warns once if it is not "full"; "none" takes whatever
            there is. If None, the environment variable TOOLRL_ISOLATION, else "best_effort". All layers that
            this machine offers are always in force, in every session.
        packages: Whether the code can import the packages that this process can; NumPy, SymPy, pandas and
            matplotlib are then loaded before it starts. Without, it has the standard library.
        mounts: What the code may read of this machine: bound read-only, or copied where namespaces, or the
            permissions of the files, do not allow that.
        zygote: Gives the process to fork from, in place of one per process and value of `packages`.

    Raises:
        ConfigError: This machine does not offer the isolation asked for.
        SandboxFault: No process could be started, or too many sandboxes are open.
    """

    def __init__(
        self,
        limits: SandboxLimits | None = None,
        *,
        isolation: Isolation | None = None,
        packages: bool = False,
        mounts: Sequence[Mount] = (),
        zygote: Callable[[], Zygote] | None = None,
    ) -> None:
        self.limits = limits or SandboxLimits()
        self.mounts = tuple(mounts)
        isolation = wanted_isolation(isolation)
        new_place = partial(_Place, zygote or partial(shared_zygote, packages), self.limits, self.mounts, isolation)
        self._take_place: Callable[[], _Place] = new_place
        if zygote is None and not self.mounts:
            kind = (packages, self.limits, isolation)
            if kind not in _spares:
                _spares.setdefault(kind, Spares(new_place))
            self._take_place = _spares[kind].take
        self._open()

    def _open(self) -> None:
        leave = take_open_slot()
        try:
            with _as_fault():
                self._place = self._take_place()
        except BaseException:
            leave()
            raise
        self._finalizer = weakref.finalize(self, _close, self._place, leave)

    @property
    def level(self) -> Level:
        """How well the code is walled in."""
        return self._place.zygote.active.level

    @property
    def files(self) -> Files:
        """What lies in the working directory."""
        return self._own_place().files

    def new_session(self) -> LocalSession:
        """See `Sandbox.new_session`."""
        with _as_fault():
            return self._own_place().open_session()

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
            raise ValueError("this sandbox is closed; open another one")

    def _own_place(self) -> _Place:
        self._check_open()
        if self._place.pid != os.getpid():
            raise SandboxFault(f"this sandbox belongs to process {self._place.pid}; call reset() after a fork")
        return self._place


class LocalSession(SessionHandle):
    """One namespace of a `LocalSandbox`; see `Session`.

    Args:
        connect: Starts a worker for it.
        limits: What it may use.
    """

    def __init__(self, connect: Callable[[], Connection], limits: SandboxLimits) -> None:
        super().__init__(limits)
        self._connect = connect
        self._connection = connect()
        self._lock = threading.Lock()
        self.closed = False

    def _run(
        self, code: str, seconds: float, environment: dict[str, str], on_output: OutputListener | None
    ) -> ExecResult:
        return self._live_connection().run(code, seconds, environment, on_output)

    def start(self) -> None:
        """Wait until a worker is there."""
        self._live_connection().wait_until_ready()

    @property
    def idle(self) -> bool:
        """Whether a worker stands ready and has not said anything."""
        return self._connection.idle

    def _live_connection(self) -> Connection:
        with self._lock:
            if self.closed:
                raise ValueError("this session is closed; open another one")
            if self._connection.ended:
                with _as_fault():
                    self._connection = self._connect()
            return self._connection

    def interrupt(self) -> None:
        """See `Session.interrupt`."""
        self._connection.interrupt()

    def close(self) -> None:
        """See `Session.close`."""
        with self._lock:
            was_closed, self.closed = self.closed, True
        if not was_closed:
            self._connection.end()


class _Place:
    """A working directory and the sessions that live in it; all gone when closed."""

    def __init__(
        self, zygote: Callable[[], Zygote], limits: SandboxLimits, mounts: tuple[Mount, ...], isolation: Isolation
    ) -> None:
        self.pid = os.getpid()
        self.zygote = zygote()
        accept(self.zygote.active, isolation)
        self.sessions: list[LocalSession] = []
        self._source, self._limits = zygote, limits
        self._private = self.zygote.active.holds["namespaces"]  # then the files lie where only workers see them
        self._view: list[int] = []
        self._directory, self._uid = self.zygote.new_directory()
        self.files = Files(self._open_directory, self._uid, mounts, own_space=self._private)
        let_go_in_forks(self)
        try:
            self.prepared = PreparedMounts(mounts, self._directory, self._uid, self._private)
            self.open_session()
        except BaseException:
            self.close()
            raise

    def open_session(self) -> LocalSession:
        self.sessions[1:] = [session for session in self.sessions[1:] if not session.closed]
        if len(self.sessions) >= MAX_SESSIONS:
            raise ValueError(f"a sandbox has {MAX_SESSIONS} sessions at most; close one")
        if self.sessions:
            self._make_view()
        self.sessions.append(LocalSession(self._connect, self._limits))
        return self.sessions[-1]

    def _connect(self) -> Connection:
        if self.pid != os.getpid():
            raise SandboxFault(f"this session belongs to process {self.pid}; open another one after a fork")
        zygote, bindings = self.zygote if self.zygote.alive else self._source(), self.prepared.bindings
        if self._view and zygote is not self.zygote:  # no other's processes may enter what it has mounted
            raise SandboxFault("the process that this sandbox was forked from is gone; reset() opens another one")
        return Connection(zygote, self._directory, self._uid, self._limits, bindings, self._view)

    @property
    def usable(self) -> bool:
        """Whether nothing has happened to it or the process that it was forked from."""
        return self.zygote is self._source() and self.sessions[0].idle

    def make_ready(self) -> None:
        """Have the first session run nothing: it is seen to work, and the next run finds its memory in place.

        Raises:
            SandboxFault: It does not work.
        """
        if self.sessions[0].run("").error is not None:
            raise SandboxFault("a new sandbox could not run an empty program")

    def _make_view(self) -> None:
        """Wait until the first session has made the file system that all others use."""
        if self._private and not self._view:
            self.sessions[0].start()

    def _open_directory(self) -> int:
        self._make_view()
        return os.dup(self._view[1]) if self._private else os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        if os.getpid() == self.pid:
            for session in self.sessions:
                session.close()
            self.detach()
            remove_tree(self._directory)
            remove_tree(f"{self._directory}-mounts")

    def detach(self) -> None:
        """Let go of the files; in a forked child this leaves the parent's alone."""
        while self._view:
            os.close(self._view.pop())


_spares: dict[Hashable, Spares[_Place]] = {}


def close_spares() -> None:
    """End the processes that stand ready for the next sandboxes of this process."""
    for spares in list(_spares.values()):
        spares.close()


def _close(place: _Place, leave: Callable[[], None]) -> None:
    try:
        place.close()
    finally:
        leave()


@contextlib.contextmanager
def _as_fault() -> Iterator[None]:
    """What the operating system refuses us is no doing of the code's."""
    try:
        yield
    except OSError as error:
        raise SandboxFault(f"a sandbox could not be opened: {error}") from error
