"""Ends sessions whose threads and children keep computing between two runs, for longer than a run could have.

Limits on CPU time apply to each process separately, and a process can raise or ignore its own. Once a second the
trainer therefore looks at the threads of each session.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Protocol

from toolrl.sandbox.local.launcher import detach_in_forks

_INTERVAL_SECONDS = 1.0
_TICKS = os.sysconf("SC_CLK_TCK")  # a second


class Watched(Protocol):
    """A session that may compute between its runs."""

    ended: bool

    def check_background(self, seconds: float) -> None:
        """Called periodically, every `seconds`."""


class BackgroundWatch:
    """Watches sessions on a thread that exists only while there are any. Thread-safe."""

    def __init__(self) -> None:
        self.detach()
        detach_in_forks(self)

    def detach(self) -> None:
        """Start over in a forked child."""
        self._lock = threading.Lock()
        self._watched: weakref.WeakSet[Watched] = weakref.WeakSet()
        self._thread: threading.Thread | None = None

    def add(self, session: Watched) -> None:
        """Watch a session until it ends."""
        with self._lock:
            self._watched.add(session)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="toolrl-idle-sandboxes", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(_INTERVAL_SECONDS)
            with self._lock:
                watched = [session for session in self._watched if not session.ended]
                self._watched = weakref.WeakSet(watched)
                if not watched:
                    self._thread = None
                    return
            for session in watched:
                session.check_background(_INTERVAL_SECONDS)
            del watched, session  # else the last ones would never be collected


watch = BackgroundWatch()


def pid_of(descriptor: int) -> int:
    """The process id behind a pidfd; 0 or less if the process is dead or not visible from here."""
    with open(f"/proc/self/fdinfo/{descriptor}") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("Pid:")), 0)


def parent_of(pid: int) -> int:
    """The id of a process's parent."""
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


class ComputeClock:
    """How long a process and its descendants computed, in seconds of one core, counted at regular looks."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._known: dict[str, int] = {}  # ticks on a core, by thread

    def look(self, pid: int, interval: float) -> None:
        """Count what was computed in the `interval` of seconds since the last look.

        A thread that was there at the last look counts for its time on a core, and not for its wait for one. A new one
        that wants a core counts for the whole interval, since threads and processes that followed each other may have
        ended without a trace.
        """
        seen: dict[str, int] = {}
        for task in _tasks(pid):
            with contextlib.suppress(OSError):  # it has ended
                with open(f"{task}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()  # from the third of proc(5) on
                seen[task] = int(fields[11]) + int(fields[12])
                if task in self._known:
                    self.seconds += (seen[task] - self._known[task]) / _TICKS
                else:
                    self.seconds += interval * (fields[0] == "R")
        self._known = seen


def _tasks(pid: int) -> Iterator[str]:
    """The folders in /proc of all threads of a process and its descendants."""
    with contextlib.suppress(OSError):  # it has ended
        for name in os.listdir(f"/proc/{pid}/task"):
            yield (task := f"/proc/{pid}/task/{name}")
            with open(f"{task}/children") as file:
                children = file.read().split()
            for child in children:
                yield from _tasks(int(child))
