"""One control group for all sandboxes of a process, which bounds their total memory and processes.

The zygote enters it once, and the sandboxes it forks are born inside. A group per sandbox would cost more than the
rest of the sandbox: moving a process takes about 10 ms, a grace period of the kernel.

Sources: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of Linux.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from toolrl.support.leftovers import abandoned, owned_name

_CONTROLLERS = ("memory", "pids")
_KIND = "sandboxes"
_GONE_SECONDS = 2.0  # how long the kernel may take to notice that a group is empty
# Files of limits, by version. The first of each must exist; not every kernel accounts for swap.
_MEMORY = {1: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"), 2: ("memory.max", "memory.swap.max")}


_users: dict[int, set[int]] = {}  # by process: a fork has a group of its own


@dataclass(frozen=True)
class Hierarchy:
    """A hierarchy of control groups.

    Attributes:
        version: Version of the kernel's interface, 1 or 2.
        controllers: Its controllers that are useful here.
        top: Its mount point.
        own: The group of this process.
    """

    version: int
    controllers: tuple[str, ...]
    top: Path
    own: Path


def hierarchies(mounts: str, groups: str) -> list[Hierarchy]:
    """The hierarchies that limit memory or processes.

    Args:
        mounts: Content of /proc/self/mountinfo.
        groups: Content of /proc/self/cgroup.
    """
    found = []
    places = {}  # by controller; version 2 has a single line without any
    for line in groups.splitlines():
        _, names, path = line.split(":", 2)
        places.update(dict.fromkeys(names.split(","), path))
    for line in mounts.splitlines():
        fields, _, kind = line.partition(" - ")
        name, _, options = kind.split(" ", 2)
        root, top = fields.split()[3:5]
        if name not in ("cgroup", "cgroup2"):
            continue
        version = 1 if name == "cgroup" else 2
        has = set(options.split(",")) if version == 1 else _words(Path(top, "cgroup.controllers"))
        controllers = tuple(name for name in _CONTROLLERS if name in has)
        own = places.get(controllers[0] if version == 1 and controllers else "")
        if controllers and own is not None:
            below = os.path.relpath(own, root)
            if not below.startswith(".."):  # else our own group is not visible here
                found.append(Hierarchy(version, controllers, Path(top), Path(os.path.normpath(f"{top}/{below}"))))
    return found


def machine_memory(found: Iterable[Hierarchy]) -> int:
    """Bytes that this process and its children may use: the machine's memory, or the limit of an enclosing group."""
    least = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for hierarchy in found:
        if "memory" in hierarchy.controllers:
            inside = hierarchy.own.relative_to(hierarchy.top).parts
            for depth in range(len(inside) + 1):
                limit = hierarchy.top.joinpath(*inside[:depth], _MEMORY[hierarchy.version][0])
                with contextlib.suppress(OSError, ValueError):  # missing at the top, or "max"
                    least = min(least, int(limit.read_text()))
    return least


class ControlGroup:
    """The control group of this process, in as many hierarchies as needed; shared by all instances.

    The last instance to leave removes it.

    Args:
        found: The hierarchies of this machine.
        memory_bytes: Limit on the total memory of its processes, including files in memory.
        processes: Limit on their number.

    Raises:
        OSError: No hierarchy allows it; says why.
    """

    def __init__(self, found: Iterable[Hierarchy], memory_bytes: int, processes: int) -> None:
        self.paths: list[Path] = []
        self._users = _users.setdefault(os.getpid(), set())
        self._users.add(id(self))
        missing, problem = set(_CONTROLLERS), "no hierarchy of control groups limits memory and processes"
        for hierarchy in found:
            if not missing.intersection(hierarchy.controllers):
                continue
            try:
                self.paths.append(_make(hierarchy))
                _limit(self.paths[-1], hierarchy, memory_bytes, processes)
            except OSError as error:
                problem = error.strerror or str(error)
                continue
            missing.difference_update(hierarchy.controllers)
        if missing:
            self.leave()
            raise OSError(problem)

    def has(self, pid: int) -> bool:
        """Whether a process is in the group."""
        return all(str(pid) in _words(path / "cgroup.procs") for path in self.paths)

    def leave(self) -> None:
        """Stop using the group."""
        self._users.discard(id(self))
        deadline = time.monotonic() + _GONE_SECONDS
        for path in self.paths:
            while not (self._users or _removed(path) or _words(path / "cgroup.procs") or time.monotonic() > deadline):
                time.sleep(0.01)


def _make(hierarchy: Hierarchy) -> Path:
    """Create a group below our own, or next to it: in version 2, groups with processes have no children."""
    places = [hierarchy.own]
    if hierarchy.version == 2:
        if hierarchy.own != hierarchy.top:
            places.append(hierarchy.own.parent)
        places = [place for place in places if os.access(place, os.W_OK)]
        if not places:
            raise OSError(errno.EACCES, f"{hierarchy.own} and its parent are not writable")
        places = [place for place in places if _passes_on(place, hierarchy.controllers)]
        if not places:
            raise OSError(errno.EBUSY, f"{hierarchy.own} has processes of its own, and its parent is not delegated")
    for place in places:
        for left in abandoned(_KIND, str(place)):
            _removed(Path(left))
    path = places[0] / owned_name(_KIND)
    path.mkdir(exist_ok=True)
    return path


def _passes_on(place: Path, controllers: Iterable[str]) -> bool:
    """Whether groups created here can be limited; enables that if possible."""
    wanted = set(controllers)
    if not wanted <= _words(place / "cgroup.subtree_control"):
        with contextlib.suppress(OSError):
            (place / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))
    return wanted <= _words(place / "cgroup.subtree_control")


def _limit(path: Path, hierarchy: Hierarchy, memory_bytes: int, processes: int) -> None:
    if "memory" in hierarchy.controllers:
        memory, swap = (path / name for name in _MEMORY[hierarchy.version])
        swap_bytes = memory_bytes if hierarchy.version == 1 else 0  # version 1: memory plus swap
        for file, limit in ((swap, swap_bytes), (memory, memory_bytes), (swap, swap_bytes)):
            with contextlib.suppress(OSError):
                file.write_text(str(limit))
        if int(memory.read_text()) > memory_bytes:
            raise OSError(f"{memory} does not accept the limit")
    if "pids" in hierarchy.controllers:
        (path / "pids.max").write_text(str(processes))


def _removed(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.rmdir()
    return not path.exists()


def _words(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()
