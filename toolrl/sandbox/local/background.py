"""Ends sessions whose threads and children keep computing between two runs, for longer than a run could have.

Limits on CPU time apply to each process separately, and a process can raise or ignore its own. Once a second the
trainer therefore counts the threads of each session that want a core.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from typing import Protocol

from toolrl.sandbox.local.launcher import detach_in_forks

_INTERVAL_SECONDS = 1.0


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


def runnable_threads(pid: int) -> int:
    """Count the threads of a process and its descendants that run or wait for a core."""
    count = 0
    with contextlib.suppress(OSError):  # it has ended
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/task/{task}/stat") as file:
                    count += file.read().rpartition(")")[2].split()[0] == "R"
                with open(f"/proc/{pid}/task/{task}/children") as file:
                    count += sum(runnable_threads(int(child)) for child in file.read().split())
    return count
