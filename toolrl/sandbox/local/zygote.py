"""A warm Python process that forks sandboxes; started by `launcher.Zygote`, standard library only.

    parent ── control socket ──> zygote ──forks──> worker (the model's code)

The parent requests a session by sending two sockets: the channel to the worker, and the session's lifeline,
over which the worker's end is reported. When the parent closes the lifeline, or the worker dies, everything
left of the session is killed. With namespaces the kernel does that: the worker is process 1 of its own
process namespace, and the zygote is process 1 of an enclosing one. Without them, a guard process between
zygote and worker kills whatever the code has started.

The zygote holds a pidfd of its parent: when the parent ends, for whatever reason, so do the zygote and every
session. (The usual PR_SET_PDEATHSIG fires when the *thread* that forked ends.)
"""

import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from toolrl.sandbox.inside import execution, plumbing
from toolrl.sandbox.local import isolation, landlock, probes, seccomp, views, worker
from toolrl.support import cleanup

# Nothing that imports `threading`, whose locks every fork would replace, at a tenth of a sandbox's cost; nor hashlib,
# which loads libcrypto. Each module here makes every fork a little slower.
WARM = """abc array base64 bisect calendar collections.abc contextlib copy csv dataclasses datetime decimal enum
    fractions functools heapq io itertools json math numbers operator pathlib pprint random re statistics string struct
    textwrap time typing"""
PACKAGES = "numpy.random sympy pandas matplotlib.pyplot matplotlib.backends.backend_agg"  # as far as they are installed
_DESCRIPTORS = plumbing.framed(b"{}")
_USER = "user"
_READY = plumbing.framed(b'{"ready": true}')
REHEARSAL_LIMITS = {
    "memory_mb": 512,
    "processes": 8,
    "file_size_mb": 1,
    "disk_mb": 1,
    "files": 8,
    "output_characters": 80,
    "display_mb": 1,
    "loopback": False,
}


def main() -> None:
    """Serve sessions until the parent closes its end or dies."""
    control, directory = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    groups, preloaded, packages = json.loads(sys.argv[5]), json.loads(sys.argv[6]), sys.argv[7:]
    isolation.enter_groups(groups)
    sys.path += packages
    readable = landlock.open_readable(packages)
    zygote = _Zygote(control, os.pidfd_open(int(sys.argv[3])), os.getuid(), readable)
    _import_random()
    for name in WARM.split():
        importlib.import_module(name)
    for name in PACKAGES.split() if packages else []:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name, module in preloaded.items():
        sys.modules[name] = importlib.import_module(module)
    uid = isolation.NOBODY if os.getuid() == 0 else None
    zygote.problems = probes.find_problems(directory, uid, sys.argv[4].split(","))
    libraries = [os.path.dirname(os.__file__), *packages]
    if zygote.namespaces:
        python = _without_nested({*libraries, sys.base_prefix, sys.base_exec_prefix, *landlock.interpreter()})
        if uid is not None:
            views.open_up(python)
        zygote.kept = [path for path in python if path.startswith("/tmp/")]
        isolation.share_namespaces(directory, uid)
        isolation.become_first_process(lambda: cleanup.remove_tree(directory))
        zygote.processes, zygote.home = views.share_view(directory, _user_files)
        readable += [(os.open(path, os.O_PATH), landlock.READ_FILE) for path in _user_files("") if os.path.exists(path)]
    else:
        zygote.libraries = _reachable(libraries)
    if not zygote.namespaces and "network" not in zygote.problems:
        isolation.unshare(isolation.NEWNET)
    if "seccomp" not in zygote.problems:
        # Only namespaces protect files outside of the sandbox from chmod and the like.
        zygote.filter = seccomp.program(os.uname().machine, attributes=zygote.namespaces)
    if not zygote.namespaces:
        isolation.adopt_orphans()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guards are reaped by the kernel
    zygote.prepare()
    try:
        if zygote.rehearse(f"{directory}/rehearsal", uid):
            os.dup2(os.open(os.devnull, os.O_RDWR), 2)
            gc.collect()
            gc.freeze()
            zygote.serve()
    finally:
        if not zygote.namespaces:  # else they die with us, and the outer process removes the folder
            isolation.kill_children()
            cleanup.remove_tree(directory)


