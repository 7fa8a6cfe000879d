"""The files of a hosted sandbox as E2B's envd presents them.

Everything is done from outside, through descriptors, as the owner of the files and without following links. Nothing
that the code does to its interpreter or its modules can interfere.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from toolrl.sandbox.local.files import Files
from toolrl.sandbox.local.sandbox import LocalSandbox

HOME = "/home/user"  # the clients' name for the working directory
_MAX_ENTRIES = 100_000  # of one listing
_MAX_DEPTH = 64
_REMOVING_SECONDS = 60.0
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_STATUS: dict[type[Exception], int] = {FileNotFoundError: 404, FileExistsError: 409, PermissionError: 403}  # else 400


class FileError(Exception):
    """A client's file operation failed.

    Attributes:
        status: The HTTP status to answer with.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class HostedFiles:
    """The file operations of one sandbox. Thread-safe."""

    def __init__(self, sandbox: LocalSandbox) -> None:
        self._sandbox = sandbox

    def stat(self, path: str) -> dict[str, Any]:
        """Describe one entry, as EntryInfo in JSON."""
        with self._parent_of(path) as (folder, name):
            return self._entry(folder, name, shown(path))

    def listing(self, path: str, depth: int) -> list[dict[str, Any]]:
        """List the entries below a folder, down to a depth."""
        with self._parent_of(path) as (folder, name), _opened_folder(folder, name) as below:
            return list(self._below(below, shown(path), min(max(depth, 1), _MAX_DEPTH), [_MAX_ENTRIES]))

    def make_folder(self, path: str) -> dict[str, Any]:
        """Create a folder and its parents."""
        with self._parent_of(path, create=True) as (folder, name):
            os.mkdir(name, 0o755, dir_fd=folder)
            return self._entry(folder, name, shown(path))

    def move(self, path: str, target: str) -> dict[str, Any]:
        """Rename a file or folder; return its new entry."""
        self.stat(path)  # before folders are created for the target
        with self._parent_of(path) as (folder, name), self._parent_of(target, create=True) as (place, given):
            os.rename(name, given, src_dir_fd=folder, dst_dir_fd=place)
            return self._entry(place, given, shown(target))

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all its content."""
        with self._parent_of(path) as (folder, name):
            if name == ".":
                raise ValueError("the home folder cannot be removed")
            if not stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
                os.unlink(name, dir_fd=folder)
                return
            with _opened_folder(folder, name) as top:
                _empty(top)
            os.rmdir(name, dir_fd=folder)

    def read(self, path: str) -> BinaryIO:
        """Open a regular file for reading."""
        with _as_file_errors(path):
            return self._files.opened(inside(path))

    def write(self, path: str, content: bytes) -> dict[str, Any]:
        """Create or replace a file; return its entry in the format of POST /files."""
        with _as_file_errors(path):
            self._files.write(inside(path), content)
        return {"name": path.rpartition("/")[2], "type": "file", "path": shown(path)}

    def _entry(self, folder: int, name: str, path: str) -> dict[str, Any]:
        found = os.lstat(name, dir_fd=folder)
        made = datetime.datetime.fromtimestamp(found.st_mtime, datetime.UTC)
        entry = {
            "name": _text(path.rpartition("/")[2]),
            "type": f"FILE_TYPE_{_kind(found.st_mode)}",
            "path": _text(path),
            "size": str(found.st_size),
            "mode": stat.S_IMODE(found.st_mode),
            "permissions": stat.filemode(found.st_mode),
            "owner": "user",
            "group": "user",
            "modifiedTime": made.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        if stat.S_ISLNK(found.st_mode):
            target = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(name, dir_fd=folder)))
            entry["symlinkTarget"] = _text(target)
            with contextlib.suppress(OSError, ValueError), self._files.folder_of(inside(target)) as (place, last):
                entry["type"] = f"FILE_TYPE_{_kind(os.lstat(last, dir_fd=place).st_mode)}"
        return entry

    def _below(self, folder: int, path: str, depth: int, left: list[int]) -> Iterator[dict[str, Any]]:
        for name in sorted(os.listdir(folder)):
            left[0] -= 1
            if left[0] < 0:
                raise ValueError(f"more than {_MAX_ENTRIES} entries; list a subfolder")
            try:
                entry = self._entry(folder, name, f"{path}/{name}")
            except FileNotFoundError:
                continue  # it has been removed
            yield entry
            if depth > 1 and entry["permissions"][0] == "d":
                gone = contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError)
                with gone, _opened_folder(folder, name) as below:
                    yield from self._below(below, f"{path}/{name}", depth - 1, left)

    @property
    def _files(self) -> Files:
        return self._sandbox.files

    @contextlib.contextmanager
    def _parent_of(self, path: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """A descriptor of a path's parent folder, and the name in it."""
        with _as_file_errors(path), self._files.classified():
            relative = inside(path)
            with self._files.top() as top:
                if relative == ".":
                    yield top, "."
                    return
            with self._files.folder_of(relative, create=create) as place:
                yield place


@contextlib.contextmanager
def _as_file_errors(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FileError(507, f"not enough disk space available: {error.strerror}") from error
        if isinstance(error, FileNotFoundError):
            raise FileError(404, f"path '{path}' does not exist") from error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise FileError(_STATUS.get(type(error), 400), f"{path}: {reason}") from error


@contextlib.contextmanager
def _opened_folder(folder: int, name: str) -> Iterator[int]:
    descriptor = os.open(name, _FOLDER, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _kind(mode: int) -> str:
    return "FILE" if stat.S_ISREG(mode) else "DIRECTORY" if stat.S_ISDIR(mode) else "UNSPECIFIED"


def _text(name: str) -> str:
    """A file name, which may contain any bytes, as text."""
    return name.encode("utf-8", "replace").decode()


def _empty(top: int) -> None:
    """Empty a folder. Nested folders are moved up first, since code can nest them deeper than the stack."""
    deadline = time.monotonic() + _REMOVING_SECONDS
    while names := os.listdir(top):
        if time.monotonic() > deadline:
            raise ValueError("files are created as fast as they are removed")
        for name in names:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=top).st_mode):
                os.unlink(name, dir_fd=top)
                continue
            with _opened_folder(top, name) as folder:
                for inner in os.listdir(folder):
                    if stat.S_ISDIR(os.lstat(inner, dir_fd=folder).st_mode):
                        os.rename(inner, secrets.token_hex(8), src_dir_fd=folder, dst_dir_fd=top)
                    else:
                        os.unlink(inner, dir_fd=folder)
            os.rmdir(name, dir_fd=top)


def inside(path: str) -> str:
    """Make a client's path relative to the working directory; absolute if it is elsewhere."""
    if path == HOME or path.startswith(f"{HOME}/"):
        path = path[len(HOME) :].lstrip("/")
    return os.path.normpath(path) if path else "."


def shown(path: str) -> str:
    """Make a client's path absolute, as shown to clients."""
    relative = inside(path)
    return HOME if relative == "." else relative if relative.startswith("/") else f"{HOME}/{relative}"
