"""A warm Python process that forks sandboxes; started by `launcher.Zygote`, standard library only.

    parent ── control socket ──> zygote ──forks──> guard ──forks──> worker (the model's code)

The parent asks for a session by sending two sockets: one leads to the worker, the other to its guard.
When the guard's socket closes, or the worker dies, the guard kills all that is left of the session and
reports. The zygote holds a descriptor of its parent's process: when that ends, however it does, so do
the zygote and every session. (The usual PR_SET_PDEATHSIG fires when the *thread* that forked ends.)
"""

import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from dataclasses import dataclass, field
from typing import Any, NoReturn

from toolrl.sandbox import checks, isolation, landlock, plumbing, seccomp, trials, worker

WARM = """abc argparse array base64 bisect calendar cmath collections.abc contextlib copy csv dataclasses datetime
    decimal enum fractions functools hashlib heapq io itertools json math numbers operator pathlib pprint queue random
    re shutil statistics string struct subprocess tempfile textwrap threading time typing unittest uuid"""
PACKAGES = "numpy.random sympy pandas matplotlib.pyplot matplotlib.backends.backend_agg"  # those that are installed
_REHEARSAL = {
    "memory_mb": 512,
    "processes": 8,
    "file_size_mb": 1,
    "disk_mb": 1,
    "files": 8,
    "output_characters": 80,
    "display_mb": 1,
}


def main() -> None:
    """Serve sessions until the parent closes its end or dies."""
    control, directory = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    packages = sys.argv[5:]
    sys.path += packages
    libraries = _reachable([os.path.dirname(os.__file__), *packages])
    readable = landlock.open_readable(packages)
    zygote = _Zygote(control, os.pidfd_open(int(sys.argv[3])), libraries, os.getuid(), readable)
    for name in WARM.split():
        importlib.import_module(name)
    for name in PACKAGES.split() if packages else []:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    uid = isolation.NOBODY if os.getuid() == 0 else None
    zygote.problems = trials.find_problems(directory, uid, sys.argv[4].split(","))
    if "namespaces" not in zygote.problems:
        isolation.share_namespaces(directory, uid)
    elif "network" not in zygote.problems:
        isolation.unshare(isolation.NEWNET)
    if "seccomp" not in zygote.problems:
        # Only namespaces keep files outside of the sandbox safe from chmod and its kin.
        zygote.filter = seccomp.program(os.uname().machine, attributes="namespaces" not in zygote.problems)
    isolation.adopt_orphans()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guards are reaped by the kernel
    zygote.rehearse(f"{directory}/rehearsal", uid)
    os.dup2(os.open(os.devnull, os.O_RDWR), 2)
    gc.freeze()
    try:
        zygote.serve()
    finally:
        isolation.kill_children()
        plumbing.remove_tree(directory)