def _import_random() -> None:
    """Import random without reseeding it in every fork: workers start from a fixed seed anyway."""
    register, os.register_at_fork = os.register_at_fork, lambda **callbacks: None
    try:
        importlib.import_module("random")
    finally:
        os.register_at_fork = register


@dataclass
class _Zygote:
    control: socket.socket
    parent: int  # a pidfd
    trainer: int  # user id of the parent
    readable: list[tuple[int, int]]  # for Landlock
    libraries: list[int] = field(default_factory=list)  # descriptors of folders to import from
    kept: list[str] = field(default_factory=list)  # paths in the machine's /tmp that Python needs
    problems: dict[str, str] = field(default_factory=dict)  # layers that cannot be set up
    filter: bytes = b""  # for seccomp
    processes: int = -1  # a descriptor of /proc, with namespaces
    home: str | None = None  # where sessions mount their files, if not in the parent's folder
    runner: execution.Runner = field(init=False)
    holds: dict[str, bool] | None = None  # layers seen to hold in a worker; None before the rehearsal

    def __post_init__(self) -> None:
        self._poll = select.poll()
        self._poll.register(self.control, select.POLLIN)
        self._poll.register(self.parent, select.POLLIN)
        self._ends: dict[int, _Session] = {}  # by pidfd and by lifeline

    @property
    def namespaces(self) -> bool:
        """Whether every worker gets namespaces of its own."""
        return "namespaces" not in self.problems

    def prepare(self) -> None:
        """Do once what every worker would otherwise do itself, copying the memory it touches."""
        if self.filter and "selectors" in sys.modules:  # it chose epoll on import, which the filter denies
            sys.modules["selectors"].DefaultSelector = sys.modules["selectors"].PollSelector  # type: ignore[attr-defined]
        self.runner = worker.prepare()
        os.environ.clear()
        sys.executable = _interpreter(self.namespaces)
        path = f"{os.path.dirname(sys.executable)}:{os.defpath}"
        os.environ.update(PATH=path, LANG="C.UTF-8", USER=_USER, GIT_CONFIG_NOSYSTEM="1")
        for name in [name for name in sys.modules if name.startswith("toolrl")]:
            del sys.modules[name]

    def rehearse(self, directory: str, uid: int | None) -> bool:
        """Start a worker to test which layers hold, and tell the parent; False if the parent is already gone."""
        if not self.namespaces:
            os.mkdir(directory)
            if uid is not None:
                os.chown(directory, uid, uid)
        ours, workers = socket.socketpair()
        lifeline, theirs = socket.socketpair()
        with ours, lifeline, ours.makefile("rb") as reader:
            files = plumbing.new_files()
            with workers:
                asked: dict[str, Any] = {"directory": directory, "uid": uid, "limits": REHEARSAL_LIMITS, "bindings": []}
                self.start(asked, workers, theirs, files)
            for file in files:
                os.close(file)
            hello: dict[str, Any] = {}
            while not hello:  # the first message carries descriptors and is empty
                hello = json.loads(reader.read(*plumbing.HEADER.unpack(reader.read(plumbing.HEADER.size))))
            lifeline.shutdown(socket.SHUT_WR)
            while self._ends:
                if not self.attend():
                    return False
            lifeline.recv(1)  # until the guard is done
        if not self.namespaces:
            cleanup.remove_tree(directory)
        self.control.send(json.dumps({**hello, "problems": self.problems}).encode())
        self.holds = hello.get("layers")
        return True

    def serve(self) -> None:
        """Start and end sessions until the parent closes its end or dies."""
        while self.attend():
            pass

    def attend(self) -> bool:
        """Wait for events and handle them; False if the parent is gone."""
        # In order of registration: a descriptor opened for `control` cannot be one that has an event in this round.
        for descriptor, _ in self._poll.poll():
            if descriptor == self.parent:
                return False
            if descriptor == self.control.fileno():
                if not self._open():
                    return False
            elif descriptor in self._ends:
                session = self._ends[descriptor]
                if descriptor == session.process:
                    self._bury(session)
                else:  # the parent ends the session; its pidfd becomes ready next
                    self._poll.unregister(descriptor)
                    signal.pidfd_send_signal(session.process, signal.SIGKILL)
        return True

    def _open(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self.control, 1 << 16, 6)
        if not message:
            return False
        channel, lifeline = (socket.socket(fileno=descriptor) for descriptor in descriptors[:2])
        with channel:
            try:
                self.start(json.loads(message), channel, lifeline, descriptors[2:])
            except (OSError, ValueError) as error:
                plumbing.send_message(lifeline, {"fault": f"fork: {error}"})
                lifeline.close()
        for descriptor in descriptors[2:]:
            os.close(descriptor)
        return True

    def start(
        self, request: dict[str, Any], channel: socket.socket, lifeline: socket.socket, files: Sequence[int]
    ) -> None:
        """Fork a worker, behind a guard if there are no namespaces.

        Args:
            request: Working directory, its owner, limits, mounts.
            channel: The worker's end of the channel.
            lifeline: The session ends when the other end closes; closed here then.
            files: The result of `plumbing.new_files`, then the mount namespace of another session, alive or dead,
                if this one shares its files.
        """
        if not self.namespaces:
            if os.fork() == 0:
                self.guard(request, channel, lifeline, files)
            lifeline.close()
            return
        pid = isolation.fork_into_namespaces()
        if pid == 0:
            lifeline.close()
            self.work(request, channel, files)
        try:
            session = _Session(lifeline, pid, os.pidfd_open(pid))
        except OSError:  # without a pidfd nobody would end it
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self._ends |= {session.process: session, lifeline.fileno(): session}
        for descriptor in (session.process, lifeline.fileno()):
            self._poll.register(descriptor, select.POLLIN)

    def _bury(self, session: "_Session") -> None:
        """Report to the parent that a worker, and with it everything in its namespace, is dead."""
        limits = [resource.prlimit(pid, resource.RLIMIT_CPU) for pid in (session.pid, 0)]
        lowered = limits[0][1] != limits[1][1]
        _, status, usage = os.wait4(session.pid, 0)
        for descriptor in (session.process, session.lifeline.fileno()):
            del self._ends[descriptor]
            with contextlib.suppress(KeyError):
                self._poll.unregister(descriptor)
        os.close(session.process)
        with session.lifeline, contextlib.suppress(OSError):  # the parent may have stopped listening
            report = {"status": os.waitstatus_to_exitcode(status), "lowered_its_limit": lowered}
            report["grown_kb"] = usage.ru_maxrss - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            plumbing.send_message(session.lifeline, report)

    def guard(
        self, request: dict[str, Any], channel: socket.socket, lifeline: socket.socket, files: Sequence[int]
    ) -> NoReturn:
        """Fork the worker, wait until it dies or the parent ends the session, kill everything, report."""
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.control.close()
            os.close(self.parent)
            isolation.adopt_orphans()
            pid = os.fork()
            if pid == 0:
                lifeline.close()
                self.work(request, channel, files)
            channel.close()
            poll = select.poll()
            poll.register(lifeline, select.POLLIN)
            poll.register(os.pidfd_open(pid), select.POLLIN)
            poll.poll()
            isolation.kill(pid)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            isolation.kill_children()
            plumbing.send_message(lifeline, {"status": status})
        except BaseException:  # noqa: BLE001  classified by the parent
            plumbing.send_message(lifeline, {"fault": traceback.format_exc()})
        finally:
            os._exit(0)

    def work(self, request: dict[str, Any], channel: socket.socket, files: Sequence[int]) -> NoReturn:
        """Isolate this process, then serve the channel."""
        *outputs, interrupts = files[:3]
        limits, uid, directory, bindings = (request[key] for key in ("limits", "uid", "directory", "bindings"))
        processes = limits["processes"]
        try:
            os.setsid()
            isolation.set_oom_score(1000, self.processes)
            ours = [os.pidfd_open(os.getpid())]  # for the parent: this process, its mount namespace and directory
            if self.namespaces:
                directory = self.home or os.path.dirname(directory)  # the same path for all, with separate mounts
                earlier = files[3] if files[3:] else None
                if limits["loopback"]:
                    isolation.own_loopback()
                made = views.enter_private_view(directory, limits, bindings, self.processes, earlier, self.kept)
                if earlier is None:
                    ours += [made, os.open(directory, os.O_RDONLY)]
            os.chdir(directory)
            if not self.namespaces and uid is not None:
                isolation.drop_root(uid)
            elif not self.namespaces:
                processes = max(processes, 4096)  # counts everything this user runs: only a backstop
            os.environ["HOME"] = os.environ["TMPDIR"] = os.getcwd()
            for descriptor, standard in ((os.open(os.devnull, os.O_RDONLY), 0), (outputs[0], 1), (outputs[1], 2)):
                os.dup2(descriptor, standard)
            isolation.limit_resources(limits, processes)
            isolation.drop_privileges()
            if "landlock" not in self.problems:
                own = views.own_folders(directory, bindings) if self.namespaces else [directory]
                processes_directory = "/proc" if self.namespaces else "/proc/self"
                rules = [(processes_directory, landlock.READ), *((path, landlock.OWN) for path in own)]
                landlock.restrict(self.readable, rules, network=limits["loopback"])
            kept = sorted({0, 1, 2, channel.fileno(), *outputs, interrupts, *ours, *self.libraries})
            for low, high in zip(kept, [*kept[1:], 1 << 20], strict=True):
                if high - low > 1:
                    os.closerange(low + 1, high)
            channel.set_inheritable(False)
            # Before limiting open files: until a sandbox's first use its descriptors are in flight, which counts.
            socket.send_fds(channel, [_DESCRIPTORS], ours)
            for descriptor in ours:
                os.close(descriptor)
            if "seccomp" not in self.problems:
                exposed = self.namespaces and views.exposes_locks(directory, bindings)
                options = {"attributes": True, "locks": not exposed, "sockets": limits["loopback"]}
                usual = not exposed and not limits["loopback"]
                seccomp.install(self.filter if usual else seccomp.program(os.uname().machine, **options))
            layers = probes.active_layers(self.trainer, loopback=limits["loopback"])
            if self.holds not in (None, layers):
                raise OSError(f"the layers of isolation have changed: {self.holds} before, {layers} now")
            hello = _READY if self.holds else plumbing.framed(json.dumps({"ready": True, "layers": layers}).encode())
            channel.sendall(hello)
            isolation.limit_open_files()
        except BaseException:  # noqa: BLE001  classified by the parent
            plumbing.send_message(channel, {"fault": traceback.format_exc()})
            os._exit(1)
        try:
            worker.serve(self.runner, channel, outputs, interrupts, limits)
        finally:
            os._exit(1)


