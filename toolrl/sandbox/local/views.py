"""The file system as a sandbox with namespaces sees it; standard library only.

Everything is read-only except for a file system of its own, in memory and of limited size, which holds its working
directory and /tmp. Mounts are overlays over an empty folder, so that not even a lock on them reaches the machine's
files.
"""

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence

from toolrl.sandbox.local.isolation import NEWNS, NEWUSER, call, unshare_with, write

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR, _AT_FDCWD = 428, 429, 442, -100  # numbers shared by all architectures
_EMPTY_PATH, _RECURSIVE, _CLONE_TREE = 0x1000, 0x8000, 1
_READ_ONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8

HOME = "/home/user"
_MAX_HOMES = 100  # each is a mount, which every session copies

# Source, name in the working directory, device and inode of the source. After a "/", the name is that of a folder which
# the root has in common with the working directory.
Binding = tuple[str, str, list[int]]


def open_up(paths: Iterable[str]) -> None:
    """Make paths accessible although a parent folder is accessible to root only; its other content is hidden.

    The paths stay the same, for imports and for starting programs, also in namespaces entered later.
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
            _make_mount_point(path, is_folder)
            _move(tree, path)


def _unshare_mounts() -> None:
    call("unshare", NEWNS)
    # MS_REC | MS_PRIVATE: else later mounts of the machine would propagate here, writable.
    call("mount", b"none", b"/", None, 0x44000, None)


def share_view(directory: str, texts: Callable[[str], Mapping[str, str]]) -> tuple[int, str | None]:
    """Make all files read-only for this process and its sessions, and hide terminals, which stay writable.

    Args:
        directory: The folder of this zygote.
        texts: Maps the home folder of sessions to the new contents of system files, by path.

    Returns:
        A descriptor of the writable /proc, for `enter_private_view`; and /home/user if sessions can work there
        instead of in `directory`.
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
    """Create /home/user, where notebook code expects its files, and keep the rest of /home.

    Returns:
        The folder, over which every session mounts its own; None if the machine has that folder or lacks /home.
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
    limits: dict[str, int],
    bindings: list[Binding],
    processes: int,
    earlier: int | None = None,
    kept: Sequence[str] = (),
) -> int:
    """Mount a writable file system at `directory` and /tmp, hide the host's processes, and give up privileges.

    Every session has its own mount namespace, for its own /proc, and its own user namespace, in which its
    processes are counted.

    Args:
        directory: Mount point of the writable file system.
        limits: Its size limits.
        bindings: Files and folders to mount in `directory`, read-only.
        processes: The descriptor returned by `share_view`.
        earlier: The mount namespace of another session, to share its files; directory, limits and bindings are
            then unused.
        kept: Files and folders in /tmp that stay visible.

    Returns:
        A descriptor of the mount namespace, which keeps the files alive when all processes are gone.
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
        mount("tmpfs", "/proc", "size=64k,mode=555")  # a container may forbid mounting /proc: then there is none
    unshare_with(NEWUSER, processes)
    with contextlib.suppress(OSError):
        write(processes, "sys/user/max_user_namespaces", "0")  # no nested ones, hence no capabilities in them
    return view


def _mount_files(directory: str, limits: dict[str, int], bindings: list[Binding], kept: Sequence[str]) -> None:
    """Mount one file system of limited size, at `directory` and /tmp, and the bindings in `directory`."""
    in_root = _in_root(bindings)
    bindings = [binding for binding in bindings if not binding[1].startswith("/")]
    sources = [_source(source, identity) for source, _, identity in bindings]
    below = [path for path in (directory, *kept) if path.startswith("/tmp/")]
    files = (
        limits["files"] + len(bindings) + len(in_root) + 4 + sum(path.count("/") - 1 for path in below)
    )  # our own files count
    mount("tmpfs", directory, f"size={limits['disk_mb']}m,nr_inodes={files},mode=700", _NOSUID | _NODEV)
    for name in ("files", "tmp", "layer"):
        os.mkdir(f"{directory}/{name}", 0o700)
    own, temporary, *still = (_tree(path) for path in (f"{directory}/files", f"{directory}/tmp", *kept))
    trees = [_layer(*source, f"{directory}/layer") for source in sources]
    folders = {path for path in below if os.path.isdir(path)}
    if os.path.isdir("/tmp"):
        _move(temporary, "/tmp")
        for path in below:
            _make_mount_point(path, path in folders)
        for tree, path in zip(still, kept, strict=True):
            _move(tree, path)
    _move(own, directory)
    for (tree, is_folder), (_, name, _) in zip(trees, bindings, strict=True):
        _make_mount_point(f"{directory}/{name}", is_folder)
        _move(tree, f"{directory}/{name}")
    if os.path.isdir("/dev/shm"):
        mount("tmpfs", "/dev/shm", "size=16m,nr_inodes=1024")
    if in_root:
        _extend_root(directory, in_root)


