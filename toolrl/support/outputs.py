"""Files that a command writes: never into what an earlier one has written, unless that is asked for."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from toolrl.errors import ConfigError

FULL = {errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.EROFS}
# What the place that is to be written to, and not the program, is the reason of.
NOT_WRITABLE = FULL | {
    errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EPERM,
}  # fmt: skip


def refuse_existing(path: Path, *, overwrite: bool = False) -> None:
    """Refuse a file that is there already, before any work is done for it. One that is empty counts as not there.

    Args:
        path: Where a command will write.
        overwrite: Whether what lies there may go.

    Raises:
        ConfigError: Something lies there, or nothing can be written there.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise ConfigError(f"{str(path)!r} is a folder; name a file")
        if not overwrite and path.exists() and (not path.is_file() or path.stat().st_size):
            raise ConfigError(
                f"{str(path)!r} exists, and its episodes must not be mixed with others; name another file, or pass "
                "--overwrite to replace it"
            )
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            probe.write(b"?")


def new_file(path: Path, *, overwrite: bool = False) -> Path:
    """Create a file, empty, as `refuse_existing` allows it; of two commands at the same time, one is refused.

    Raises:
        ConfigError: Something lies there, or nothing can be written there.
    """
    refuse_existing(path, overwrite=overwrite)
    with writing(path):
        path.unlink(missing_ok=True)
        path.open("x").close()
    return path


@contextmanager
def writing(
    path: Path, advice: str = "name another place", reasons: Container[int | None] = NOT_WRITABLE
) -> Iterator[None]:
    """Errors of the place that is written to become a `ConfigError` that names it.

    Args:
        path: Where.
        advice: What to do.
        reasons: The numbers of such errors.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in reasons:
            raise
        reason = os.strerror(error.errno or 0)
        raise ConfigError(f"cannot write to {error.filename or str(path)!r} ({reason}); {advice}") from None
