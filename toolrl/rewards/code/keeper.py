"""Runs each test of a candidate program in a fork of its own: sent into the sandbox after `runner`.

    session ── requests ──> keeper, which has loaded the functions ──forks──> one test ── replies ──> session

Standard library only.
"""

import atexit
import contextlib
import fcntl
import io
import json
import os
import random
import signal
import sys
from typing import Any

from toolrl.rewards.code.runner import Candidate, Verbatim, open_as

_MAX_REPLY_BYTES = 1 << 26


def flush() -> None:
    """Flush the standard streams, whatever a program has replaced them with."""
    for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
        with contextlib.suppress(Exception):
            getattr(sys, name).flush()


class KeptCandidate(Candidate):
    """A program that might leave something behind for the next test.

    Args:
        prelude: See `Program`.
        code: See `Program`.
        folder: A folder to which inputs can be written.
        relayed: Whether output must be copied to the session's streams, which no other process can write to.
    """

    def __init__(self, prelude: str, code: str, folder: str, relayed: bool) -> None:
        super().__init__(prelude, code, folder)
        self.relayed = relayed
        self.requests: io.BufferedWriter | None = None
        self.is_open = False  # a test has begun, and more calls may follow

    def call(self, function: str, arguments: str, begins: bool = True, ends: bool = True) -> Verbatim:
        """See `Candidate.call`."""
        return self._ask([function, arguments], begins, ends)

    def run(self, text: str) -> Verbatim:
        """See `Candidate.run`."""
        self.write(text)
        return self._ask([], True, True)

    def _ask(self, request: list[str], begins: bool, ends: bool) -> Verbatim:
        try:
            if self.requests is None:
                self._start()
            if begins and self.is_open:
                self._send(None)
                self._ended()
            self.is_open = not ends
            self._send([*request, ends])
            reply = self.replies.readline(_MAX_REPLY_BYTES)
            if reply.startswith(b"ended"):  # without a reply: some programs end with an exit
                self.is_open = False
                reply = b'{"error": "SandboxDied"}' if request or b"-" in reply else b'{"value": "exit"}'
            elif ends:
                self._ended()
        except OSError:
            reply = b""
        if not reply:  # the keeper has died: the next request starts another
            self.requests, self.is_open = None, False
            reply = b'{"error": "SandboxDied"}'
        if self.relayed and not request:
            for name in ("stdout", "stderr"):
                with open(os.path.join(self.folder, f".{name}"), encoding="utf-8", errors="replace") as file:
                    getattr(sys, name).write(file.read())
        return Verbatim(reply.decode("utf-8", "replace"))

    def _send(self, request: list[Any] | None) -> None:
        assert self.requests is not None
        self.requests.write(json.dumps(request).encode() + b"\n")
        self.requests.flush()

    def _ended(self) -> None:
        while (line := self.replies.readline(_MAX_REPLY_BYTES)) and not line.startswith(b"ended"):
            continue

    def _start(self) -> None:
        flush()
        # High numbers, which do not collide with descriptors that a program chooses itself.
        theirs, ours, replies, answers = (_moved(end) for end in (*os.pipe(), *os.pipe()))
        state = random.getstate()
        if os.fork() == 0:
            try:
                random.setstate(state)  # Python reseeds every fork
                os.close(ours)
                os.close(replies)
                _Keeper(self, open(theirs, "rb"), answers).serve()  # noqa: SIM115
            finally:
                os._exit(0)
        os.close(theirs)
        os.close(answers)
        self.requests, self.replies = open(ours, "wb"), open(replies, "rb")  # noqa: SIM115


class _Keeper:
    """The process between the session and the tests."""

    def __init__(self, candidate: KeptCandidate, requests: io.BufferedReader, answers: int) -> None:
        self.program, self.folder, self.relayed = candidate.program, candidate.folder, candidate.relayed
        self.requests, self.answers = requests, answers
        self.is_warm = False

    def serve(self) -> None:
        """Run each test in a fork, and report its end."""
        while line := self.requests.readline():
            request = json.loads(line)
            if not self.is_warm and request is not None:
                self._warm(loads=len(request) > 1)
            state = random.getstate()
            pid = os.fork()
            if pid == 0:
                try:
                    os.setpgid(0, 0)
                    random.setstate(state)  # Python reseeds every fork
                    self._test(request)
                finally:
                    os._exit(1)
            _, status = os.waitpid(pid, 0)
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)  # processes that it left running
            os.write(self.answers, b"ended %d\n" % os.waitstatus_to_exitcode(status))

    def _warm(self, loads: bool) -> None:
        """Do once what all tests would do, unless the program starts threads, which a fork would lose."""
        self.is_warm = True
        with contextlib.suppress(BaseException):  # each test will report it
            if loads:
                self.program.names = self.program.load()
            else:
                exec(self.program.parts[0], {})
        threading = sys.modules.get("threading")
        if threading is not None and threading.active_count() > 1:
            self.program.names = None

    def _test(self, request: list[Any] | None) -> None:
        pid = os.getpid()
        if self.relayed:
            self._open_streams()
        while request is not None:
            *call, ends = request
            if call:
                reply = self.program.call(*call)
            else:
                atexit._clear()
                reply = self.program.main(self.folder, _finish)
            if os.getpid() != pid:
                os._exit(0)  # a child forked by the program must not answer
            with open(self.answers, "wb", closefd=False) as file:
                file.write(reply.encode() + b"\n")
            line = b"" if ends else self.requests.readline()
            request = json.loads(line) if line else None
        os._exit(0)

    def _open_streams(self) -> None:
        for number, name in ((1, "stdout"), (2, "stderr")):
            open_as(os.path.join(self.folder, f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, number)
            stream = open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def _moved(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 100)
    os.close(descriptor)
    return moved


def _finish() -> None:
    """End as an interpreter does: wait for threads, run exit handlers, flush the streams."""
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()
    atexit._run_exitfuncs()
    flush()
