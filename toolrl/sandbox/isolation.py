"""Linux calls that wall a worker in; run inside the zygote's descendants, standard library only.

With user namespaces a worker is process 1 of its own process namespace, sees a read-only file system
except for its working directory, and has no network. Without them only resource limits, an
unprivileged user id (where we start as root) and the hunt for descendants remain.

Not covered here: reading files that the user id may read, Unix sockets in the file system, and the
kernel's system calls as such.
"""

import contextlib
import ctypes
import os
import resource
import signal
import struct
import time

NOBODY = 65534
NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR, _AT_FDCWD = 428, 429, 442, -100  # numbers shared by all architectures
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8

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
    uid, gid = os.getuid(), os.getgid()
    call("unshare", flags)
    if flags & NEWUSER:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def mount_private_view(directory: str, bindings: list[tuple[str, str]]) -> None:
    """Make all files read-only but `directory`, hide its siblings and the processes of the host.

    Bindings are (source, name in `directory`) pairs, for files and folders to be seen there, read-only.
    """
    call("unshare", NEWNS)
    tree = call("syscall", _OPEN_TREE, _AT_FDCWD, directory.encode(), 1)  # OPEN_TREE_CLONE: still writable
    attributes = struct.pack("4Q", 1 | _NOSUID, 0, 0, 0)  # MOUNT_ATTR_RDONLY
    call("syscall", _MOUNT_SETATTR, _AT_FDCWD, b"/", 0x8000, attributes, len(attributes))  # AT_RECURSIVE
    bound = [call("syscall", _OPEN_TREE, _AT_FDCWD, source.encode(), 0x8001) for source, _ in bindings]  # AT_RECURSIVE
    _mount("tmpfs", os.path.dirname(directory), "size=64k,mode=711")
    os.mkdir(directory)
    targets = [directory, *(f"{directory}/{name}" for _, name in bindings)]
    for descriptor, target in zip((tree, *bound), targets, strict=True):
        call("syscall", _MOVE_MOUNT, descriptor, b"", _AT_FDCWD, target.encode(), 4)  # MOVE_MOUNT_F_EMPTY_PATH
        os.close(descriptor)
    if os.path.isdir("/dev/shm"):
        _mount("tmpfs", "/dev/shm", "size=16m")
    try:
        _mount("proc", "/proc")
    except OSError:
        _mount("tmpfs", "/proc", "size=64k,mode=555")  # a container may forbid a fresh one: then none
    with contextlib.suppress(OSError), open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")  # no further user namespaces, hence no capabilities in them


def _mount(kind: str, target: str, options: str = "") -> None:
    call("mount", kind.encode(), target.encode(), kind.encode(), _NOSUID | _NODEV | _NOEXEC, options.encode())


def limit_resources(limits: dict, processes: int) -> None:
    """Set the resource limits of this process and its descendants."""
    for which, value in (
        (resource.RLIMIT_AS, limits["memory_mb"] << 20),
        (resource.RLIMIT_FSIZE, limits["file_size_mb"] << 20),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def renounce() -> None:
    """Drop every capability, never gain one again, and die with the guard."""
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
