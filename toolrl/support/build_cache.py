"""Folders that are expensive to build: built once, atomically, by one process at a time, and kept on disk."""

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

# Raised when a damaged file of NumPy, JSON or Arrow is loaded (Arrow's are ValueErrors and OSErrors).
_DAMAGE = (OSError, ValueError, EOFError, KeyError, TypeError)


def default_cache_dir() -> Path:
    """`TOOLRL_CACHE`, or `toolrl` in the user's cache folder."""
    own = os.environ.get("TOOLRL_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "toolrl"


def load_or_build(cache_dir: Path, name: str, build: Callable[[Path], None], load: Callable[[Path], T]) -> T:
    """Load the folder `cache_dir/name`; build it first if it is missing or damaged.

    Other processes that need the same folder wait for it. What a killed process left half done is removed.

    Args:
        cache_dir: Created if it is missing.
        name: A key of everything the content depends on.
        build: Fills an empty folder.
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
            for leftover in cache_dir.glob(f".{name}-*"):  # we hold the lock: no process is building it
                shutil.rmtree(leftover, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache_dir, ignore_cleanup_errors=True) as folder:
                build(Path(folder))
                os.rename(folder, home)
    except OSError as error:
        raise ConfigError(f"cannot write to {str(cache_dir)!r}: {error}; choose another cache_dir") from error
    return load(home)


@contextmanager
def _locked(cache_dir: Path, name: str) -> Iterator[None]:
    cache_dir.mkdir(parents=True, exist_ok=True)
    with (cache_dir / f".lock-{name}").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it when its holder dies
        yield
