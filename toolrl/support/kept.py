"""Folders that are expensive to make, made once and kept: atomic, and by one process at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from toolrl.errors import ConfigError

T = TypeVar("T")

# What loading a damaged file of NumPy, JSON or Arrow raises (Arrow's are ValueErrors and OSErrors).
_DAMAGE = (OSError, ValueError, EOFError, KeyError, TypeError)


def default_cache_dir() -> Path:
    """`TOOLRL_CACHE`, or `toolrl` in the user's cache folder."""
    own = os.environ.get("TOOLRL_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "toolrl"


def kept(cache_dir: Path, name: str, make: Callable[[Path], None], load: Callable[[Path], T]) -> T:
    """Load what lies in `cache_dir/name`, made before if it is missing or damaged.

    Other processes that want the same wait until it is there. What a killed one has left half done is removed.

    Args:
        cache_dir: Made if it is missing.
        name: Names everything that the content depends on.
        make: Fills an empty folder.
        load: Raises one of the usual errors of reading files if the content is damaged.

    Raises:
        ConfigError: The folder cannot be written, or the disk is full.
    """
    home = cache_dir / name
    try:
        return load(home)
    except _DAMAGE:
        pass
    try:
        with _locked(cache_dir, name):
            try:
                return load(home)  # another process was faster
            except _DAMAGE:
                shutil.rmtree(home, ignore_errors=True)
            for left in cache_dir.glob(f".{name}-*"):  # nobody else can be making it
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache_dir, ignore_cleanup_errors=True) as folder:
                make(Path(folder))
                os.rename(folder, home)
    except OSError as error:
        raise ConfigError(f"cannot keep the index in {str(cache_dir)!r}: {error}; choose another cache_dir") from error
    return load(home)


@contextmanager
def _locked(cache_dir: Path, name: str) -> Iterator[None]:
    cache_dir.mkdir(parents=True, exist_ok=True)
    with (cache_dir / f".lock-{name}").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel frees it when its holder dies
        yield