@dataclass(frozen=True)
class _Session:
    """A worker without a guard."""

    lifeline: socket.socket
    pid: int
    process: int  # a pidfd


def _without_nested(paths: set[str]) -> list[str]:
    """The paths that are not inside another one, shortest first."""
    return sorted((path for path in paths if not any(path.startswith(f"{other}/") for other in paths)), key=len)


def _user_files(home: str) -> dict[str, str]:
    """Contents of /etc/passwd and /etc/group that name only our users."""
    ids, others = f"{os.getuid()}:{os.getgid()}", "nobody:x:65534:"
    return {
        "/etc/passwd": f"{_USER}:x:{ids}::{home}:/bin/sh\nroot:x:0:0::/:/bin/sh\n{others}65534::/:/bin/sh\n",
        "/etc/group": f"{_USER}:x:{os.getgid()}:\nroot:x:0:\n{others}\n",
    }


def _interpreter(namespaces: bool) -> str:
    """The Python that programs start: ours, unless only root can access it."""
    paths = [sys.executable, os.path.realpath(sys.executable)]
    if namespaces or os.getuid() != 0 or all(map(isolation.open_to_all, paths)):
        return sys.executable
    return next(
        (path for path in ("/usr/local/bin/python3", "/usr/bin/python3") if os.path.exists(path)), sys.executable
    )


def _reachable(libraries: list[str]) -> list[int]:
    """Descriptors of library folders that only root can access; imports go through them from here on."""
    if os.getuid() != 0:
        return []
    descriptors = []
    for library in libraries:
        if not isolation.open_to_all(library):
            descriptors.append(os.open(library, os.O_PATH))
            for paths in (sys.path, *(getattr(module, "__path__", []) for module in list(sys.modules.values()))):
                paths[:] = [path.replace(library, f"/proc/self/fd/{descriptors[-1]}") for path in paths]
    return descriptors
