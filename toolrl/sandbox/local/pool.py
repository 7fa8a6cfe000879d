"""What the sandboxes of one process share: places that stand ready, and how many may be open or busy."""

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
from toolrl.sandbox.local.launcher import let_go_in_forks

_CORES = os.cpu_count() or 1
_OPEN = "TOOLRL_SANDBOXES"
_DEFAULT_OPEN = 512
_OPEN_SECONDS = 60.0  # how long a sandbox waits for another one to be closed
_COURTESY_SECONDS = 0.005  # whoever has just taken a spare goes first, where cores are few
_IDLE_SECONDS = 30.0  # how long spares are kept that nobody takes


class Slots:
    """So many at a time; whoever comes after waits. Thread-safe; a forked child begins with all of them free."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.detach()
        let_go_in_forks(self)

    def detach(self) -> None:
        """Begin anew, in a forked child."""
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()  # half the price of a semaphore
        for _ in range(self.limit):
            self._free.put(None)
        self._pid = os.getpid()

    def take(self, seconds: float) -> bool:
        """Take a slot as soon as one is free; whether that was within the time given."""
        try:
            self._free.get(seconds > 0, seconds)
        except queue.Empty:
            return False
        return True

    def give_back(self, pid: int) -> None:
        """Free a slot that was taken in process `pid`."""
        if pid == self._pid == os.getpid():
            self._free.put(None)

    def wait(self, given_up: Callable[[], bool]) -> Callable[[], None]:
        """Take a slot as soon as one is free, however long that takes, or until `given_up`; what gives it back."""
        while not given_up():
            if self.take(0.1):
                return partial(self.give_back, self._pid)
        return lambda: None


# Wall-clock limits are fair only while each run gets a fair share of a core.
runs = Slots(8 * _CORES)
_sandboxes: Slots | None = None


def open_slots() -> Slots:
    """Of open sandboxes: as many as TOOLRL_SANDBOXES says, else 512.

    Raises:
        ConfigError: The variable is not a positive number.
    """
    global _sandboxes
    text = os.environ.get(_OPEN, str(_DEFAULT_OPEN))
    if not text.isdigit() or not int(text):
        raise ConfigError(f"{_OPEN}={text!r} must be the greatest number of sandboxes open at a time, 1 or more")
    if _sandboxes is None or _sandboxes.limit != int(text):
        _sandboxes = Slots(int(text))
    return _sandboxes


def take_open_slot() -> Callable[[], None]:
    """Wait until one more sandbox may be open; what to call when it is closed.

    Raises:
        SandboxFault: None of the others was closed in a minute.
    """
    slots, pid = open_slots(), os.getpid()
    if not slots.take(_OPEN_SECONDS):
        raise SandboxFault(
            f"{slots.limit} sandboxes are open, and none was closed within {_OPEN_SECONDS:g} seconds; close some, run "
            f"fewer episodes at a time, or set {_OPEN}"
        )
    return lambda: slots.give_back(pid)


class Standby(Protocol):
    """What can stand ready."""

    def make_ready(self) -> None:
        """Wait until it can be used at once; raise SandboxFault if it cannot."""

    @property
    def usable(self) -> bool:
        """Whether nothing has happened to it."""

    def close(self) -> None:
        """End it."""


P = TypeVar("P", bound=Standby)


class Spares(Generic[P]):
    """Places of one kind that stand ready. Thread-safe.

    They are made on a thread of their own once a second place has been asked for, two for each core. Whoever asks
    never waits for them. When nobody has asked for half a minute, they are closed and the thread ends.

    Args:
        open: Makes a place.
    """

    size = 2 * _CORES

    def __init__(self, open: Callable[[], P]) -> None:
        self._open = open
        self.detach()
        let_go_in_forks(self)
        weakref.finalize(self, Spares._retire, self._ready)  # before that of the process they were forked from

    def detach(self) -> None:
        """Begin anew, in a forked child: the parent's are not ours."""
        self._ready: list[P] = []
        self._demand = threading.Condition(threading.RLock())
        self._asked = 0
        self._maker: threading.Thread | None = None

    def take(self) -> P:
        """A place that stands ready, or else a new one."""
        with self._demand:
            self._asked += 1
            ready = self._ready.pop(0) if self._ready else None
            if self._asked > 1 and self._maker is None:
                self._maker = threading.Thread(target=self._make, name="toolrl-spare-sandboxes", daemon=True)
                self._maker.start()
            self._demand.notify()
        if ready is None:
            return self._open()
        if ready.usable:
            return ready
        ready.close()
        return self.take()

    def close(self) -> None:
        """Let go of those that stand ready; the next are made when they are asked for."""
        with self._demand:
            self._asked, maker, self._maker = 0, self._maker, None
            self._demand.notify()
        if maker is not None:
            maker.join()
        self._retire(self._ready)

    def _make(self) -> None:
        """Keep places ready while they are in demand."""
        while self._wait_for_demand():
            time.sleep(_COURTESY_SECONDS)
            try:
                place = self._open()
            except (OSError, ValueError, ToolrlError):  # whoever opens the next one is told
                self._stop_making()
                break
            try:
                place.make_ready()
            except ToolrlError:
                place.close()
                self._stop_making()
                break
            self._ready.append(place)
        self._retire(self._ready)

    def _wait_for_demand(self) -> bool:
        """Return when another place is wanted; False: no more are."""
        with self._demand:
            while self._maker is threading.current_thread() and len(self._ready) >= self.size:
                if not self._demand.wait(_IDLE_SECONDS):
                    self._stop_making()
            return self._maker is threading.current_thread()

    def _stop_making(self) -> None:
        with self._demand:
            if self._maker is threading.current_thread():
                self._maker, self._asked = None, 0

    @staticmethod
    def _retire(ready: list[P]) -> None:
        while ready:
            with contextlib.suppress(IndexError):  # another thread was faster
                ready.pop().close()
