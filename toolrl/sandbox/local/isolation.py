"""Linux calls that isolate a worker; used in the zygote and its descendants, standard library only.

With user namespaces a worker is process 1 of its own process namespace and has no network; `views` decides what it
sees of the file system. In any case it has resource limits, an unprivileged user id (if we start as root), and is
killed with all its descendants at the end. `landlock` decides what it may read, `seccomp` which system calls it may
make.
"""

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import socket
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


def open_to_all(path: str) -> bool:
    """Whether every user can reach a path: all folders on the way to it, and itself."""
    folders = [path[:end] for end, letter in enumerate(path) if letter == "/" and end]
    return all(os.stat(folder).st_mode & 1 for folder in (*folders, path))


def enter_groups(groups: list[str]) -> None:
    """Enter control groups, which descendants inherit, and volunteer to be killed first when memory runs out."""
    for path in groups:
        with contextlib.suppress(OSError), open(f"{path}/cgroup.procs", "w") as file:  # the parent checks
            file.write("0")
    set_oom_score(500)


def set_oom_score(score: int, processes: int = -1) -> None:
    """Raise this process's score for the OOM killer, irrevocably: the code is killed before its zygote.

    Args:
        score: Up to 1000; other processes of the machine have 0.
        processes: A descriptor of a writable /proc, if the mounted one is read-only.
    """
    with contextlib.suppress(OSError):
        write(processes, "/proc/self/oom_score_adj" if processes < 0 else "self/oom_score_adj", str(score))


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies."""
    process_control(36, 1)  # PR_SET_CHILD_SUBREAPER


def drop_root(uid: int) -> None:
    """Become another user, irrevocably."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    process_control(4, 1)  # PR_SET_DUMPABLE, else /proc/self belongs to root and id maps cannot be written


def unshare(flags: int) -> None:
    """Enter new namespaces; in a new user namespace the user keeps its ids."""
    processes = os.open("/proc", os.O_PATH)
    try:
        unshare_with(flags, processes)
    finally:
        os.close(processes)


def unshare_with(flags: int, processes: int) -> None:
    """Like `unshare` where /proc is read-only: `processes` is a descriptor of a writable one."""
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
    """Enter what all sessions share: an unprivileged user, who gets `directory`, and a network without devices.

    The next child of this process starts a process namespace; see `become_first_process`.
    """
    if uid is not None:
        os.chown(directory, uid, uid)
        drop_root(uid)
    unshare(NEWUSER | NEWNET | NEWPID)


def own_loopback() -> None:
    """Enter a network whose only device is a loopback of its own, and switch that on."""
    call("unshare", NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        fcntl.ioctl(device, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP


def become_first_process(at_its_end: Callable[[], None]) -> None:
    """Continue in a child that is process 1 of its namespace: when it dies, the kernel kills all others in it.

    After a fork into another process namespace, one can return only to a namespace owned by this user namespace.

    Args:
        at_its_end: Called in the outer process when the child has died.
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
    """Fork like `os.fork`; the child is process 1 of a new process namespace and has a new IPC namespace."""
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


def limit_resources(limits: dict[str, int], processes: int) -> None:
    """Set the resource limits of this process and its descendants, except for open files."""
    _limit(resource.RLIMIT_AS, limits["memory_mb"] << 20)
    _limit(resource.RLIMIT_FSIZE, limits["file_size_mb"] << 20)
    _limit(resource.RLIMIT_NPROC, processes)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_SIGPENDING, 256)  # counted per user, also in enclosing user namespaces


def limit_open_files() -> None:
    """Limit open files: each connected pair can hold 400 kB that no memory limit counts."""
    _limit(resource.RLIMIT_NOFILE, 128)


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def drop_privileges() -> None:
    """Drop every capability, irrevocably, and die with the process that forked us."""
    call("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))
    process_control(38, 1)  # PR_SET_NO_NEW_PRIVS
    process_control(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, last: changing ids or capabilities clears it


def kill(pid: int) -> None:
    """Kill a process and its group, unless the group is our own: at once, since forks could outrun separate kills."""
    with contextlib.suppress(ProcessLookupError):
        group = os.getpgid(pid)
        if group == os.getpgrp():
            os.kill(pid, signal.SIGKILL)
        else:
            os.killpg(group, signal.SIGKILL)


def kill_children() -> None:
    """Kill all children, and the orphans we adopt as they die, until none is left."""
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
