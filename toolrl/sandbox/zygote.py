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
from dataclasses import dataclass
from typing import Any, NoReturn

from toolrl.sandbox import isolation, plumbing, worker

WARM = """abc argparse array base64 bisect calendar cmath collections.abc contextlib copy csv dataclasses datetime
    decimal enum fractions functools hashlib heapq io itertools json math numbers operator pathlib pprint queue random
    re shutil statistics string struct subprocess tempfile textwrap threading time typing unittest uuid"""
PACKAGES = "numpy.random sympy pandas matplotlib.pyplot matplotlib.backends.backend_agg"  # those that are installed
_SESSION_NAMESPACES = isolation.NEWUSER | isolation.NEWPID | isolation.NEWIPC


def main() -> None:
    """Serve sessions until the parent closes its end or dies."""
    control, directory = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    packages = sys.argv[5:]
    sys.path += packages
    zygote = _Zygote(control, os.pidfd_open(int(sys.argv[3])), _reachable([os.path.dirname(os.__file__), *packages]))
    for name in WARM.split():
        importlib.import_module(name)
    for name in PACKAGES.split() if packages else []:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    uid = isolation.NOBODY if os.getuid() == 0 else None
    problem = _trial(directory, uid) if sys.argv[4] == "1" else "namespaces are switched off"
    zygote.namespaces = isolated = not problem
    if zygote.namespaces:
        _share_namespaces(directory, uid)
    else:
        with contextlib.suppress(OSError):
            isolation.unshare(isolation.NEWNET)  # root may do so without a user namespace
            isolated = True
    isolation.adopt_orphans()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guards are reaped by the kernel
    os.dup2(os.open(os.devnull, os.O_RDWR), 2)
    hello = {"namespaces": zygote.namespaces, "network_isolated": isolated, "problem": problem}
    control.send(json.dumps(hello).encode())
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
    namespaces: bool = False

    def serve(self) -> None:
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self.parent, select.POLLIN)
        while self.parent not in dict(poll.poll()):
            message, descriptors, _, _ = socket.recv_fds(self.control, 1 << 16, 2)
            if not message:
                return
            channel, lifeline = (socket.socket(fileno=descriptor) for descriptor in descriptors)
            try:
                if os.fork() == 0:
                    self.guard(json.loads(message), channel, lifeline)
            except OSError as error:
                plumbing.send_message(lifeline, {"fault": f"fork: {error}"})
            channel.close()
            lifeline.close()

    def guard(self, request: dict[str, Any], channel: socket.socket, lifeline: socket.socket) -> NoReturn:
        """Fork the worker, wait for its end or the parent's word, leave nothing alive, report."""
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.control.close()
            os.close(self.parent)
            outputs = os.memfd_create("stdout"), os.memfd_create("stderr")
            for output in outputs:
                fcntl.fcntl(output, fcntl.F_SETFL, os.O_APPEND)  # each run begins at 0 again
            isolation.adopt_orphans()
            if self.namespaces:
                isolation.unshare(_SESSION_NAMESPACES)
            pid = os.fork()
            if pid == 0:
                lifeline.close()
                self.work(request, channel, outputs)
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

    def work(self, request: dict[str, Any], channel: socket.socket, outputs: tuple[int, int]) -> NoReturn:
        """Shut ourselves in, then run what comes through the channel."""
        limits, uid = request["limits"], request["uid"]
        processes = limits["processes"]
        try:
            os.setsid()
            if self.namespaces:
                isolation.mount_private_view(request["directory"], request["bindings"])
                processes += 1  # the guard counts too
            os.chdir(request["directory"])
            if not self.namespaces and uid is not None:
                isolation.become(uid)
            elif not self.namespaces:
                processes = max(processes, 4096)  # all that this user runs counts: no more than a backstop
            os.environ.clear()
            os.environ.update(PATH=os.defpath, LANG="C.UTF-8", HOME=os.getcwd(), TMPDIR=os.getcwd())
            for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (outputs[0], 1), (outputs[1], 2)):
                os.dup2(descriptor, target)
            kept = sorted({0, 1, 2, channel.fileno(), *outputs, *self.libraries})
            for low, high in zip(kept, [*kept[1:], 1 << 20], strict=True):
                os.closerange(low + 1, high)
            channel.set_inheritable(False)
            for name in [name for name in sys.modules if name.startswith("toolrl")]:
                del sys.modules[name]
            isolation.limit_resources(limits, processes)
            isolation.renounce()
        except BaseException:  # noqa: BLE001  classified by the parent
            plumbing.send_message(channel, {"fault": traceback.format_exc()})
            os._exit(1)
        try:
            worker.serve(channel, outputs, limits)
        finally:
            os._exit(1)


def _share_namespaces(directory: str, uid: int | None) -> None:
    """Enter what all sessions share: an unprivileged user, and a network with no way out."""
    if uid is not None:
        os.chown(directory, uid, uid)
        isolation.become(uid)
    isolation.unshare(isolation.NEWUSER | isolation.NEWNET)


def _trial(directory: str, uid: int | None) -> str:
    """Try the namespaces in a child; what is missing, or "" if all are there."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.mkdir(f"{directory}/trial")
            _share_namespaces(directory, uid)
            isolation.unshare(_SESSION_NAMESPACES)
            if os.fork() == 0:
                isolation.mount_private_view(f"{directory}/trial", [])
            else:
                os.wait()
        except OSError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        problem = file.read()
    os.waitpid(pid, 0)
    os.rmdir(f"{directory}/trial")
    return problem


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
