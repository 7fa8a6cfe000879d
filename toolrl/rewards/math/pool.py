"""Warm processes for math-verify, each of which can be killed."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
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
# How a library ends that gets no memory, or runs out of stack, on a formula: the formula's doing, unlike a SIGKILL.
_CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
_REQUESTS_PER_WORKER = 2000  # sympy's caches grow


@dataclass(frozen=True, slots=True)
class MathVerdict:
    """Whether an answer equals the expected one, and why not.

    Attributes:
        equal: The verdict.
        reason: What is wrong with the answer, beyond being another one; empty if nothing is.
    """

    equal: bool
    reason: str = ""


class WorkerLost(Exception):
    """A worker ended, or does not answer, through no fault of the formula's."""


class MathVerifier:
    """Compares formulas with math-verify, in a few processes that are started when needed and kept.

    It can be used from any thread. Its processes end with `close`, with the program, and by themselves when
    the program is killed.
    """

    def __init__(self, *, seconds: float = 5.0, wall_seconds: float = 60.0, workers: int = 2):
        """Make a verifier; no process is started yet.

        Args:
            seconds: CPU time for one comparison. An answer that takes longer is wrong.
            wall_seconds: Wall-clock time for one comparison. A process that takes longer without using its CPU time
                is at fault, not the answer.
            workers: At most so many processes.

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
        self._forget()
        _verifiers.add(self)

    def compare(self, gold: str, parts: list[str]) -> MathVerdict:
        """Whether all of `parts` equal `gold`, as math-verify has it.

        Raises:
            InfrastructureError: Two processes on end were lost; the answer cannot be scored.
        """
        with self._slots:
            for attempt in (1, 2):
                worker = self._take()
                try:
                    verdict = worker.ask(gold, parts, self._seconds, self._wall_seconds)
                except WorkerLost as error:
                    self._discard(worker)
                    if attempt == 2:
                        raise InfrastructureError(f"the math verifier failed twice: {error}") from None
                except BaseException:
                    self._discard(worker)  # it is at work on what nobody waits for
                    raise
                else:
                    self._put_back(worker)
                    return verdict
        raise AssertionError("unreachable")

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run."""
        with self._lock:
            return [worker.process.pid for worker in self._workers if worker.process.poll() is None]

    def is_busy(self, pid: int) -> bool:
        """Whether the worker with that process id is at a comparison."""
        with self._lock:
            return any(worker.process.pid == pid and worker.is_busy for worker in self._workers)

    def close(self) -> None:
        """End the processes; comparisons under way fail. The next comparison starts new ones."""
        with self._lock:
            workers = list(self._workers)
            self._workers.clear()
            self._idle.clear()
        for worker in workers:
            worker.kill()

    def _take(self) -> _Worker:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.process.poll() is None:
                    return worker
                self._workers.remove(worker)
                worker.kill()
            worker = _Worker()
            self._workers.append(worker)
        return worker

    def _put_back(self, worker: _Worker) -> None:
        with self._lock:
            if worker in self._workers and worker.asked < _REQUESTS_PER_WORKER and worker.process.poll() is None:
                self._idle.append(worker)
                return
        self._discard(worker)

    def _discard(self, worker: _Worker) -> None:
        with self._lock:
            if worker in self._workers:
                self._workers.remove(worker)
        worker.kill()

    def _forget(self) -> None:
        """Start without workers: those there were belong to the process this one was forked from."""
        for worker in getattr(self, "_workers", ()):
            worker.disown()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(self._size)
        self._workers: list[_Worker] = []
        self._idle: list[_Worker] = []


class _Worker:
    """One process. It is in a session of its own, so that a Ctrl-C reaches only us."""

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

    def ask(self, gold: str, parts: list[str], seconds: float, wall_seconds: float) -> MathVerdict:
        """Send a request and wait for the verdict.

        Raises:
            WorkerLost: The process ended for another reason than the CPU time, or does not answer.
            MissingExtra: A package is missing.
        """
        if not self._ready:
            first = self._read(_START_SECONDS)
            if first is None:
                raise WorkerLost(f"a worker ended with {self.process.wait()} at its start")
            if "missing" in first:
                raise MissingExtra(f"{first['missing']} (for math-verify)", "math")
            self._ready = True
        self.asked += 1
        request = {"id": self.asked, "gold": gold, "parts": parts, "seconds": seconds}
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.is_busy = True
        except BrokenPipeError:
            raise WorkerLost(f"a worker ended with {self.process.wait()} before a request") from None
        reply = self._read(wall_seconds)
        self.is_busy = False
        if reply is None:
            status = self.process.wait()
            if status == -signal.SIGPROF:
                return MathVerdict(False, f"took longer than {seconds:g} s to compare")
            if -status in _CRASHES:
                return MathVerdict(False, f"too large to be compared ({signal.Signals(-status).name})")
            raise WorkerLost(f"a worker ended with {status} at a request")
        if reply["id"] != self.asked:
            raise WorkerLost(f"a worker answered request {reply['id']} in place of {self.asked}")
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


def _forget_all() -> None:
    for verifier in list(_verifiers):
        verifier._forget()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