@dataclass
class _Zygote:
    control: socket.socket
    parent: int  # a pidfd
    libraries: list[int]  # descriptors of folders that are imported through them
    trainer: int  # user id of the parent
    readable: list[tuple[int, int]]  # for Landlock
    problems: dict[str, str] = field(default_factory=dict)  # layers that cannot be set up
    filter: bytes = b""  # for seccomp
    holds: dict[str, bool] | None = None  # layers seen to hold in a worker; None before the rehearsal

    def rehearse(self, directory: str, uid: int | None) -> None:
        """Start a worker to see which layers hold in it, and tell the parent."""
        os.mkdir(directory)
        if uid is not None:
            os.chown(directory, uid, uid)
        ours, workers = socket.socketpair()
        lifeline, guards = socket.socketpair()
        if os.fork() == 0:
            ours.close()
            lifeline.close()
            self.guard({"directory": directory, "uid": uid, "limits": _REHEARSAL, "bindings": []}, workers, guards)
        workers.close()
        guards.close()
        with ours, lifeline, ours.makefile("rb") as reader:
            hello = json.loads(reader.read(*plumbing.HEADER.unpack(reader.read(plumbing.HEADER.size))))
            lifeline.shutdown(socket.SHUT_WR)
            lifeline.recv(1)  # the guard is done
        plumbing.remove_tree(directory)
        self.control.send(json.dumps({**hello, "problems": self.problems}).encode())
        self.holds = hello.get("layers")

    def serve(self) -> None:
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self.parent, select.POLLIN)
        while self.parent not in dict(poll.poll()):
            message, descriptors, _, _ = socket.recv_fds(self.control, 1 << 16, 3)
            if not message:
                return
            channel, lifeline = (socket.socket(fileno=descriptor) for descriptor in descriptors[:2])
            view = descriptors[2] if descriptors[2:] else None
            try:
                request = json.loads(message)
                if os.fork() == 0:
                    self.guard(request, channel, lifeline, view)
            except (OSError, ValueError) as error:
                plumbing.send_message(lifeline, {"fault": f"fork: {error}"})
            channel.close()
            lifeline.close()
            if view is not None:
                os.close(view)

    def guard(
        self, request: dict[str, Any], channel: socket.socket, lifeline: socket.socket, view: int | None = None
    ) -> NoReturn:
        """Fork the worker, wait for its end or the parent's word, leave nothing alive, report.

        Args:
            request: Working directory, its owner, limits, what is mounted in it.
            channel: Leads to whom the worker answers.
            lifeline: When its other end closes, the session is over.
            view: The mount namespace of another session, living or dead, whose files this one works with.
        """
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.control.close()
            os.close(self.parent)
            outputs = os.memfd_create("stdout"), os.memfd_create("stderr")
            for output in outputs:
                fcntl.fcntl(output, fcntl.F_SETFL, os.O_APPEND)  # each run begins at 0 again
            isolation.adopt_orphans()
            if "namespaces" not in self.problems:
                isolation.unshare(isolation.NEWPID | isolation.NEWIPC)
            pid = os.fork()
            if pid == 0:
                lifeline.close()
                self.work(request, channel, outputs, view)
            channel.close()
            poll = select.poll()
            poll.register(lifeline, select.POLLIN)
            poll.register(os.pidfd_open(pid), select.POLLIN)
            poll.poll()
            isolation.kill(pid)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            isolation.kill_children()
            plumbing.send_message(lifeline, {"status": status, **worker.report(outputs, request["limits"])})
        except BaseException:  # noqa: BLE001  classified by the parent
            plumbing.send_message(lifeline, {"fault": traceback.format_exc()})
        finally:
            os._exit(0)

    def work(
        self, request: dict[str, Any], channel: socket.socket, outputs: tuple[int, int], view: int | None
    ) -> NoReturn:
        """Shut ourselves in, then run what comes through the channel."""
        limits, uid, directory, bindings = (request[key] for key in ("limits", "uid", "directory", "bindings"))
        processes, namespaces = limits["processes"], "namespaces" not in self.problems
        try:
            os.setsid()
            ours = [os.pidfd_open(os.getpid())]  # for the parent, which then reaches us, and files that we make
            if namespaces:
                made = isolation.enter_private_view(directory, limits, bindings, view)
                if view is None:
                    ours += [made, os.open(directory, os.O_RDONLY)]
            os.chdir(directory)
            if not namespaces and uid is not None:
                isolation.become(uid)
            elif not namespaces:
                processes = max(processes, 4096)  # all that this user runs counts: no more than a backstop
            os.environ.clear()
            os.environ.update(PATH=os.defpath, LANG="C.UTF-8", HOME=os.getcwd(), TMPDIR=os.getcwd())
            for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (outputs[0], 1), (outputs[1], 2)):
                os.dup2(descriptor, target)
            isolation.limit_resources(limits, processes)
            isolation.renounce()
            if "landlock" not in self.problems:
                own = [directory, "/dev/shm"] if namespaces and os.path.isdir("/dev/shm") else [directory]
                processes_directory = "/proc" if namespaces else "/proc/self"
                rules = [(processes_directory, landlock.READ), *((path, landlock.OWN) for path in own)]
                landlock.restrict(self.readable, rules)
            kept = sorted({0, 1, 2, channel.fileno(), *outputs, *ours, *self.libraries})
            for low, high in zip(kept, [*kept[1:], 1 << 20], strict=True):
                os.closerange(low + 1, high)
            channel.set_inheritable(False)
            if "seccomp" not in self.problems:
                seccomp.install(self.filter)
            layers = checks.active(self.trainer)
            if self.holds not in (None, layers):
                raise OSError(f"a layer of isolation is not what it was: {self.holds} before, {layers} now")
            for name in [name for name in sys.modules if name.startswith("toolrl")]:
                del sys.modules[name]
            # Descriptors count as on their way until a sandbox is first used: more than the limit allows may be.
            plumbing.send_message(channel, {"ready": True, "layers": layers}, ours[0], *outputs, *ours[1:])
            isolation.limit_open_files()
            for descriptor in ours:
                os.close(descriptor)
        except BaseException:  # noqa: BLE001  classified by the parent
            plumbing.send_message(channel, {"fault": traceback.format_exc()})
            os._exit(1)
        try:
            worker.serve(channel, outputs, limits)
        finally:
            os._exit(1)


def _reachable(libraries: list[str]) -> list[int]:
    """Root's own Python may lie where nobody else may look: then import through descriptors, which these are."""
    if os.getuid() != 0:
        return []
    descriptors = []
    for library in libraries:
        folders = [library[:end] for end, letter in enumerate(library) if letter == "/" and end]
        if not all(os.stat(folder).st_mode & 1 for folder in (*folders, library)):
            descriptors.append(os.open(library, os.O_PATH))
            for paths in (sys.path, *(getattr(module, "__path__", []) for module in list(sys.modules.values()))):
                paths[:] = [path.replace(library, f"/proc/self/fd/{descriptors[-1]}") for path in paths]
    return descriptors
