"""The files of a local sandbox: accessed from outside while code may be changing them, and mounts.

No link is followed. A mount is bound read-only where namespaces allow it, otherwise copied; the original is out of the
code's reach in both cases. A copy cannot be written to, but the code owns the directory and can replace it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import BinaryIO

from toolrl.errors import SandboxFault
from toolrl.sandbox.base import Mount, parts_of

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# Failures of this machine. The code can cause all others by changing its files while we access them.
_MACHINE_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EBADF, errno.ENODEV, errno.EROFS}
_DEEPEST = 1500  # nested folders that are listed: each takes two descriptors


class Files:
    """Reads, writes and lists the files in a working directory, except for mounts.

    Args:
        open_directory: Opens a descriptor of the directory.
        uid: Owner of the files, if not us.
        mounts: The mounts in the directory.
        own_space: Whether the directory has a file system of its own, which only the sandbox's code can fill.
    """

    def __init__(
        self, open_directory: Callable[[], int], uid: int | None, mounts: tuple[Mount, ...], own_space: bool
    ) -> None:
        self._open_directory, self._uid, self._mounts = open_directory, uid, mounts
        self._machine_errors = _MACHINE_ERRORS | (set() if own_space else {errno.ENOSPC})

    def write(self, path: str, content: bytes) -> None:
        """See `Sandbox.write_file`."""
        with self.classified(), self.folder_of(path, create=True) as (folder, name):
            with contextlib.suppress(FileNotFoundError):
                _refuse_link(name, folder, path)
                _refuse_others(os.lstat(name, dir_fd=folder), path)
                os.unlink(name, dir_fd=folder)
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder)
            try:
                with open(descriptor, "wb") as file:
                    file.write(content)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)
                raise

    def read(self, path: str) -> bytes:
        """See `Sandbox.read_file`."""
        with self.opened(path) as file, self.classified():
            return file.read()

    def opened(self, path: str) -> BinaryIO:
        """Open a regular file for reading; raises what `Sandbox.read_file` does."""
        with self.classified(), self.folder_of(path) as (folder, name):
            _refuse_others(os.lstat(name, dir_fd=folder), path)
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            try:
                _refuse_others(os.fstat(descriptor), path)  # it may have been replaced
            except BaseException:
                os.close(descriptor)
                raise
            return open(descriptor, "rb")

    def listing(self) -> list[str]:
        """See `Sandbox.list_files`."""
        found = []
        skipped = {mount.target for mount in self._mounts}
        with self.classified(), self.top() as top:
            walk = [_entries(top, "", skipped)]  # iterative: code can nest folders deeper than the stack
            while walk:
                path, below = next(walk[-1], ("", None))
                if below is not None and len(walk) < _DEEPEST:
                    walk.append(_entries(below, f"{path}/"))
                elif path and below is None:
                    found.append(path)
                elif not path:
                    walk.pop()
        return sorted(found)

    @contextlib.contextmanager
    def classified(self) -> Iterator[None]:
        """Turn an error that the code cannot have caused into a fault."""
        try:
            yield
        except OSError as error:
            if error.errno in self._machine_errors:
                raise SandboxFault(f"a sandbox's files are inaccessible: {error}") from error
            raise

    @contextlib.contextmanager
    def top(self) -> Iterator[int]:
        """A descriptor of the working directory; until it is closed, files are accessed as their owner."""
        folder = self._open_directory()
        try:
            with _files_belong_to(self._uid):
                yield folder
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def folder_of(self, path: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """A descriptor of the parent folder of `path`, reached without following links, and the last name."""
        parts = parts_of(path, self._mounts)
        with self.top() as folder, contextlib.ExitStack() as descriptors:
            for part in parts[:-1]:
                try:
                    _refuse_link(part, folder, path)
                except FileNotFoundError:
                    if not create:
                        raise
                    os.mkdir(part, 0o755, dir_fd=folder)
                folder = os.open(part, _FOLDER, dir_fd=folder)
                descriptors.callback(os.close, folder)
            yield folder, parts[-1]


def _entries(folder: int, prefix: str, skipped: Set[str] = frozenset()) -> Iterator[tuple[str, int | None]]:
    """The paths of a folder's regular files, and of its folders with a descriptor that is closed afterwards."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name in skipped:
                continue
            if entry.is_file(follow_symlinks=False):
                yield f"{prefix}{entry.name}", None
            elif entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                    below = os.open(entry.name, _FOLDER, dir_fd=folder)
                    try:
                        yield f"{prefix}{entry.name}", below
                    finally:
                        os.close(below)


def _refuse_others(found: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path!r} is not a regular file of the sandbox")


def _refuse_link(name: str, folder: int, path: str) -> None:
    if stat.S_ISLNK(os.lstat(name, dir_fd=folder).st_mode):
        raise ValueError(f"{path!r} goes through the symbolic link {name!r}")


@contextlib.contextmanager
def _files_belong_to(uid: int | None) -> Iterator[None]:
    """Access files as another user, in this thread only: root has no id in the file system of a user namespace."""
    if uid is None:
        yield
        return
    libc = ctypes.CDLL(None)
    libc.setfsgid(uid)
    libc.setfsuid(uid)
    try:
        yield
    finally:
        libc.setfsuid(os.geteuid())
        libc.setfsgid(os.getegid())


class PreparedMounts:
    """Prepares the mounts of one sandbox.

    Args:
        mounts: The requested mounts.
        directory: The sandbox's working directory.
        uid: The user that the code runs as, if not us.
        bind: Whether workers can bind mounts; if not, the working directory gets copies.

    Attributes:
        bindings: (source, target) pairs for the workers.
        copies: A folder of copies next to the working directory, created if needed.
    """

    def __init__(self, mounts: tuple[Mount, ...], directory: str, uid: int | None, bind: bool) -> None:
        self.bindings: list[tuple[str, str]] = []
        self.copies = Path(f"{directory}-mounts")
        for mount in mounts:
            if not bind:
                _copy(mount.source, Path(directory, mount.target))
                continue
            source = mount.source.resolve()
            if uid is not None and not _all_may_read(source):
                self.copies.mkdir(0o755, exist_ok=True)
                source = _copy(source, self.copies / mount.target)
            self.bindings.append((str(source), mount.target))


def _copy(source: Path, target: Path) -> Path:
    """Make a copy that everyone can read and nobody can write.

    Links are copied as links, since their targets were not requested; devices and named pipes are skipped.
    """
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=_special_files)
    else:
        shutil.copyfile(source, target)
    for path in (target, *_below(target)):
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() or path.stat().st_mode & 0o111 else 0o444)
    return target


def _special_files(folder: str, names: list[str]) -> list[str]:
    modes = {name: os.lstat(os.path.join(folder, name)).st_mode for name in names}
    return [
        name for name, mode in modes.items() if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))
    ]


def _all_may_read(source: Path) -> bool:
    """Whether any user can read a file, or a folder with all its content."""
    entries = [(path, 0o1) for path in source.parents]
    entries += [(path, 0o5 if path.is_dir() else 0o4) for path in (source, *_below(source)) if not path.is_symlink()]
    return all(path.stat().st_mode & bits == bits for path, bits in entries)


def _below(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        for path, folders, files in os.walk(folder):
            yield from (Path(path, name) for name in (*folders, *files))
