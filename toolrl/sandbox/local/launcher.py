"""Starts the zygote of this process, finds its place on disk, and cleans up after the dead."""

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
from toolrl.sandbox.local.cgroups import Group, hierarchies, machine_memory
from toolrl.sandbox.local.levels import LAYERS, ActiveLayers
from toolrl.support.cleanup import remove_tree
from toolrl.support.leftovers import make_folder

# toolrl and toolrl.sandbox without their __init__, which import more than the standard library.
_PACKAGES = {"toolrl": str(Path(__file__).parents[2]), "toolrl.sandbox": str(Path(__file__).parents[1])}
START_CODE = f"""import sys, types
for name, folder in {_PACKAGES!r}.items():
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from toolrl.sandbox.local import zygote
zygote.main()"""
_START_SECONDS = 60.0
_OPEN_FILES = 16_384
_ONE_THREAD = {  # a fork would lose the others, and a process with threads may not enter namespaces
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
_NOBODY = 65_534  # with namespaces; see isolation.NOBODY
_FIRST_UID = 64_000  # without namespaces a root zygote gives each session a user id of its own
_MAX_SANDBOXES = 20_000  # of one process; then another is started
_MEMORY = "TOOLRL_SANDBOX_MEMORY_MB"
_MAX_PROCESSES = 8192  # of all sandboxes together: 16 in each of 512


def own_group() -> Group:
    """The control group for the sandboxes of this process, made if it is not there.

    Raises:
        OSError: This machine lets us make none.
        ConfigError: TOOLRL_SANDBOX_MEMORY_MB is not a number of at least 64, or is set where no group can be made.
    """
    text = os.environ.get(_MEMORY)
    if text is not None and not (text.isdigit() and int(text) >= 64):
        raise ConfigError(f"{_MEMORY}={text!r} must be the memory of all sandboxes together in MB, 64 or more")
    try:
        found = hierarchies(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
        return Group(found, int(text) << 20 if text else machine_memory(found) // 2, _MAX_PROCESSES)
    except OSError as error:
        if text is not None:
            raise ConfigError(f"{_MEMORY}={text} cannot be kept: {error}. Unset it, or see `toolrl doctor`") from error
        raise


def _allow_many_files() -> None:
    """Raise this process's soft limit: each sandbox holds eight descriptors here, and 1024 are soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, _OPEN_FILES) if hard != resource.RLIM_INFINITY else _OPEN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Zygote:
    """A warm Python process that forks the sandboxes of one parent process. Thread-safe.

    Attributes:
        active: The layers of isolation that hold in its sessions.

    Args:
        without: Names of layers that are not set up, for tests of what is left.
        packages: Whether sessions can import the packages that this process can; see `zygote.PACKAGES`.
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
        self.directory = make_folder("sandbox")
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
            raise SandboxFault(f"a sandbox could not be walled in: {hello.get('fault')}")
        if group is None:
            hello["problems"]["cgroup"] = problem
        hello["layers"]["cgroup"] = group is not None and group.has(self.process.pid)
        self.active = ActiveLayers({name: hello["layers"][name] for name in LAYERS}, hello["problems"])
        detach_in_forks(self)

    def _start(
        self, theirs: socket.socket, without: Iterable[str], packages: bool, group: Group | None
    ) -> dict[str, Any]:
        """Start the process; its first message."""
        environment = {"PYTHONHASHSEED": "0", "PATH": os.defpath, "LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "2"}
        if "LD_LIBRARY_PATH" in os.environ:  # some Pythons do not start without
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        groups = json.dumps([str(path) for path in group.paths] if group else [])
        arguments = [theirs.fileno(), self.directory, os.getpid(), ",".join(without), groups]
        if packages:
            arguments += [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
            environment |= _ONE_THREAD
        with tempfile.TemporaryFile() as errors:
            with theirs:
                self.process = subprocess.Popen(
                    [sys.executable, "-s", "-P", "-S", "-c", START_CODE, *map(str, arguments)],
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
                reason = errors.read().decode(errors="replace") or "it does not answer"
                raise SandboxFault(f"the sandbox process {sys.executable} did not start: {reason}")
        hello: dict[str, Any] = json.loads(message)
        return hello

    @property
    def alive(self) -> bool:
        """Whether it can still be asked for sessions."""
        return self._finalizer.alive and self.process.poll() is None

    @property
    def fresh(self) -> bool:
        """Whether new sandboxes should come from it: it lives, and has not been used too often."""
        return self.alive and self._directories < _MAX_SANDBOXES

    def new_directory(self) -> tuple[str, int | None]:
        """An empty working directory, and the user id it belongs to if that is not ours.

        With namespaces the worker makes it, in a file system of its own.
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
        """Ask for a worker: our ends of the socket to it and of its lifeline. Does not wait for it.

        Args:
            directory: Where it works.
            uid: Who owns the directory, if that is not ours.
            limits: What it may use.
            bindings: (source, name) pairs: what is mounted in the directory.
            files: What `plumbing.new_files` has made, and the mount namespace of an earlier worker, if it works with
                the files of that.
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
        """Forget a zygote that belongs to the process this one was forked from."""
        self._finalizer.detach()
        self._control.close()
        self.process.returncode = 0  # not ours to wait for


_as_dict = functools.lru_cache(asdict)  # of limits, which are frozen; takes longer than the rest of a request


def _stop(pid: int, control: socket.socket, process: subprocess.Popen, directory: str, group: Group | None) -> None:
    if os.getpid() != pid:
        return
    with contextlib.suppress(OSError):  # it may be dead already
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
    """The zygote of this process, one with packages and one without, started at the first call."""
    with shared_lock:
        if packages not in _shared or not _shared[packages].fresh:  # an old one lives on as long as its sandboxes
            _shared[packages] = Zygote(packages=packages)
        return _shared[packages]


def detach_in_forks(item: _Inherited) -> None:
    """Have `item.detach()` called in every forked child."""
    _inherited.add(item)


def _forget_inherited() -> None:
    global _shared, shared_lock
    _shared, shared_lock = {}, threading.Lock()
    for item in list(_inherited):
        item.detach()
    _inherited.clear()


os.register_at_fork(after_in_child=_forget_inherited)
