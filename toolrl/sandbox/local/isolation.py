"""Linux calls that wall a worker in; run inside the zygote's descendants, standard library only.

With user namespaces a worker is process 1 of its own process namespace, and has no network; what it sees of the file
system is the business of `views`. Everywhere it has resource limits, an unprivileged
user id (where we start as root), and is hunted down with its descendants at the end. What it may read,
and which system calls it may make, is the business of `landlock` and `seccomp`.
"""

import contextlib
import ctypes
import os
import resource
import signal
import struct
import time
from collections.abc import Callable

NOBODY = 65534
NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> int:
    """Call a libc function that returns -1 for failure."""
    result = getattr(_libc, name)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), f"{name}{arguments}: {os.strerror(ctypes.get_errno())}")
    return result


def process_control(option: int, value: int) -> None:
    """prctl(2) with one argument."""
    call("prctl", option, value, 0, 0, 0)


def enter_groups(groups: list[str]) -> None:
    """Go into control groups, which are then the descendants' too, and be killed before others for want of memory."""
    for path in groups:
        with contextlib.suppress(OSError), open(f"{path}/cgroup.procs", "w") as file:  # the parent looks
            file.write("0")
    be_killed_for_memory(500)


def be_killed_for_memory(score: int, processes: int = -1) -> None:
    """Rather than what has a lower score, which nobody can take back: a process of the code before its zygote.

    Args:
        score: Up to 1000; the machine's other processes have 0.
        processes: A descriptor of /proc, if that cannot be written to any more.
    """
    with contextlib.suppress(OSError):
        write(processes, "/proc/self/oom_score_adj" if processes < 0 else "self/oom_score_adj", str(score))


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies."""
    process_control(36, 1)  # PR_SET_CHILD_SUBREAPER


def become(uid: int) -> None:
    """Give up root for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    process_control(4, 1)  # PR_SET_DUMPABLE, or /proc/self stays root's and no id map can be written


def unshare(flags: int) -> None:
    """Enter new namespaces; in a new user namespace the user keeps its ids."""
    processes = os.open("/proc", os.O_PATH)
    try:
        unshare_beside(flags, processes)
    finally:
        os.close(processes)


def unshare_beside(flags: int, processes: int) -> None:
    """The same where /proc cannot be written to: `processes` is a descriptor of one that can."""
    uid, gid = os.getuid(), os.getgid()
    call("unshare", flags)
    if flags & NEWUSER:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            write(processes, f"self/{name}", text)


def write(folder: int, name: str, text: str) -> None:
    """Write to an existing file in a folder."""
    descriptor = os.open(name, os.O_WRONLY, dir_fd=folder)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def share_namespaces(directory: str, uid: int | None) -> None:
    """Enter what all sessions share: an unprivileged user, who is given `directory`, and a network with no way out.

    The children of this process begin a process namespace; see `become_first_process`.
    """
    if uid is not None:
        os.chown(directory, uid, uid)
        become(uid)
    unshare(NEWUSER | NEWNET | NEWPID)


def become_first_process(at_its_end: Callable[[], None]) -> None:
    """Go on in a child that is process 1 of the namespace entered last: when it dies, so do all in there.

    Only a process namespace that this user namespace owns can be come back to after a fork into another.

    Args:
        at_its_end: Called in the process that stays outside.
    """
    pid = os.fork()
    if pid == 0:
        process_control(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        return
    os.closerange(0, 1 << 20)
    os.waitpid(pid, 0)
    try:
        at_its_end()
    finally:
        os._exit(0)


def fork_into_namespaces() -> int:
    """Fork as `os.fork` does; the child is process 1 of a process namespace, and has an IPC namespace."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    try:
        unshare(NEWPID | NEWIPC)
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid:
                call("setns", own, NEWPID)
    finally:
        os.close(own)
    return pid


def limit_resources(limits: dict, processes: int) -> None:
    """Set the resource limits of this process and its descendants, but for that of open files."""
    _limit(resource.RLIMIT_AS, limits["memory_mb"] << 20)
    _limit(resource.RLIMIT_FSIZE, limits["file_size_mb"] << 20)
    _limit(resource.RLIMIT_NPROC, processes)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_SIGPENDING, 256)  # counted for each user, and in user namespaces around as well


def limit_open_files() -> None:
    """Limit open files: a connected pair can hold 400 kB that no limit on memory counts."""
    _limit(resource.RLIMIT_NOFILE, 128)


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def renounce() -> None:
    """Drop every capability, never gain one again, and die with the process that forked us."""
    call("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))
    process_control(38, 1)  # PR_SET_NO_NEW_PRIVS
    process_control(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; a change of ids or capabilities would clear it


def kill(pid: int) -> None:
    """Kill a process and, unless it is ours, its process group: at one stroke, or forks would outrun us."""
    with contextlib.suppress(ProcessLookupError):
        group = os.getpgid(pid)
        if group == os.getpgrp():
            os.kill(pid, signal.SIGKILL)
        else:
            os.killpg(group, signal.SIGKILL)


def kill_children() -> None:
    """Kill all children, and the orphans that fall to us as they die, until none is left."""
    while True:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            for pid in file.read().split():
                kill(int(pid))
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.0005)
