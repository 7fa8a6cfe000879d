"""Warm worker processes for math-verify, which can be killed."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolrl.errors import ConfigError, InfrastructureError, MissingExtra

_SCRIPT = Path(__file__).with_name("worker.py")
_START_SECONDS = 120.0
# Signals of a library that runs out of memory or stack. They are caused by the formula, unlike a SIGKILL.
_CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
_ATTEMPTS = 2
_REQUESTS_PER_WORKER = 2000  # sympy's caches grow


@dataclass(frozen=True, slots=True)
class MathVerdict:
    """Whether an answer equals the expected one, and why not.

    Attributes:
        equal: Whether it does.
        reason: Why the answer could not be compared; empty if it was.
    """

    equal: bool
    reason: str = ""


class WorkerLost(Exception):
    """A worker ended or stopped answering, for a reason other than the formula."""


class MathVerifier:
    """Compares formulas with math-verify, in a few processes that are started on demand and reused.

    Thread-safe. The processes end with `close`, with the program, and also when the program is killed.
    """

    def __init__(self, *, seconds: float = 5.0, wall_seconds: float = 60.0, workers: int = 2):
        """Create a verifier; no process is started yet.

        Args:
            seconds: CPU time limit of a comparison. An answer that takes longer is wrong.
            wall_seconds: Wall-clock limit of a comparison. If a process exceeds it without using up its CPU time, the
                process is at fault, not the answer.
            workers: Maximum number of processes.

        Raises:
            ConfigError: A number is not positive.
            MissingExtra: math-verify is not installed.
        """
        if not (seconds > 0 and wall_seconds > 0 and workers > 0):
            raise ConfigError(
                f"seconds, wall_seconds and workers must be positive, got {seconds}, {wall_seconds}, {workers}"
            )
        if importlib.util.find_spec("math_verify") is None:
            raise MissingExtra("math-verify", "math")
        self._seconds = seconds
        self._wall_seconds = wall_seconds
        self._size = workers
        self._reset()
        _verifiers.add(self)

    def compare(self, gold: str, parts: list[str]) -> MathVerdict:
        """Whether all of `parts` equal `gold`.

        Raises:
            InfrastructureError: Two consecutive workers were lost; the answer cannot be scored.
        """
        worker = self._idle.get()
        try:
            lost: WorkerLost | None = None
            for _ in range(_ATTEMPTS):
                worker = self._usable(worker)
                try:
                    return worker.ask(gold, parts, self._seconds, self._wall_seconds)
                except WorkerLost as error:
                    lost = error
                    worker.kill()
            raise InfrastructureError(f"the math verifier failed twice: {lost}")
        except BaseException:
            if worker is not None:
                worker.kill()  # it may still be busy with the abandoned comparison
            raise
        finally:
            self._idle.put(worker)

    @property
    def pids(self) -> list[int]:
        """Process ids of the running workers."""
        with self._lock:
            return [worker.process.pid for worker in self._workers if worker.process.poll() is None]

    def is_busy(self, pid: int) -> bool:
        """Whether the worker with this process id is busy with a comparison."""
        with self._lock:
            return any(worker.process.pid == pid and worker.is_busy for worker in self._workers)

    def close(self) -> None:
        """End the processes; running comparisons lose theirs. The next comparison starts new processes."""
        with self._lock:
            for worker in self._workers:
                worker.kill()

    def _usable(self, worker: _Worker | None) -> _Worker:
        """The worker itself, or its replacement."""
        if worker is not None and worker.is_usable:
            return worker
        with self._lock:
            if worker is not None:
                worker.kill()
                self._workers.remove(worker)
            worker = _Worker()
            self._workers.add(worker)
        return worker

    def _reset(self) -> None:
        """Start without workers: after a fork, those of the parent process are not ours."""
        for worker in getattr(self, "_workers", ()):
            worker.disown()
        self._lock = threading.Lock()
        self._workers: set[_Worker] = set()
        # Last in, first out, so that a warm worker is used before another is started in place of a None.
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(self._size):
            self._idle.put(None)


class _Worker:
    """A worker process, in a session of its own so that Ctrl-C does not reach it."""

    def __init__(self) -> None:
        self.asked = 0
        self.is_busy = False
        self._buffer = b""
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT), json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        self._ready = False

    @property
    def is_usable(self) -> bool:
        """Whether the process runs and has not answered too many requests."""
        return self.asked < _REQUESTS_PER_WORKER and self.process.poll() is None

    def ask(self, gold: str, parts: list[str], seconds: float, wall_seconds: float) -> MathVerdict:
        """Send a request and wait for the verdict.

        Raises:
            WorkerLost: The process does not answer, or ended for a reason other than the CPU time.
            MissingExtra: A package is missing.
        """
        if not self._ready:
            first = self._read(_START_SECONDS)
            if first is None:
                raise WorkerLost(f"a worker exited with {self.process.wait()} at its start")
            if "missing" in first:
                raise MissingExtra(f"{first['missing']} (for math-verify)", "math")
            self._ready = True
        self.asked += 1
        request = {"id": self.asked, "gold": gold, "parts": parts, "seconds": seconds}
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.is_busy = True
        except (BrokenPipeError, ValueError):  # it has died, or `close` has closed the pipe
            raise WorkerLost(f"a worker exited with {self.process.wait()} before a request") from None
        reply = self._read(wall_seconds)
        self.is_busy = False
        if reply is None:
            status = self.process.wait()
            if status == -signal.SIGPROF:
                return MathVerdict(False, f"took longer than {seconds:g} s to compare")
            if -status in _CRASHES:
                return MathVerdict(False, f"too large to be compared ({signal.Signals(-status).name})")
            raise WorkerLost(f"a worker exited with {status} during a request")
        if reply["id"] != self.asked:
            raise WorkerLost(f"a worker answered request {reply['id']} instead of {self.asked}")
        return MathVerdict(bool(reply["equal"]), reply.get("reason", ""))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._close_pipes()

    def disown(self) -> None:
        self.process.returncode = 0  # not our child: nothing to wait for
        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def _read(self, seconds: float) -> dict[str, Any] | None:
        """The next line; None if the output has ended.

        Raises:
            WorkerLost: No line came in time.
        """
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            try:
                selector.register(self.process.stdout, selectors.EVENT_READ)
                while b"\n" not in self._buffer:
                    if not selector.select(max(0.0, deadline - time.monotonic())):
                        raise WorkerLost(f"a worker has not answered for {seconds:g} s")
                    chunk = os.read(self.process.stdout.fileno(), 65536)
                    if not chunk:
                        return None
                    self._buffer += chunk
            except ValueError:  # closed by `close` on another thread
                raise WorkerLost("the verifier was closed") from None
        line, self._buffer = self._buffer.split(b"\n", 1)
        reply: dict[str, Any] = json.loads(line)
        return reply


_verifiers: weakref.WeakSet[MathVerifier] = weakref.WeakSet()


def _close_all() -> None:
    for verifier in list(_verifiers):
        verifier.close()


def _reset_all() -> None:
    for verifier in list(_verifiers):
        verifier._reset()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_reset_all)
