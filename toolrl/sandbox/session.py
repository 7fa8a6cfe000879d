"""The parent's end of one worker: sends code, checks what comes back, ends it."""

from __future__ import annotations

import contextlib
import json
import select
import signal
import socket
import time
from typing import Any

from toolrl.errors import SandboxFault
from toolrl.sandbox.base import ExecError, ExecResult, SandboxLimits
from toolrl.sandbox.launcher import Zygote, let_go_in_forks
from toolrl.sandbox.plumbing import HEADER, send_message

_START_SECONDS = 60.0
_END_SECONDS = 10.0
_LIMITS = ("seconds", "memory", "processes", "file_size", "disk", "output")
_LIMIT_BEHIND_SIGNAL = {signal.SIGXCPU: "seconds", signal.SIGXFSZ: "file_size"}


class Session:
    """One worker: the socket to it, and the socket to the guard that ends it.

    Attributes:
        ended: Whether the worker is dead and its variables lost.

    Args:
        zygote: Forks the worker.
        directory: Where it works.
        uid: Who owns the directory, if that is not ours.
        limits: What the worker may use.
        files: Descriptors of a mount namespace, and of the directory in it. A worker takes over what an
            earlier one made; if there is nothing yet, one that makes its own puts them here when it is ready.
    """

    def __init__(
        self, zygote: Zygote, directory: str, uid: int | None, limits: SandboxLimits, files: list[int]
    ) -> None:
        self._channel, self._lifeline = zygote.open_session(directory, uid, limits, files[0] if files else None)
        self._files = files
        self._ready, self._runs = False, 0
        self._largest_message = (1 << 16) + 64 * limits.output_characters
        self.ended = False
        let_go_in_forks(self)

    def run(self, code: str, seconds: float) -> ExecResult:
        """Run code in the worker; a worker that does not answer in time, or not properly, is ended."""
        self.wait_until_ready()
        started, result, died, reason = time.monotonic(), None, "SandboxDied", ""
        try:
            result = self._ask(code, started, seconds)
        except TimeoutError:
            died, reason = "TimeoutError", f"the code was stopped after {seconds:g} seconds"
        except (EOFError, OSError):
            pass  # the guard knows why
        except (ValueError, LookupError, TypeError, RecursionError):
            reason = "the process sent something that is no answer"
        finally:
            elapsed = time.monotonic() - started
            report = {} if result else self.end()
        if result:
            return result
        if "status" not in report:
            raise SandboxFault(f"a sandbox vanished: {report.get('fault', 'its guard was killed')}")
        status = report["status"]
        limit = "seconds" if died == "TimeoutError" else _LIMIT_BEHIND_SIGNAL.get(-status, "")
        if not reason and status < 0:
            reason = f"the process was ended by signal {-status} ({signal.strsignal(-status)})"
        message = (
            f"{reason or f'the process ended itself with status {status}'}; its variables are lost, its files kept"
        )
        error = ExecError(died, message, f"{died}: {message}")
        hit = tuple(name for name in _LIMITS if name in (limit, *report["limits"]))
        return ExecResult(report["stdout"], report["stderr"], None, error, elapsed, hit)

    def end(self) -> dict[str, Any]:
        """Kill everything in the session, wait until it is dead; what the guard reports."""
        report: dict[str, Any] = {}
        with contextlib.suppress(OSError, EOFError):
            self._lifeline.shutdown(socket.SHUT_WR)
            report = self._receive(self._lifeline, time.monotonic() + _END_SECONDS)
        self.detach()
        return report

    def detach(self) -> None:
        """Close our ends; in a forked child this leaves the parent's session alone."""
        self.ended = True
        self._channel.close()
        self._lifeline.close()

    def wait_until_ready(self) -> None:
        """Wait for the worker to be walled in.

        Raises:
            SandboxFault: It did not succeed.
        """
        if self._ready:
            return
        hello: dict[str, Any] = {}
        try:
            with contextlib.suppress(EOFError, OSError):
                hello = self._receive(self._channel, time.monotonic() + _START_SECONDS, self._files)
            self._ready = "ready" in hello
        finally:
            report = {} if self._ready else self.end()
        if not self._ready:
            raise SandboxFault(f"a sandbox did not start: {hello.get('fault') or report.get('fault') or 'no answer'}")

    def _ask(self, code: str, started: float, seconds: float) -> ExecResult:
        """Send code, and check the answer: the code can write to its socket too."""
        self._runs += 1
        self._channel.settimeout(seconds)
        send_message(self._channel, {"run": self._runs, "code": code, "seconds": seconds})
        reply = self._receive(self._channel, started + seconds)
        if reply["run"] != self._runs:
            raise ValueError("an answer to another question")
        value, error = reply["value"], reply["error"]
        return ExecResult(
            _text(reply["stdout"]),
            _text(reply["stderr"]),
            None if value is None else _text(value),
            None if error is None else ExecError(*(_text(part) for part in error)),
            time.monotonic() - started,
            tuple(name for name in _LIMITS if name in reply["limits"]),
        )

    def _receive(self, source: socket.socket, deadline: float, files: list[int] | None = None) -> dict[str, Any]:
        """One message; EOFError if the source, or the worker, is gone before it has come.

        Args:
            source: Where it comes from.
            deadline: When to give up, on the monotonic clock.
            files: Takes the descriptors that come along; only before any code has run.
        """
        poll = select.poll()
        poll.register(source, select.POLLIN)
        poll.register(self._lifeline, select.POLLIN)
        received, length = bytearray(), HEADER.size
        while len(received) < length:
            ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
            if not ready:
                raise TimeoutError
            if source.fileno() not in ready:
                raise EOFError
            if files is None:
                chunk = source.recv(1 << 20)
            else:
                chunk, came, _, _ = socket.recv_fds(source, 1 << 20, 2, socket.MSG_CMSG_CLOEXEC)
                files += came
            if not chunk:
                raise EOFError
            received += chunk
            if length == HEADER.size <= len(received):
                length += HEADER.unpack_from(received)[0]
                if length > self._largest_message:
                    raise ValueError(f"a message of {length} bytes")
        message = json.loads(received[HEADER.size :])
        if not isinstance(message, dict):
            raise ValueError("a message that is not an object")
        return message


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"text expected, got {type(value).__name__}")
    return value.encode("utf-8", "replace").decode()
