"""Ends sessions whose threads and children go on computing between two runs, for longer than a run could have.

Limits on CPU time hold for each process by itself, and a process can raise or ignore its own. So it is looked, once a
second, how many threads of a session want a core.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from typing import Protocol

from toolrl.sandbox.local.launcher import let_go_in_forks

_INTERVAL_SECONDS = 1.0


class Watched(Protocol):
    """What may compute while it is not asked to."""

    ended: bool

    def look_after(self, seconds: float) -> None:
        """Called every so many seconds."""


class Watch:
    """Looks after sessions on a thread of its own, as long as there are some. Thread-safe."""

    def __init__(self) -> None:
        self.detach()
        let_go_in_forks(self)

    def detach(self) -> None:
        """Begin anew, in a forked child."""
        self._lock = threading.Lock()
        self._watched: weakref.WeakSet[Watched] = weakref.WeakSet()
        self._thread: threading.Thread | None = None

    def add(self, session: Watched) -> None:
        """Look after a session until it has ended."""
        with self._lock:
            self._watched.add(session)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="toolrl-idle-sandboxes", daemon=True)
                self._thread.start()

    def _look(self) -> None:
        while True:
            time.sleep(_INTERVAL_SECONDS)
            with self._lock:
                watched = [session for session in self._watched if not session.ended]
                self._watched = weakref.WeakSet(watched)
                if not watched:
                    self._thread = None
                    return
            for session in watched:
                session.look_after(_INTERVAL_SECONDS)
            del watched, session  # or the last ones would never be collected


watch = Watch()


def process_behind(descriptor: int) -> int:
    """The number of a pidfd's process; 0 or less if it is dead, or not to be seen from here."""
    with open(f"/proc/self/fdinfo/{descriptor}") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("Pid:")), 0)


def parent_of(pid: int) -> int:
    """The number of a process's parent."""
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def computing(pid: int) -> int:
    """How many threads of a process and its descendants run, or wait for a core."""
    count = 0
    with contextlib.suppress(OSError):  # it ended meanwhile
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/task/{task}/stat") as file:
                    count += file.read().rpartition(")")[2].split()[0] == "R"
                with open(f"/proc/{pid}/task/{task}/children") as file:
                    count += sum(computing(int(child)) for child in file.read().split())
    return count
