"""Output files of commands: existing ones are only overwritten on request."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from toolrl.errors import ConfigError

FULL = {errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.EROFS}
# Errors caused by the place that is written to, and not by the program.
NOT_WRITABLE = FULL | {
    errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EPERM,
}  # fmt: skip


def refuse_existing(path: Path, *, overwrite: bool = False) -> None:
    """Refuse a file that already exists, before any work is done. An empty file counts as missing.

    Args:
        path: The file a command will write.
        overwrite: Whether it may be replaced.

    Raises:
        ConfigError: The file exists, or cannot be written.
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
    """Create an empty file, if `refuse_existing` allows it; of two concurrent commands, one is refused.

    Raises:
        ConfigError: The file exists, or cannot be written.
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
    """Turn errors caused by the place that is written to into a `ConfigError` that names it.

    Args:
        path: The file or folder that is written.
        advice: What the user can do.
        reasons: The error numbers to turn.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in reasons:
            raise
        reason = os.strerror(error.errno or 0)
        raise ConfigError(f"cannot write to {error.filename or str(path)!r} ({reason}); {advice}") from None
