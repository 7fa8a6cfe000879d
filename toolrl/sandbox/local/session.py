"""The parent's end of one worker: sends code, checks the answers, ends the worker."""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from toolrl.errors import SandboxFault
from toolrl.sandbox.base import ExecResult, OutputListener, SandboxLimits
from toolrl.sandbox.inside.plumbing import HEADER, framed, new_files
from toolrl.sandbox.local.background import ComputeClock, parent_of, pid_of, watch
from toolrl.sandbox.local.launcher import Zygote, detach_in_forks
from toolrl.sandbox.local.pool import runs
from toolrl.sandbox.local.worker import CORES, report as captured
from toolrl.sandbox.results import FileRelay, Relay, dead_result, parse_outcome

_START_SECONDS = 60.0
_END_SECONDS = 10.0
_FAREWELL_SECONDS = 0.25
_BUSY_SECONDS = 60.0  # the most that a run is compensated for time spent waiting for a core
_UNREAD_SECONDS = 0.1  # of run time after which the kernel's count of waiting time is read again
_STREAM_SECONDS = 0.03  # between two reads of the output, if anybody listens
_LIMIT_BEHIND_SIGNAL = {signal.SIGXCPU: "seconds", signal.SIGXFSZ: "file_size"}


class Connection:
    """One worker: the channel for requests, and the lifeline that ends it.

    Attributes:
        ended: Whether the worker is dead and its variables lost.
        process: The worker's pidfd; None until it is ready and after it has ended.

    Args:
        zygote: Forks the worker.
        directory: Its working directory.
        uid: Owner of the directory, if not us.
        limits: Limits of the worker.
        bindings: Mounts in the directory.
        view: Descriptors of a mount namespace and of the directory in it: the worker uses the files of an earlier
            one. If empty, the worker creates its own and the descriptors are added here once it is ready.
    """

    def __init__(
        self,
        zygote: Zygote,
        directory: str,
        uid: int | None,
        limits: SandboxLimits,
        bindings: list[tuple[str, str]],
        view: list[int],
    ) -> None:
        self._files = new_files()
        try:
            opened = zygote.open_session(directory, uid, limits, bindings, [*self._files, *view[:1]])
        except BaseException:
            self._close_files()
            raise
        self._channel, self._lifeline = opened
        self._channel.setblocking(False)
        self._news = select.poll()
        for source in (self._channel, self._lifeline):
            self._news.register(source, select.POLLIN)
        self._zygote, self._limits, self._view, self._ready, self._runs = zygote, limits, view, False, 0
        self._largest_message = (1 << 16) + 64 * limits.output_characters + (limits.display_mb << 20)
        self._ahead = bytearray()  # bytes of the next message, already received
        self.process: int | None = None
        self._schedstat: str | None = None
        self._waited, self._unread = 0.0, -time.monotonic()  # result of `_waiting_seconds`; run time since then
        self._busy, self._interrupts = threading.RLock(), threading.Lock()
        self._interrupted = self._overran = False
        self._between, self._may_compute = ComputeClock(), limits.seconds  # of a core, between two runs
        self.ended = self._ending = False
        detach_in_forks(self)

    def run(
        self, code: str, seconds: float, environment: Mapping[str, str], on_output: OutputListener | None
    ) -> ExecResult:
        """Run code in the worker; end a worker that does not answer properly and in time."""
        with self._busy:
            with self._interrupts:
                self._runs += 1
                self._interrupted = False
            self.wait_until_ready()
            leave = runs.wait(lambda: self._ending)
            try:
                return self._run(code, seconds, environment, on_output)
            finally:
                self._between, self._may_compute = ComputeClock(), seconds
                leave()

    def _run(
        self, code: str, seconds: float, environment: Mapping[str, str], on_output: OutputListener | None
    ) -> ExecResult:
        result, name, reason = None, "SandboxDied", ""
        if self._unread > _UNREAD_SECONDS:
            self._waited, self._unread = self._waiting_seconds(), 0.0
        started = time.monotonic()

        def elapsed() -> float:
            """Wall-clock time, without the time the code waited for a core."""
            wall = time.monotonic() - started
            if wall < _STREAM_SECONDS:
                return wall
            waited = self._waiting_seconds() - self._waited  # some of it perhaps before this run
            return wall - min(max(0.0, waited), wall)

        for output in self._files[:2]:  # here, since a worker that dies at once would leave those of an earlier run
            if os.lseek(output, 0, os.SEEK_END):  # costs a third of a truncation
                os.ftruncate(output, 0)
        texts = {str(name): str(text) for name, text in environment.items()}  # marshal rejects subclasses of str
        request = marshal.dumps((self._runs, str(code), float(seconds), texts))
        relay = None
        if on_output is not None:
            relay = FileRelay(Relay(on_output, self._limits.output_characters), self._files[:2])
        try:
            try:
                result = self._ask(request, seconds, elapsed, relay)
            except TimeoutError:
                name, reason = "TimeoutError", f"the code was stopped after {seconds:g} seconds"
            except (EOFError, OSError):
                reason = "" if self._ends_by_itself() else "the process closed its channel"
            except (ValueError, LookupError, TypeError, RecursionError):
                reason = "the process sent an invalid answer"
            took = result.seconds if result else elapsed()
            self._unread += took
            if relay is not None:
                relay.read()
        except BaseException:
            result = None
            raise
        finally:
            closed = self._ending
            report = {} if result else self.end(keep_output=True)
        if result:
            return result
        if name != "TimeoutError" and "status" not in report and not self._code_hid_the_end(report):
            raise SandboxFault(f"a sandbox vanished: {report.get('fault', 'its end was not observed')}")
        status = report.get("status", -signal.SIGKILL)
        if status == -signal.SIGKILL and not (reason or closed or self._code_may_have_caused(report)):
            raise SandboxFault("the process of a sandbox was killed from outside, or because memory ran out")
        limit = "seconds" if name == "TimeoutError" else _LIMIT_BEHIND_SIGNAL.get(-status, "")
        if not reason and status < 0:
            reason = f"the process was ended by signal {-status} ({signal.strsignal(-status)})"
        if self._overran:
            limit = "seconds"
            reason = "its threads and children computed on after a run, for longer than that could have"
        reason = reason or f"the process ended itself with status {status}"
        return dead_result(name, reason, report["stdout"], report["stderr"], took, (limit, *report["limits"]))

    def _code_hid_the_end(self, report: Mapping[str, Any]) -> bool:
        """Whether the worker is slow to die, or the code may have killed the process that reports its end."""
        return "late" in report or (self._zygote.alive and not self._zygote.active.holds["signals"])

    def _code_may_have_caused(self, report: Mapping[str, Any]) -> bool:
        """Whether the code may have caused a SIGKILL.

        In a process namespace nothing can kill process 1 except a CPU limit that the code lowered, or the kernel
        when the code has used up the memory. Without namespaces the code can send the signal itself.
        """
        if self._overran:
            return True
        large_kb = self._limits.memory_mb << 9  # half of its limit
        return report.get("lowered_its_limit", True) or report["grown_kb"] >= large_kb

    def check_background(self, seconds: float) -> None:
        """Called every `seconds`: end the session if it computes between two runs for longer than a run could."""
        if not self._busy.acquire(blocking=False):
            return
        try:
            if self.ended or self.process is None:
                return
            pid = pid_of(self.process)
            if not self._zygote.active.holds["namespaces"]:
                pid = parent_of(pid)  # the guard, which adopts orphans
            self._between.look(pid, seconds)
            if self._between.seconds > self._may_compute * CORES + 1:
                self._overran = True
                signal.pidfd_send_signal(self.process, signal.SIGKILL)
        except OSError:  # it has ended
            pass
        finally:
            self._busy.release()

    def _ends_by_itself(self) -> bool:
        """Whether the worker's end is reported shortly without our ending it."""
        poll = select.poll()
        poll.register(self._lifeline, select.POLLIN)
        return bool(poll.poll(_FAREWELL_SECONDS * 1000))

    @property
    def idle(self) -> bool:
        """Whether the worker is ready, alive, and silent."""
        return self._ready and not self.ended and not self._news.poll(0)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the running code, if any, as soon as it has started."""
        with self._interrupts:
            self._interrupted = True
            self._send_interrupt()

    def _send_interrupt(self) -> None:
        """Note the number of the run in a file and signal the worker, which ignores signals between runs.

        A worker that is not ready yet gets the interrupt before its code.
        """
        if self.process is not None:
            os.pwrite(self._files[2], self._runs.to_bytes(8, "little"), 0)
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.process, signal.SIGINT)

    def end(self, *, keep_output: bool = False) -> dict[str, Any]:
        """Kill everything in the session and wait; return how the worker ended, and its output if requested.

        A run on another thread ends and gets the report.
        """
        return {} if self.ended else self._end(keep_output)  # a forked child may have a lock that is never released

    def _end(self, keep_output: bool) -> dict[str, Any]:
        report: dict[str, Any] = {}
        self._ending = True
        with contextlib.suppress(OSError):
            self._lifeline.shutdown(socket.SHUT_WR)
        with self._busy:
            if self.ended:
                return report
            self._ahead = bytearray()
            try:
                report = self._receive(self._lifeline, time.monotonic() + _END_SECONDS)
            except TimeoutError:
                report = {"late": True}
            except (OSError, EOFError):
                pass
            if keep_output:
                report |= captured(self._files[:2], asdict(self._limits))
            with self._interrupts:
                self.detach()
        return report

    def detach(self) -> None:
        """Close our descriptors; in a forked child this leaves the parent's session alone."""
        self.ended = True
        self._channel.close()
        self._lifeline.close()
        if self.process is not None:
            self._files.append(self.process)
            self.process = None
        self._close_files()

    def _close_files(self) -> None:
        while self._files:
            os.close(self._files.pop())

    def wait_until_ready(self) -> None:
        """Wait until the worker is isolated and ready.

        Raises:
            SandboxFault: The worker failed to start.
        """
        with self._busy:
            if not self._ready:
                self._greet()

    def _greet(self) -> None:
        hello: dict[str, Any] = {}
        try:
            with contextlib.suppress(EOFError, OSError):
                hello = self._receive(self._channel, time.monotonic() + _START_SECONDS, descriptors=True)
                if not hello:  # the first message carries the descriptors: seccomp denies sendmsg later
                    hello = self._receive(self._channel, time.monotonic() + _START_SECONDS)
            self._ready = "ready" in hello
            if self._ready:
                self._unread += time.monotonic()
                watch.add(self)
        finally:
            report = {} if self._ready else self.end()
        if not self._ready:
            raise SandboxFault(f"a sandbox did not start: {hello.get('fault') or report.get('fault') or 'no answer'}")

    def _ask(self, request: bytes, seconds: float, elapsed: Callable[[], float], relay: FileRelay | None) -> ExecResult:
        """Send code and check the answer; the code can write to the worker's socket too."""
        if self._ending:  # closed while waiting for a slot
            raise EOFError
        if self._ahead:
            raise ValueError("an answer before the request")
        if self._interrupted:
            with self._interrupts:
                self._send_interrupt()
        deadline = time.monotonic() + seconds
        last = deadline + _BUSY_SECONDS
        self._send(framed(request), deadline)
        reply = None
        while reply is None:
            try:
                reply = self._receive(self._channel, deadline, tick=relay.read if relay else None)
            except TimeoutError:
                now = time.monotonic()
                left = min(seconds - elapsed(), last - now)
                if left <= 0:
                    raise
                deadline = now + max(left, 0.02)
        if reply["run"] != self._runs:
            raise ValueError("an answer to another request")
        return parse_outcome(reply, reply["stdout"], reply["stderr"], elapsed(), self._limits)

    def _waiting_seconds(self) -> float:
        """Seconds that the worker has waited for a core so far; 0 where the kernel does not report it."""
        try:
            if self._schedstat is None and self.process is not None:
                self._schedstat = f"/proc/{pid_of(self.process)}/schedstat"
            stat = os.open(self._schedstat or "", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return int(os.read(stat, 100).split()[1]) / 1e9
            finally:
                os.close(stat)
        except (OSError, IndexError, ValueError):  # it has ended, or the kernel has no such file
            return 0.0

    def _send(self, data: bytes, deadline: float) -> None:
        """Write to the channel; raise TimeoutError if the worker does not read, EOFError if it is gone."""
        left = memoryview(data)
        while left:
            try:
                left = left[self._channel.send(left) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._channel, select.POLLOUT)
                poll.register(self._lifeline, select.POLLIN)
                ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
                if not ready:
                    raise TimeoutError from None
                if self._lifeline.fileno() in ready:
                    raise EOFError from None

    def _receive(
        self,
        source: socket.socket,
        deadline: float,
        *,
        descriptors: bool = False,
        tick: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Receive one message; raise EOFError if the source or the worker is gone first.

        Args:
            source: The channel or the lifeline.
            deadline: When to give up (time.monotonic).
            descriptors: Whether to accept descriptors with it; only before any code has run.
            tick: Called periodically while waiting.
        """
        poll = self._news
        if source is self._lifeline:
            poll = select.poll()
            poll.register(source, select.POLLIN)
        received, length = self._ahead, 0  # known once the header has arrived
        while True:
            if not length and len(received) >= HEADER.size:
                length = HEADER.size + HEADER.unpack_from(received)[0]
                if length > self._largest_message:
                    raise ValueError(f"a message of {length} bytes")
            if length and len(received) >= length:
                break
            left = max(0.0, deadline - time.monotonic())
            ready = dict(poll.poll((min(left, _STREAM_SECONDS) if tick else left) * 1000))
            if tick:
                tick()
            if not ready and time.monotonic() < deadline:
                continue
            if not ready:
                raise TimeoutError
            chunk = b""
            if source.fileno() in ready and descriptors and not received:
                chunk, passed, _, _ = socket.recv_fds(source, 1 << 16, 3, socket.MSG_CMSG_CLOEXEC)
                with self._interrupts:
                    self._view += passed[1:]
                    self.process = passed[0] if passed else None
            elif source.fileno() in ready:
                chunk = source.recv(min(length - len(received), 1 << 20) if length else 1 << 16)
            if not chunk:
                raise EOFError
            received += chunk
        self._ahead = received[length:]
        message = json.loads(received[HEADER.size : length].decode())
        if not isinstance(message, dict):
            raise ValueError("a message that is not an object")
        return message
