"""Linux calls that wall a worker in; run inside the zygote's descendants, standard library only.

With user namespaces a worker is process 1 of its own process namespace, sees a read-only file system
except for its working directory, and has no network. Everywhere it has resource limits, an unprivileged
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
HOME = "/home/user"
_MAX_HOMES = 100  # each is a mount that every session copies
NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR, _AT_FDCWD = 428, 429, 442, -100  # numbers shared by all architectures
_EMPTY_PATH, _RECURSIVE, _CLONE_TREE = 0x1000, 0x8000, 1
_READ_ONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8

Binding = tuple[str, str, list[int]]  # source, name in the working directory, device and inode of the source

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
        _write(processes, "/proc/self/oom_score_adj" if processes < 0 else "self/oom_score_adj", str(score))


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
        _unshare(flags, processes)
    finally:
        os.close(processes)


def _unshare(flags: int, processes: int) -> None:
    uid, gid = os.getuid(), os.getgid()
    call("unshare", flags)
    if flags & NEWUSER:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            _write(processes, f"self/{name}", text)


def _write(folder: int, name: str, text: str) -> None:
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


def share_view() -> int:
    """See all files read-only from here on, as every session will; and no terminals, which can be written to even so.

    Returns:
        A descriptor of /proc as it was: for `enter_private_view`, which needs to write there.
    """
    processes = os.open("/proc", os.O_PATH)
    call("unshare", NEWNS)
    # MS_REC | MS_PRIVATE: what the machine mounts later would come along, and be writable.
    call("mount", b"none", b"/", None, 0x44000, None)
    _make_read_only(_AT_FDCWD, "/", _RECURSIVE)
    if os.path.isdir("/dev/pts"):
        _mount("tmpfs", "/dev/pts", "size=64k,mode=555")
    return processes


def share_home() -> str | None:
    """Make room at /home/user, where code of notebooks looks for its files; what else is in /home stays.

    Returns:
        The folder, on which every session mounts its own, or None where the machine has such a folder, or no /home.
    """
    if not os.path.isdir("/home") or os.path.islink("/home") or os.path.lexists(HOME):
        return None
    try:
        entries = list(os.scandir("/home"))
        if len(entries) > _MAX_HOMES:
            return None
        clone = _CLONE_TREE | _RECURSIVE
        folders = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        trees = [call("syscall", _OPEN_TREE, _AT_FDCWD, f"/home/{name}".encode(), clone) for name in folders]
        links = {entry.name: os.readlink(entry.path) for entry in entries if entry.is_symlink()}
        _mount("tmpfs", "/home", f"size=64k,nr_inodes={len(entries) + 8},mode=755")
    except OSError:
        return None
    try:
        for tree, name in zip(trees, folders, strict=True):
            os.mkdir(f"/home/{name}")
            call("syscall", _MOVE_MOUNT, tree, b"", _AT_FDCWD, f"/home/{name}".encode(), 4)  # MOVE_MOUNT_F_EMPTY_PATH
            os.close(tree)
        for name, target in links.items():
            os.symlink(target, f"/home/{name}")
        os.mkdir(HOME)
        _make_read_only(_AT_FDCWD, "/home", 0)
    except OSError:
        call("umount2", b"/home", 2)  # MNT_DETACH
        return None
    return HOME


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


def enter_private_view(
    directory: str, limits: dict, bindings: list[Binding], processes: int, earlier: int | None = None
) -> int:
    """See a writable file system at `directory`, and no process of the host; give up privileges.

    Every session has a mount namespace of its own, for its own /proc, and a user namespace of its own, in which
    its processes are counted.

    Args:
        directory: Where the writable file system is put.
        limits: Sizes of that.
        bindings: Files and folders to be seen in `directory`, read-only.
        processes: What `share_view` has returned.
        earlier: The mount namespace of another session whose files to see; directory, limits and bindings are then
            unused.

    Returns:
        A descriptor of the mount namespace. It keeps the files alive when all processes are gone.
    """
    if earlier is not None:
        call("setns", earlier, NEWNS)
    call("unshare", NEWNS)
    view = os.open("self/ns/mnt", os.O_RDONLY, dir_fd=processes)
    if earlier is None:
        _mount_files(directory, limits, bindings)
    else:
        call("umount2", b"/proc", 2)  # MNT_DETACH
    try:
        _mount("proc", "/proc", flags=_NOSUID | _NODEV | _NOEXEC | _READ_ONLY)
    except OSError:
        _mount("tmpfs", "/proc", "size=64k,mode=555")  # a container may forbid a fresh one: then none
    _unshare(NEWUSER, processes)
    with contextlib.suppress(OSError):
        _write(processes, "sys/user/max_user_namespaces", "0")  # no further ones, hence no capabilities in them
    return view


def _mount_files(directory: str, limits: dict, bindings: list[Binding]) -> None:
    trees = [_tree(source, identity) for source, _, identity in bindings]
    folders = [os.path.isdir(source) for source, _, _ in bindings]
    files = limits["files"] + 1 + len(bindings)  # the folder itself counts, and what is mounted on
    _mount("tmpfs", directory, f"size={limits['disk_mb']}m,nr_inodes={files},mode=700", _NOSUID | _NODEV)
    for tree, is_folder, (_, name, _) in zip(trees, folders, bindings, strict=True):
        target = f"{directory}/{name}"
        if is_folder:
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        _make_read_only(tree, "", _RECURSIVE | _EMPTY_PATH, _NODEV)
        call("syscall", _MOVE_MOUNT, tree, b"", _AT_FDCWD, target.encode(), 4)  # MOVE_MOUNT_F_EMPTY_PATH
        os.close(tree)
    if os.path.isdir("/dev/shm"):
        _mount("tmpfs", "/dev/shm", "size=16m,nr_inodes=1024")


def _tree(source: str, identity: list[int]) -> int:
    """A detached mount of a file or folder, if it is the one that the parent sees there."""
    tree = call("syscall", _OPEN_TREE, _AT_FDCWD, source.encode(), _CLONE_TREE | _RECURSIVE)
    found = os.stat(tree)
    if [found.st_dev, found.st_ino] != identity:
        raise OSError(f"{source} was mounted when this program had opened its first sandbox already; start it again")
    return tree


def _make_read_only(folder: int, path: str, flags: int, more: int = 0) -> None:
    attributes = struct.pack("4Q", _READ_ONLY | _NOSUID | more, 0, 0, 0)
    call("syscall", _MOUNT_SETATTR, folder, path.encode(), flags, attributes, len(attributes))


def _mount(kind: str, target: str, options: str = "", flags: int = _NOSUID | _NODEV | _NOEXEC) -> None:
    call("mount", kind.encode(), target.encode(), kind.encode(), flags, options.encode())


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
