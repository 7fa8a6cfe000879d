"""Shared by all sandboxes of a process: spare workspaces, and limits on how many may be open or busy."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Generic, Protocol, TypeVar

from toolrl.errors import ConfigError, SandboxFault, ToolrlError
from toolrl.sandbox.local.launcher import detach_in_forks

_CORES = os.cpu_count() or 1
_OPEN = "TOOLRL_SANDBOXES"
_DEFAULT_OPEN = 512
_OPEN_SECONDS = 60.0  # how long opening waits for another sandbox to be closed
_COURTESY_SECONDS = 0.005  # lets whoever has just taken a spare go first where cores are few
_IDLE_SECONDS = 30.0  # after which unused spares are closed


class Slots:
    """A counting semaphore. Thread-safe; in a forked child all slots are free."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.detach()
        detach_in_forks(self)

    def detach(self) -> None:
        """Start over in a forked child."""
        self.free: queue.SimpleQueue[None] = queue.SimpleQueue()  # costs half as much as a semaphore
        for _ in range(self.limit):
            self.free.put(None)
        self._pid = os.getpid()

    def take(self, seconds: float) -> bool:
        """Take a slot; False if none became free in time."""
        try:
            self.free.get(seconds > 0, seconds)
        except queue.Empty:
            return False
        return True

    def give_back(self, pid: int) -> None:
        """Free a slot that was taken in process `pid`."""
        if pid == self._pid == os.getpid():
            self.free.put(None)

    def wait(self, given_up: Callable[[], bool]) -> Callable[[], None]:
        """Wait for a slot until `given_up`; return the function that gives it back."""
        while not given_up():
            if self.take(0.1):
                return partial(self.give_back, self._pid)
        return lambda: None


# Wall-clock limits are fair only if each run gets a fair share of a core.
runs = Slots(8 * _CORES)
_sandboxes: Slots | None = None


def open_slots() -> Slots:
    """The slots for open sandboxes: TOOLRL_SANDBOXES of them, 512 by default.

    Raises:
        ConfigError: The variable is not a positive integer.
    """
    global _sandboxes
    text = os.environ.get(_OPEN, str(_DEFAULT_OPEN))
    if not text.isdigit() or not int(text):
        raise ConfigError(f"{_OPEN}={text!r} must be a positive integer: the maximum number of open sandboxes")
    if _sandboxes is None or _sandboxes.limit != int(text):
        _sandboxes = Slots(int(text))
    return _sandboxes


def take_open_slot() -> Callable[[], None]:
    """Wait until another sandbox may be opened; return the function to call when it is closed.

    Raises:
        SandboxFault: No other sandbox was closed within a minute.
    """
    slots, pid = open_slots(), os.getpid()
    if not slots.take(_OPEN_SECONDS):
        raise SandboxFault(
            f"{slots.limit} sandboxes are open, and none was closed within {_OPEN_SECONDS:g} seconds; close some, run "
            f"fewer episodes concurrently, or raise {_OPEN}"
        )
    return lambda: slots.give_back(pid)


class Standby(Protocol):
    """Something that can be prepared in advance."""

    def make_ready(self) -> None:
        """Wait until it is ready for use; raise SandboxFault if it fails."""

    @property
    def usable(self) -> bool:
        """Whether it is still pristine."""

    def close(self) -> None:
        """Release it."""


P = TypeVar("P", bound=Standby)


class Spares(Generic[P]):
    """A pool of spares of one kind. Thread-safe.

    From the second request on, a thread of its own keeps two spares per core. `take` never waits for it. After
    half a minute without requests the spares are closed and the thread ends.

    Args:
        open: Creates a new spare.

    Attributes:
        ready: The spares at hand, oldest first.
    """

    size = 2 * _CORES

    def __init__(self, open: Callable[[], P]) -> None:
        self._open = open
        self.detach()
        detach_in_forks(self)
        weakref.finalize(self, Spares._retire, self.ready)  # before the zygote's finalizer

    def detach(self) -> None:
        """Start over in a forked child: the spares belong to the parent."""
        self.ready: list[P] = []
        self._demand = threading.Condition(threading.RLock())
        self._requests = 0
        self.maker: threading.Thread | None = None

    def take(self) -> P:
        """Take a spare, or open a new one."""
        with self._demand:
            self._requests += 1
            ready = self.ready.pop(0) if self.ready else None
            if self._requests > 1 and self.maker is None:
                self.maker = threading.Thread(target=self._make, name="toolrl-spare-sandboxes", daemon=True)
                self.maker.start()
            self._demand.notify()
        if ready is None:
            return self._open()
        if ready.usable:
            return ready
        ready.close()
        return self.take()

    def close(self) -> None:
        """Close all spares; new ones are made on demand."""
        with self._demand:
            self._requests, maker, self.maker = 0, self.maker, None
            self._demand.notify()
        if maker is not None:
            maker.join()
        self._retire(self.ready)

    def _make(self) -> None:
        """Make spares while they are in demand."""
        while self._wait_for_demand():
            time.sleep(_COURTESY_SECONDS)
            try:
                spare = self._open()
            except (OSError, ValueError, ToolrlError):  # the next caller of `take` gets the error
                self._stop_making()
                break
            try:
                spare.make_ready()
            except ToolrlError:
                spare.close()
                self._stop_making()
                break
            self.ready.append(spare)
        self._retire(self.ready)

    def _wait_for_demand(self) -> bool:
        """Wait until another spare is wanted; False if none will be."""
        with self._demand:
            while self.maker is threading.current_thread() and len(self.ready) >= self.size:
                if not self._demand.wait(_IDLE_SECONDS):
                    self._stop_making()
            return self.maker is threading.current_thread()

    def _stop_making(self) -> None:
        with self._demand:
            if self.maker is threading.current_thread():
                self.maker, self._requests = None, 0

    @staticmethod
    def _retire(ready: list[P]) -> None:
        while ready:
            with contextlib.suppress(IndexError):  # another thread took it
                ready.pop().close()
