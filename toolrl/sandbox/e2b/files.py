"""The files in the working directory of an E2B sandbox."""

from __future__ import annotations

import errno
from pathlib import PurePosixPath
from typing import Any

from toolrl.errors import SandboxFault
from toolrl.sandbox.base import Mount, parts_of
from toolrl.sandbox.e2b.fleet import Machine
from toolrl.sandbox.e2b.sdk import MachineLost

_DEPTH = 64  # of folders in a listing


class E2BFiles:
    """Reads, writes and lists files in a folder; follows no links and skips mounts.

    Args:
        machine: The machine.
        folder: Path of the folder on the machine.
        mounts: Mounts that were uploaded into the folder.
    """

    def __init__(self, machine: Machine, folder: str, mounts: tuple[Mount, ...]) -> None:
        self._machine, self._folder, self._mounts = machine, folder, mounts

    def write(self, path: str, content: bytes) -> None:
        """See `Sandbox.write_file`."""
        parts = parts_of(path, self._mounts)
        found = self._lookup(path, parts, must_exist=False)
        if found is not None and not _is_file(found):
            raise ValueError(f"{path!r} is not a regular file of the sandbox")
        self.ask("writing a file", lambda files: files.write(f"{self._folder}/{'/'.join(parts)}", content))

    def read(self, path: str) -> bytes:
        """See `Sandbox.read_file`."""
        parts = parts_of(path, self._mounts)
        if not _is_file(self._lookup(path, parts)):
            raise ValueError(f"{path!r} is not a regular file of the sandbox")
        whole = f"{self._folder}/{'/'.join(parts)}"
        return bytes(self.ask("reading a file", lambda files: files.read(whole, format="bytes")))

    def listing(self) -> list[str]:
        """See `Sandbox.list_files`."""
        mounted = {mount.target for mount in self._mounts}
        entries = self.ask("listing files", lambda files: files.list(self._folder, depth=_DEPTH))
        paths = (PurePosixPath(entry.path).relative_to(self._folder) for entry in entries if _is_file(entry))
        return sorted(str(path) for path in paths if path.parts[0] not in mounted)

    def _lookup(self, path: str, parts: tuple[str, ...], *, must_exist: bool = True) -> Any:
        """Look up a path without following links; None if the path may be missing and is."""
        whole, entry = self._folder, None
        for part in parts:
            if entry is not None and not _is_folder(entry):
                raise NotADirectoryError(errno.ENOTDIR, "a parent of the path is a file", path)
            whole = f"{whole}/{part}"
            try:
                entry = self.ask("looking at a file", lambda files, whole=whole: files.get_info(whole))
            except FileNotFoundError:
                if must_exist:
                    raise
                return None
            if entry.symlink_target is not None:
                raise ValueError(f"{path!r} goes through the symbolic link {part!r}")
        return entry

    def ask(self, what: str, call: Any) -> Any:
        """Make a request about files; all of them are idempotent, so failed ones are retried."""
        if self._machine.lost:
            raise MachineLost("the E2B sandbox is lost; reset() opens a new one")
        try:
            return self._machine.requests.make(what, lambda: call(self._machine.sdk.files))
        except SandboxFault:
            self._machine.lost = True
            raise


def _is_folder(entry: Any) -> bool:
    return entry.type is not None and entry.type.value == "dir"


def _is_file(entry: Any) -> bool:
    return entry.type is not None and entry.type.value == "file" and entry.symlink_target is None
