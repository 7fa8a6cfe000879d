"""Makes files of this machine readable to sandboxed code: bound read-only where namespaces allow, else copied.

The file itself is out of the code's reach in both cases. A copy in the working directory cannot be written to,
but the code, which owns the directory, can put something else in its place.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from toolrl.sandbox.base import Mount


class PreparedMounts:
    """What the mounts of one sandbox need on disk.

    Args:
        mounts: Asked for by the user.
        directory: The sandbox's working directory.
        uid: The user that the code runs as, if that is not ours.
        bind: Whether workers can bind mounts; if not, the working directory gets copies.

    Attributes:
        bindings: (source, target) pairs for the workers.
        copies: A folder of copies beside the working directory, made only if need be.
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
    """Copy, and make the copy readable to all and writable to nobody.

    Links stay links, which lead where the code may look: what they lead to was not asked for. So it is with devices and
    named pipes.
    """
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=_neither_files_nor_folders)
    else:
        shutil.copyfile(source, target)
    for path in (target, *_below(target)):
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() or path.stat().st_mode & 0o111 else 0o444)
    return target


def _neither_files_nor_folders(folder: str, names: list[str]) -> list[str]:
    modes = {name: os.lstat(os.path.join(folder, name)).st_mode for name in names}
    return [
        name for name, mode in modes.items() if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))
    ]


def _all_may_read(source: Path) -> bool:
    """Whether any user can read a file or folder with all that is in it."""
    entries = [(path, 0o1) for path in source.parents]
    entries += [(path, 0o5 if path.is_dir() else 0o4) for path in (source, *_below(source)) if not path.is_symlink()]
    return all(path.stat().st_mode & bits == bits for path, bits in entries)


def _below(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        for path, folders, files in os.walk(folder):
            yield from (Path(path, name) for name in (*folders, *files))