def _extend_root(directory: str, names: Iterable[str]) -> None:
    """Enter a root with the same content and further folders, which are those of the same names in `directory`."""
    place = f"{directory}/.root"
    os.mkdir(place)
    mount("tmpfs", place, "size=64k,mode=755")
    call("mount", None, place.encode(), None, 1 << 17, None)  # MS_UNBINDABLE: copies of other mounts leave it out
    for entry in os.scandir("/"):
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), f"{place}{entry.path}")
        else:
            tree = _tree(entry.path)
            _make_mount_point(f"{place}{entry.path}", entry.is_dir())
            _move(tree, f"{place}{entry.path}")
    for name in names:
        if not os.path.isdir(f"{directory}{name}"):  # else it is a mount
            os.mkdir(f"{directory}{name}", 0o755)
        os.mkdir(f"{place}{name}")
        _move(_tree(f"{directory}{name}"), f"{place}{name}")
    _make_read_only(_AT_FDCWD, place, 0)
    os.chdir(place)
    call("pivot_root", b".", b".")
    call("umount2", b".", 2)  # MNT_DETACH: the old root
    os.chdir("/")
    os.rmdir(place)


def _source(path: str, identity: list[int]) -> tuple[int, str]:
    """Open a file or folder and return it with its path; raise unless it is the one that the parent sees there."""
    source = os.open(path, os.O_PATH)
    found = os.stat(source)
    if [found.st_dev, found.st_ino] != identity:
        raise OSError(f"{path} was mounted after this program had opened its first sandbox; restart the program")
    return source, path


def _layer(source: int, path: str, place: str) -> tuple[int, bool]:
    """Create a detached, read-only mount of a file or folder; return it and whether it is a folder.

    It is an overlay, so that locks on it do not lock the machine's files. Where that is impossible (no overlays in
    the kernel, mounts inside the folder) the files themselves are mounted: see `exposes_locks`. So is a socket, which
    nobody answers behind an overlay.

    Args:
        source: A descriptor of the file or folder.
        path: Its path.
        place: An empty folder, used temporarily.
    """
    mode = os.stat(source).st_mode
    is_folder = stat.S_ISDIR(mode)
    try:
        if stat.S_ISSOCK(mode):
            raise OSError(errno.EINVAL, "a socket")
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


def own_folders(directory: str, bindings: list[Binding]) -> list[str]:
    """The folders that a session may write to."""
    return [directory, *_in_root(bindings), *(path for path in ("/tmp", "/dev/shm") if os.path.isdir(path))]


def _in_root(bindings: list[Binding]) -> list[str]:
    return [name for _, name, _ in bindings if name.startswith("/")]


def exposes_locks(directory: str, bindings: list[Binding]) -> bool:
    """Whether a mount in a directory is the machine's own file or folder instead of an overlay."""
    mounts = [(os.stat(f"{directory}/{name}"), device) for _, name, (device, _) in bindings if not name.startswith("/")]
    return any(found.st_dev == device and not stat.S_ISSOCK(found.st_mode) for found, device in mounts)


def _tree(path: str) -> int:
    """A detached copy of the mount of a file or folder, including mounts inside it."""
    return call("syscall", _OPEN_TREE, _AT_FDCWD, path.encode(), _CLONE_TREE | _RECURSIVE)


def _move(tree: int, target: str) -> None:
    """Attach a detached mount."""
    call("syscall", _MOVE_MOUNT, tree, b"", _AT_FDCWD, target.encode(), 4)  # MOVE_MOUNT_F_EMPTY_PATH
    os.close(tree)


def _make_mount_point(path: str, is_folder: bool) -> None:
    """Create a mount point for a folder or file."""
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
