"""Folders that name the process they belong to, so that those of a killed process are found and removed."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator

from toolrl.support.cleanup import remove_tree, start_time


def make_folder(kind: str, parent: str | None = None) -> str:
    """Make a folder of this process in `parent`, by default where temporary files are.

    What dead processes have left there of the same kind is removed first.
    """
    parent = parent or tempfile.gettempdir()
    remove_leftovers(kind, parent)
    return tempfile.mkdtemp(prefix=owned_name(kind), dir=parent)


def remove_leftovers(kind: str, parent: str | None = None) -> None:
    """Remove the folders of processes that are gone. Those of other process namespaces are left alone."""
    for path in abandoned(kind, parent or tempfile.gettempdir()):
        with contextlib.suppress(OSError):  # another user's, or another process was faster
            remove_tree(path)


def owned_name(kind: str) -> str:
    """A name, or the beginning of one, that says whose something is."""
    return f"toolrl-{kind}-{_process_namespace()}-{os.getpid()}-{start_time(os.getpid())}-"


def abandoned(kind: str, parent: str) -> Iterator[str]:
    """Paths in `parent` with names of processes that are gone."""
    pattern = re.compile(rf"toolrl-{kind}-(\d+)-(\d+)-(\d+)-")
    for entry in os.scandir(parent):
        match = pattern.match(entry.name)
        if match and int(match[1]) == _process_namespace() and start_time(match[2]) != match[3]:
            yield entry.path


def _process_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino
