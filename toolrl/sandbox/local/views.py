"""What a sandbox with namespaces sees of the file system: all read-only, but for one of its own. Standard library only.

That one, in memory and of limited size, is its working directory and /tmp. Mounted files and folders are layers over
nothing, so that not even a lock on them reaches the machine's.
"""

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence

from toolrl.sandbox.local.isolation import NEWNS, NEWUSER, call, unshare_beside, write

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR, _AT_FDCWD = 428, 429, 442, -100  # numbers shared by all architectures
_EMPTY_PATH, _RECURSIVE, _CLONE_TREE = 0x1000, 0x8000, 1
_READ_ONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8

HOME = "/home/user"
_MAX_HOMES = 100  # each is a mount that every session copies

Binding = tuple[str, str, list[int]]  # source, name in the working directory, device and inode of the source


def open_up(paths: Iterable[str]) -> None:
    """See files and folders although some on the way are closed to all but root: of those nothing else is seen.

    A path stays what it was, for imports as for programs that are started. Whoever enters namespaces later sees it too.
    """
    closed: dict[str, list[str]] = {}
    for path in paths:
        above = [path[:end] for end, letter in enumerate(path) if letter == "/" and end]
        first = next((folder for folder in above if not os.stat(folder).st_mode & 1), None)
        if first is not None:
            closed.setdefault(first, []).append(path)
    if closed:
        _unshare_mounts()
    for folder, inside in closed.items():
        trees = [(_tree(path), path, os.path.isdir(path)) for path in inside]
        mount("tmpfs", folder, "size=64k,mode=755")
        for tree, path, is_folder in trees:
            _make_place(path, is_folder)
            _move(tree, path)


def _unshare_mounts() -> None:
    call("unshare", NEWNS)
    # MS_REC | MS_PRIVATE: what the machine mounts later would come along, and be writable.
    call("mount", b"none", b"/", None, 0x44000, None)


def share_view(directory: str, texts: Callable[[str], Mapping[str, str]]) -> tuple[int, str | None]:
    """See all files read-only from here on, as every session will; and no terminals, which can be written to even so.

    Args:
        directory: A folder of ours.
        texts: Given where sessions work, what files of the machine are seen to hold, by path.

    Returns:
        A descriptor of /proc as it was: for `enter_private_view`, which needs to write there. And /home/user, if
        sessions can work there and need not in `directory`.
    """
    processes = os.open("/proc", os.O_PATH)
    _unshare_mounts()
    home = _share_home()
    for path, text in texts(home or directory).items():
        if os.path.isfile(path):
            ours = f"{directory}/text"
            with open(ours, "w") as file:
                file.write(text)
            _move(_tree(ours), path)
            os.unlink(ours)
    _make_read_only(_AT_FDCWD, "/", _RECURSIVE)
    if os.path.isdir("/dev/pts"):
        mount("tmpfs", "/dev/pts", "size=64k,mode=555")
    return processes, home


def _share_home() -> str | None:
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
        folders = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        trees = [_tree(f"/home/{name}") for name in folders]
        links = {entry.name: os.readlink(entry.path) for entry in entries if entry.is_symlink()}
        mount("tmpfs", "/home", f"size=64k,nr_inodes={len(entries) + 8},mode=755")
    except OSError:
        return None
    try:
        for tree, name in zip(trees, folders, strict=True):
            os.mkdir(f"/home/{name}")
            _move(tree, f"/home/{name}")
        for name, target in links.items():
            os.symlink(target, f"/home/{name}")
        os.mkdir(HOME)
    except OSError:
        call("umount2", b"/home", 2)  # MNT_DETACH
        return None
    return HOME


def enter_private_view(
    directory: str,
    limits: dict,
    bindings: list[Binding],
    processes: int,
    earlier: int | None = None,
    kept: Sequence[str] = (),
) -> int:
    """See a writable file system at `directory` and in /tmp, and no process of the host; give up privileges.

    Every session has a mount namespace of its own, for its own /proc, and a user namespace of its own, in which
    its processes are counted.

    Args:
        directory: Where the writable file system is put.
        limits: Sizes of that.
        bindings: Files and folders to be seen in `directory`, read-only.
        processes: What `share_view` has returned.
        earlier: The mount namespace of another session whose files to see; directory, limits and bindings are then
            unused.
        kept: Files and folders in /tmp that are still to be seen.

    Returns:
        A descriptor of the mount namespace. It keeps the files alive when all processes are gone.
    """
    if earlier is not None:
        call("setns", earlier, NEWNS)
    call("unshare", NEWNS)
    view = os.open("self/ns/mnt", os.O_RDONLY, dir_fd=processes)
    if earlier is None:
        _mount_files(directory, limits, bindings, kept)
    else:
        call("umount2", b"/proc", 2)  # MNT_DETACH
    try:
        mount("proc", "/proc", flags=_NOSUID | _NODEV | _NOEXEC | _READ_ONLY)
    except OSError:
        mount("tmpfs", "/proc", "size=64k,mode=555")  # a container may forbid a fresh one: then none
    unshare_beside(NEWUSER, processes)
    with contextlib.suppress(OSError):
        write(processes, "sys/user/max_user_namespaces", "0")  # no further ones, hence no capabilities in them
    return view


def _mount_files(directory: str, limits: dict, bindings: list[Binding], kept: Sequence[str]) -> None:
    """One file system of limited size, of which `directory` and /tmp are folders; and what is mounted in the first."""
    sources = [_source(source, identity) for source, _, identity in bindings]
    below = [path for path in (directory, *kept) if path.startswith("/tmp/")]
    files = limits["files"] + len(bindings) + 4 + sum(path.count("/") - 1 for path in below)  # what we make counts
    mount("tmpfs", directory, f"size={limits['disk_mb']}m,nr_inodes={files},mode=700", _NOSUID | _NODEV)
    for name in ("files", "tmp", "layer"):
        os.mkdir(f"{directory}/{name}", 0o700)
    own, temporary, *still = (_tree(path) for path in (f"{directory}/files", f"{directory}/tmp", *kept))
    trees = [_layer(*source, f"{directory}/layer") for source in sources]
    folders = {path for path in below if os.path.isdir(path)}
    if os.path.isdir("/tmp"):
        _move(temporary, "/tmp")
        for path in below:
            _make_place(path, path in folders)
        for tree, path in zip(still, kept, strict=True):
            _move(tree, path)
    _move(own, directory)
    for (tree, is_folder), (_, name, _) in zip(trees, bindings, strict=True):
        _make_place(f"{directory}/{name}", is_folder)
        _move(tree, f"{directory}/{name}")
    if os.path.isdir("/dev/shm"):
        mount("tmpfs", "/dev/shm", "size=16m,nr_inodes=1024")


def _source(path: str, identity: list[int]) -> tuple[int, str]:
    """A descriptor of a file or folder, if it is the one that the parent sees there, and its path."""
    source = os.open(path, os.O_PATH)
    found = os.stat(source)
    if [found.st_dev, found.st_ino] != identity:
        raise OSError(f"{path} was mounted when this program had opened its first sandbox already; start it again")
    return source, path


def _layer(source: int, path: str, place: str) -> tuple[int, bool]:
    """A detached, read-only mount of a file or folder, and whether it is a folder.

    It is a layer over nothing, so that locks on it are none on the files of the machine. Where that cannot be (a kernel
    without such layers, mounts inside the folder) it is the files themselves: see `lends_its_locks`.

    Args:
        source: What to mount.
        path: Of it.
        place: An empty folder, for a moment.
    """
    is_folder = stat.S_ISDIR(os.stat(source).st_mode)
    try:
        with open("/proc/self/mountinfo") as file:
            if any(line.split(" ", 5)[4].startswith(f"{path}/") for line in file):
                raise OSError(errno.EINVAL, "mounts inside")
        folder = source if is_folder else os.open(os.path.dirname(path), os.O_PATH)
        mount("overlay", place, f"lowerdir=/proc/self/fd/{folder}:{place}", _READ_ONLY | _NOSUID | _NODEV)
        tree = _tree(place if is_folder else f"{place}/{os.path.basename(path)}")
        call("umount2", place.encode(), 2)  # MNT_DETACH
        if not is_folder:
            os.close(folder)
    except OSError:
        tree = call("syscall", _OPEN_TREE, source, b"", _CLONE_TREE | _RECURSIVE | _EMPTY_PATH)
        _make_read_only(tree, "", _RECURSIVE | _EMPTY_PATH, _NODEV)
    os.close(source)
    return tree, is_folder


def lends_its_locks(directory: str, bindings: list[Binding]) -> bool:
    """Whether something mounted in a directory is the machine's own file or folder, and no layer over it."""
    return any(os.stat(f"{directory}/{name}").st_dev == identity[0] for _, name, identity in bindings)


def _tree(path: str) -> int:
    """A detached mount of a file or folder, with what is mounted in it."""
    return call("syscall", _OPEN_TREE, _AT_FDCWD, path.encode(), _CLONE_TREE | _RECURSIVE)


def _move(tree: int, target: str) -> None:
    """Mount what is detached."""
    call("syscall", _MOVE_MOUNT, tree, b"", _AT_FDCWD, target.encode(), 4)  # MOVE_MOUNT_F_EMPTY_PATH
    os.close(tree)


def _make_place(path: str, is_folder: bool) -> None:
    """Make what a folder or file can be mounted on."""
    if is_folder:
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def _make_read_only(folder: int, path: str, flags: int, more: int = 0) -> None:
    attributes = struct.pack("4Q", _READ_ONLY | _NOSUID | more, 0, 0, 0)
    call("syscall", _MOUNT_SETATTR, folder, path.encode(), flags, attributes, len(attributes))


def mount(kind: str, target: str, options: str = "", flags: int = _NOSUID | _NODEV | _NOEXEC) -> None:
    """Mount a new file system of a kind."""
    call("mount", kind.encode(), target.encode(), kind.encode(), flags, options.encode())
