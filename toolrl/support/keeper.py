"""Runs a command that must not outlive the process that started it. Standard library only: it is run as a script.

It ends the command, with everything the command started, when its parent ends for whatever reason, when it gets a
SIGTERM, and what the command left behind when the command ends. Processes that left their group are found too: orphans
become children of this process.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time

GRACE_SECONDS = 1.0  # between SIGTERM and SIGKILL
_KILLING_SECONDS = 5.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def under_keeper(command: list[str], environment: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """The command line and environment of a keeper that runs `command`. It must be started as a child process."""
    needed = "LD_LIBRARY_PATH"  # by some Pythons, to start
    hidden = needed if needed in os.environ and needed not in environment else ""
    if hidden:
        environment = {**environment, hidden: os.environ[hidden]}
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), hidden, *command], environment


def main(parent: int, hidden: str, command: list[str]) -> int:
    """Run the command with this process's environment, except `hidden`, and return its exit status."""
    control = ctypes.CDLL(None).prctl
    control(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        watched = os.pidfd_open(parent)
    except ProcessLookupError:
        return 1
    if os.getppid() != parent:
        return 1
    environment = _environment()
    child = os.fork()
    if child == 0:
        control(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvpe(command[0], command, {name: environment[name] for name in environment if name != hidden})
        except OSError as error:
            print(f"cannot run {command[0]!r}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)
    empty = os.open(os.devnull, os.O_RDWR)
    os.dup2(empty, 0)  # the pipes are the command's alone, so that both sides see when they are closed
    os.dup2(empty, 1)
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([watched, wake, ended], [], [])
    if ended not in ready:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
        select.select([ended], [], [], GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    _end_descendants()
    return status if status >= 0 else 128 - status


def _environment() -> dict[str, str]:
    """The environment as it was given: Python may set LC_CTYPE in its own."""
    with open("/proc/self/environ", "rb") as file:
        pairs = (entry.partition(b"=") for entry in file.read().split(b"\0") if b"=" in entry)
        return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def _end_descendants() -> None:
    """Kill the children, then those who thereby become children, until there are none."""
    deadline = time.monotonic() + _KILLING_SECONDS
    while time.monotonic() < deadline:
        for name in os.listdir("/proc"):
            if name.isdigit() and _parent_of(name) == os.getpid():
                with contextlib.suppress(OSError):
                    os.kill(int(name), signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def _parent_of(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
