"""Starts the zygote of this process, gives it a folder, and cleans up after it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from toolrl.errors import ConfigError, SandboxFault
from toolrl.sandbox.base import SandboxLimits
from toolrl.sandbox.local import isolation
from toolrl.sandbox.local.cgroups import ControlGroup, hierarchies, machine_memory
from toolrl.sandbox.local.levels import LAYERS, ActiveLayers
from toolrl.support.cleanup import remove_tree
from toolrl.support.leftovers import make_folder

# Skips the __init__ of packages, which may import more than the standard library.
START_CODE = """import sys, types
for name, folder in {packages!r}.items():
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from toolrl.sandbox.local import zygote
zygote.main()"""
_START_SECONDS = 60.0
_OPEN_FILES = 16_384
_ONE_THREAD = {  # a fork would lose other threads, and a process with threads may not enter namespaces
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
_NOBODY = 65_534  # the user id with namespaces; see isolation.NOBODY
_FIRST_UID = 64_000  # without namespaces a root zygote gives each session a user id of its own
_MAX_SANDBOXES = 20_000  # per zygote, after which a new one is started
_MEMORY = "TOOLRL_SANDBOX_MEMORY_MB"
_MAX_PROCESSES = 8192  # of all sandboxes together: 16 in each of 512


_preloaded: dict[str, str] = {}


def preload(name: str, module: str) -> None:
    """Have every later sandbox hold a module ready to import, since sending and compiling it takes longer than a run.

    Args:
        name: What code in a sandbox imports it as.
        module: An imported module of a package. It imports only the standard library, nothing with fork hooks, and
            modules of which the same is true.
    """
    _preloaded[name] = module


def _start_code() -> str:
    packages = {"toolrl": str(Path(__file__).parents[2]), "toolrl.sandbox": str(Path(__file__).parents[1])}
    for module in _preloaded.values():
        above = module.split(".")[:-1]
        for end in range(1, len(above) + 1):
            package = ".".join(above[:end])
            packages[package] = sys.modules[package].__path__[0]
    return START_CODE.format(packages=packages)


def own_group() -> ControlGroup:
    """The control group for the sandboxes of this process, created if needed.

    Raises:
        OSError: No control group can be created on this machine.
        ConfigError: TOOLRL_SANDBOX_MEMORY_MB is not an integer of at least 64, or no group can enforce it.
    """
    text = os.environ.get(_MEMORY)
    if text is not None and not (text.isdigit() and int(text) >= 64):
        raise ConfigError(f"{_MEMORY}={text!r} must be the total memory of all sandboxes in MB, at least 64")
    try:
        found = hierarchies(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
        return ControlGroup(found, int(text) << 20 if text else machine_memory(found) // 2, _MAX_PROCESSES)
    except OSError as error:
        if text is not None:
            message = f"{_MEMORY}={text} cannot be enforced: {error}. Unset it, or see `toolrl doctor`"
            raise ConfigError(message) from error
        raise


def _allow_many_files() -> None:
    """Raise this process's soft limit on open files: each sandbox needs eight descriptors here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, _OPEN_FILES) if hard != resource.RLIM_INFINITY else _OPEN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Zygote:
    """A warm Python process that forks the sandboxes of one parent process. Thread-safe.

    Attributes:
        active: The layers of isolation that hold in its sessions.
        directory: The folder of its sandboxes.
        preloaded: Modules that its sandboxes hold, by name; see `preload`.
        process: The running process.

    Args:
        without: Names of layers to leave out, for tests.
        packages: Whether sessions can import the packages of this process; see `zygote.PACKAGES`.
    """

    def __init__(self, *, without: Iterable[str] = (), packages: bool = False) -> None:
        _allow_many_files()
        without = tuple(without)
        group, problem = None, "switched off"
        if "cgroup" not in without:
            try:
                group = own_group()
            except OSError as error:
                problem = str(error)
        self.directory = make_folder("sandbox", reachable_parent())
        self.preloaded = dict(_preloaded)
        self._lock = threading.Lock()
        self._directories = 0
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            os.chmod(self.directory, 0o711)
            hello = self._start(theirs, without, packages, group)
        except BaseException:
            self._control.close()
            remove_tree(self.directory)
            if group is not None:
                group.leave()
            raise
        if "layers" not in hello:
            self.close()
            raise SandboxFault(f"a sandbox could not be isolated: {hello.get('fault')}")
        if group is None:
            hello["problems"]["cgroup"] = problem
        hello["layers"]["cgroup"] = group is not None and group.has(self.process.pid)
        self.active = ActiveLayers({name: hello["layers"][name] for name in LAYERS}, hello["problems"])
        detach_in_forks(self)

    def _start(
        self, theirs: socket.socket, without: Iterable[str], packages: bool, group: ControlGroup | None
    ) -> dict[str, Any]:
        """Start the process and return its first message."""
        environment = {"PYTHONHASHSEED": "0", "PATH": os.defpath, "LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "2"}
        if "LD_LIBRARY_PATH" in os.environ:  # some Pythons need it to start
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        lists = [json.dumps([str(path) for path in group.paths] if group else []), json.dumps(self.preloaded)]
        arguments = [theirs.fileno(), self.directory, os.getpid(), ",".join(without), *lists]
        if packages:
            arguments += [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
            environment |= _ONE_THREAD
        with tempfile.TemporaryFile() as errors:
            with theirs:
                self.process = subprocess.Popen(
                    [sys.executable, "-s", "-P", "-S", "-c", _start_code(), *map(str, arguments)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    pass_fds=[theirs.fileno()],
                    env=environment,
                    start_new_session=True,
                )
            self._finalizer = weakref.finalize(
                self, _stop, os.getpid(), self._control, self.process, self.directory, group
            )
            message = b""
            with contextlib.suppress(OSError):
                self._control.settimeout(_START_SECONDS)
                message = self._control.recv(1 << 16)
            self._control.settimeout(None)
            if not message:
                self.close()
                errors.seek(0)
                reason = errors.read().decode(errors="replace") or "no answer"
                raise SandboxFault(f"the sandbox process {sys.executable} did not start: {reason}")
        hello: dict[str, Any] = json.loads(message)
        return hello

    @property
    def alive(self) -> bool:
        """Whether it can still open sessions."""
        return self._finalizer.alive and self.process.poll() is None

    @property
    def fresh(self) -> bool:
        """Whether it should fork new sandboxes: it is alive, holds all of `preload`, and has not forked too many."""
        return self.alive and self.preloaded == _preloaded and self._directories < _MAX_SANDBOXES

    def new_directory(self) -> tuple[str, int | None]:
        """An empty working directory, and its owner's user id if that is not ours.

        With namespaces the worker creates the directory, in a file system of its own.
        """
        with self._lock:
            self._directories = number = self._directories + 1
        path = f"{self.directory}/{number}"
        if self.active.holds["namespaces"]:
            return path, _NOBODY if os.geteuid() == 0 else None
        os.mkdir(path, 0o700)
        uid = None
        if os.geteuid() == 0:
            uid = _FIRST_UID + number % 1000
            os.chown(path, uid, uid)
        return path, uid

    def open_session(
        self,
        directory: str,
        uid: int | None,
        limits: SandboxLimits,
        bindings: list[tuple[str, str]],
        files: Sequence[int],
    ) -> tuple[socket.socket, socket.socket]:
        """Request a worker, without waiting for it.

        Args:
            directory: Its working directory.
            uid: Owner of the directory, if not us.
            limits: Limits of the worker.
            bindings: (source, name) pairs of mounts in the directory.
            files: The result of `plumbing.new_files`, then the mount namespace of an earlier worker if the new one
                shares its files.

        Returns:
            Our ends of its channel and of its lifeline.
        """
        found = [os.stat(source) for source, _ in bindings]
        identified = [(*binding, [stat.st_dev, stat.st_ino]) for binding, stat in zip(bindings, found, strict=True)]
        asked = {"directory": directory, "uid": uid, "limits": _as_dict(limits), "bindings": identified}
        request = json.dumps(asked).encode()
        channel, workers = socket.socketpair()
        lifeline, theirs = socket.socketpair()
        with workers, theirs:
            try:
                with self._lock:
                    socket.send_fds(self._control, [request], [workers.fileno(), theirs.fileno(), *files])
            except OSError as error:
                channel.close()
                lifeline.close()
                raise SandboxFault(f"the sandbox process is gone: {error}") from error
        return channel, lifeline

    def close(self) -> None:
        """End the zygote and all its sessions."""
        self._finalizer()

    def detach(self) -> None:
        """Let go of a zygote that belongs to the parent of this forked process."""
        self._finalizer.detach()
        self._control.close()
        self.process.returncode = 0  # not ours to wait for


_as_dict = functools.lru_cache(asdict)  # asdict takes longer than the rest of a request, and limits are frozen


def _stop(
    pid: int, control: socket.socket, process: subprocess.Popen[bytes], directory: str, group: ControlGroup | None
) -> None:
    if os.getpid() != pid:
        return
    with contextlib.suppress(OSError):  # it may have died already
        control.shutdown(socket.SHUT_RDWR)
    control.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    remove_tree(directory)
    if group is not None:
        group.leave()


class _Inherited(Protocol):
    def detach(self) -> None: ...


_inherited: weakref.WeakSet[_Inherited] = weakref.WeakSet()
_shared: dict[bool, Zygote] = {}
shared_lock = threading.Lock()


def shared_zygote(packages: bool = False) -> Zygote:
    """The zygote of this process, one with packages and one without, started on first use."""
    with shared_lock:
        if packages not in _shared or not _shared[packages].fresh:  # an old one lives as long as its sandboxes
            _shared[packages] = Zygote(packages=packages)
        return _shared[packages]


def detach_in_forks(item: _Inherited) -> None:
    """Call `item.detach()` in every forked child."""
    _inherited.add(item)


def _forget_inherited() -> None:
    global _shared, shared_lock
    _shared, shared_lock = {}, threading.Lock()
    for item in list(_inherited):
        item.detach()
    _inherited.clear()


os.register_at_fork(after_in_child=_forget_inherited)


def reachable_parent() -> str | None:
    """Where folders of sandboxes go: with root's rights, where the unprivileged users that run the code get to as well.

    The folder of temporary files may be root's own, such as a TMPDIR below a home.
    """
    places = (tempfile.gettempdir(), *_PLACES)
    if os.geteuid() != 0 or isolation.open_to_all(os.path.realpath(places[0])):
        return None
    return next((place for place in places if os.path.isdir(place) and isolation.open_to_all(place)), None)
