"""Files as data: taken from a folder of this machine or of a sandbox, and put into a sandbox.

What is taken from a sandbox was made by code that nobody trusts. Links are never followed, and only those that stay
inside the folder are kept; pipes, devices and files that cannot be read are left out.
"""

from __future__ import annotations

import ast
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Self

from toolrl.sandbox.base import ExecResult, Sandbox
from toolrl.support.python_source import parse_python

_SLICE = 8000  # characters of a listing in one answer
_MAX_ENTRIES = 5000  # more than a local sandbox has by default; each takes a request in E2B


@dataclass(frozen=True)
class FileTree:
    """Files below a folder, by their paths in it.

    Attributes:
        files: Contents of regular files.
        modes: Permissions of files and folders (`0o777` at most), empty folders among them; where absent, the usual
            ones.
        links: Targets of symbolic links.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    modes: Mapping[str, int] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """Take the files of a folder of this machine.

        Raises:
            ValueError: A link leaves the folder.
        """
        files, modes, links = {}, {}, {}
        for path in sorted(folder.rglob("*")):
            name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
            if stat.S_ISLNK(mode):
                links[name] = os.readlink(path)
                if not _stays_inside(name, links[name]):
                    raise ValueError(f"{str(path)!r} is a link to {links[name]!r}, which leaves {str(folder)!r}")
            else:
                modes[name] = mode & 0o777
                if stat.S_ISREG(mode):
                    files[name] = path.read_bytes()
        return cls(files, modes, links)

    @classmethod
    def of_sandbox(cls, sandbox: Sandbox, folder: str, *, max_bytes: int = 1 << 28) -> Self:
        """Take the files of a folder in a sandbox, whose own session must not have run the code that made them.

        Raises:
            OSError: They are too many or too large, or the code has made listing them impossible.
            SandboxFault: The sandbox is lost.
        """
        listing = f"{_LIST}_toolrl_found = repr(_toolrl_list({folder!r}, {_MAX_ENTRIES}))"
        _checked(sandbox.run(listing), "listing files")
        text, part = "", None
        while part != "":
            more = _checked(sandbox.run(f"_toolrl_found[{len(text)}:{len(text) + _SLICE}]"), "listing files")
            part = ast.literal_eval(parse_python(more.value or "''", "eval"))
            text += part
        files, modes, links, total = {}, {}, {}, 0
        for name, kind, value, size in ast.literal_eval(parse_python(text, "eval")):
            if kind == "link":
                if _stays_inside(name, value):
                    links[name] = value
                continue
            modes[name] = value
            total += size
            if total > max_bytes:
                raise OSError(f"the files in {folder!r} exceed {max_bytes >> 20} MB")
            if kind == "file":
                try:
                    files[name] = sandbox.read_file(f"{folder}/{name}")
                except (OSError, ValueError):
                    del modes[name]
        return cls(files, modes, links)

    def write(self, sandbox: Sandbox, folder: str = ".") -> None:
        """Put the files into a folder of a sandbox, which is created if necessary.

        Raises:
            OSError: They do not fit.
            SandboxFault: The sandbox is lost.
        """
        for name, content in self.files.items():
            sandbox.write_file(f"{folder}/{name}", content)
        folders = sorted(self.modes.keys() - self.files.keys())
        # Folders last, the deepest first: one may forbid reaching what is in it.
        modes = [(name, self.modes[name]) for name in self.files if self.modes.get(name, 0o644) != 0o644]
        modes += [(name, self.modes[name]) for name in reversed(folders) if self.modes[name] != 0o755]
        if folder != "." or folders or modes or self.links:
            _checked(sandbox.run(_WRITE.format(folder, folders, list(self.links.items()), modes)), "writing files")


def _checked(result: ExecResult, what: str) -> ExecResult:
    if result.error is not None:
        raise OSError(f"{what}: {result.error.name}: {result.error.value}")
    return result


def _stays_inside(name: str, target: str) -> bool:
    """Whether a link in a tree leads to a place in it, if all other links do.

    A `..` after another component could follow a link first, so that only those at the beginning are certain.
    """
    parts, depth = PurePosixPath(target).parts, len(PurePosixPath(name).parts) - 1
    ups = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
    return bool(parts) and parts[0] != "/" and ups <= depth and ".." not in parts[ups:]


# Nothing is imported that the session does not hold: the folder may contain modules of the same names.
_LIST = """
def _toolrl_list(top, most):
    import os, stat
    found, folders = [], [] if os.path.islink(top) else [""]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(os.path.join(top, folder)), key=lambda entry: entry.name)
        except OSError:
            continue
        if len(found) + len(entries) > most:
            raise OSError(f"more than {most} files")
        for entry in entries:
            name, info = folder + entry.name, entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                found.append((name, "link", os.readlink(os.path.join(top, name)), 0))
            elif stat.S_ISDIR(info.st_mode):
                found.append((name, "folder", info.st_mode & 0o777, 0))
                folders.append(name + "/")
            elif stat.S_ISREG(info.st_mode):
                found.append((name, "file", info.st_mode & 0o777, info.st_size))
    return found
"""
_WRITE = """
import os
def _toolrl_write(top, folders, links, modes):
    os.makedirs(top, exist_ok=True)
    for name in folders:
        os.makedirs(os.path.join(top, name), exist_ok=True)
    for name, target in links:
        os.makedirs(os.path.dirname(os.path.join(top, name)), exist_ok=True)
        os.symlink(target, os.path.join(top, name))
    for name, mode in modes:
        os.chmod(os.path.join(top, name), mode)
_toolrl_write({!r}, {!r}, {!r}, {!r})
"""
