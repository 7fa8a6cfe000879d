"""A session of bash that the Python session of a sandbox keeps alive. Standard library only.

The text of this file is sent into sandboxes by `toolrl.tools.shell`. Commands share bash's folder, variables and
functions. Their stdout and stderr are both descriptor 1 of the Python session, so that they interleave as in a
terminal; their stdin is empty.

bash is interactive, but has no terminal: on SIGINT it drops the current command and reads the next one. It gets
commands on its own stdin and reports exit codes on descriptor 4; commands inherit neither.
"""

import contextlib
import fcntl
import os
import select
import shlex
import signal
import time

_GRACE_SECONDS = 1.0  # for a command to end after it was interrupted, and again after it was killed
_INTERRUPTS = 4  # in that time: bash overlooks one if the command ends by itself just then
_TICK_SECONDS = 0.05
_HIGH = 100  # descriptors from here on are not those that bash gets or chooses
_SETUP = "unset HISTFILE; set +o history +H; PS1= PS2=; trap '' XFSZ; cd -- {folder}; unset OLDPWD\n"
_COMMAND = "eval {command} </dev/null >&3 2>&3 3>&- 4>&-\n"
_REPORT = 'printf "%s %s %s\\0" {number} "$?" "$PWD" >&4\n'


class Bash:
    """One bash after another: when one ends, the next starts in its folder.

    Args:
        folder: Where the first one starts; created if it does not exist.
        environment: Environment variables besides those of the Python session.
    """

    def __init__(self, folder: str, environment: dict[str, str]) -> None:
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)
        self._first = self._folder = os.path.realpath(folder)
        self._environment = environment
        self._number = 0  # of the command
        self._start()

    def run(self, command: str, seconds: float) -> tuple[int, str, str]:
        """Run a command.

        Args:
            command: Text for `eval`, without NUL.
            seconds: After this time it is interrupted.

        Returns:
            Exit code, end, and the folder of the next command. The end is "" if the command ended by itself,
            "interrupted" if it ran out of time, "exited" if bash ended with it (a negative exit code is the number of
            a signal), and "killed" if it ran out of time and bash had to be killed. After these two a new bash has
            started.
        """
        before, end = _processes(), ""
        self._number += 1
        ask = _REPORT.format(number=self._number)
        self._send(_COMMAND.format(command=shlex.quote(command)) + ask)
        report = self._report(seconds)
        for _ in range(_INTERRUPTS):
            if report is None and self._exit_code is None:
                end = "interrupted"
                self._signal(signal.SIGINT)
                self._send(ask)  # the signal may have met the first one
                report = self._report(_GRACE_SECONDS / _INTERRUPTS)
        if report is None and self._exit_code is None and before:
            for pid in _processes() - before:  # they ignore the signal
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            report = self._report(_GRACE_SECONDS)
        if report is not None:
            code, self._folder = report
            return code, end, self._folder
        self._signal(signal.SIGKILL)
        while self._exit_code is None:
            self._reap()
            time.sleep(0.001)
        end = "killed" if end else "exited"
        code = self._exit_code
        for descriptor in (self._commands, self._reports, self._notices):
            os.close(descriptor)
        self._start()
        return code, end, self._folder

    def _start(self) -> None:
        homes = (self._folder, self._first, os.environ.get("HOME", "/"))
        self._folder = next((folder for folder in homes if os.path.isdir(folder)), "/")
        stdin, self._commands = _pipe()
        self._reports, reports = _pipe()
        self._notices, notices = _pipe()  # prompts and the like; a device would be taken for a terminal
        os.set_blocking(self._notices, False)
        self._unread = b""
        self._exit_code: int | None = None
        moves = ((stdin, 0), (1, 3), (reports, 4), (notices, 1), (notices, 2))
        actions: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, *move) for move in moves]
        actions += [(os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in range(5, _HIGH)]
        try:
            self._pid = os.posix_spawn(
                "/bin/bash",
                ["bash", "--noprofile", "--norc", "-i"],
                {**os.environ, **self._environment},
                file_actions=actions,
                setsid=True,
                setsigdef=[signal.SIGINT, signal.SIGPIPE],
            )
        finally:
            for descriptor in (stdin, reports, notices):
                os.close(descriptor)
        self._send(_SETUP.format(folder=shlex.quote(self._folder)))

    def _send(self, text: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it is gone, which the report's absence tells
            left = text.encode("utf-8", "surrogateescape")
            while left:
                left = left[os.write(self._commands, left) :]

    def _report(self, seconds: float) -> tuple[int, str] | None:
        """Exit code and folder after the current command; None if bash ends first, or the time."""
        deadline, poll = time.monotonic() + seconds, select.poll()
        poll.register(self._reports, select.POLLIN)
        while True:
            *reports, self._unread = self._unread.split(b"\0")
            for report in reports:
                number, code, folder = report.decode("utf-8", "surrogateescape").split(" ", 2)
                if int(number) == self._number:  # else it is a repeated one of an earlier command
                    return int(code), folder
            self._reap()
            with contextlib.suppress(BlockingIOError):
                while os.read(self._notices, 1 << 16):
                    pass
            left = deadline - time.monotonic()
            ready = poll.poll(0 if self._exit_code is not None else max(0.0, min(left, _TICK_SECONDS)) * 1000)
            chunk = os.read(self._reports, 1 << 16) if ready else b""
            self._unread += chunk
            if not chunk and (left <= 0 or self._exit_code is not None):
                return None
            if ready and not chunk:  # closed, and yet bash is alive
                time.sleep(_TICK_SECONDS)

    def _reap(self) -> None:
        """Collect children that have ended: orphans too, which would still count as processes."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self._pid:
                    self._exit_code = os.waitstatus_to_exitcode(status)

    def _signal(self, number: int) -> None:
        """Signal bash and what it runs; background jobs ignore SIGINT."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, number)


def _pipe() -> tuple[int, int]:
    pair = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _HIGH) for end in pair]
    for end in pair:
        os.close(end)
    return high[0], high[1]


def _processes() -> set[int]:
    """Ids of the processes of this sandbox; none where it may not look."""
    try:
        return {int(name) for name in os.listdir("/proc") if name.isdigit()}
    except OSError:
        return set()
