"""Folders named after the process they belong to, so that those of killed processes can be removed."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator

from toolrl.support.cleanup import remove_tree, start_time


def make_folder(kind: str, parent: str | None = None) -> str:
    """Create a folder of this process in `parent`; default: the folder of temporary files.

    Folders of the same kind left by dead processes are removed first.
    """
    parent = parent or tempfile.gettempdir()
    remove_leftovers(kind, parent)
    return tempfile.mkdtemp(prefix=owned_name(kind), dir=parent)


def remove_leftovers(kind: str, parent: str | None = None) -> None:
    """Remove the folders of dead processes. Those of other process namespaces are left alone."""
    for path in abandoned(kind, parent or tempfile.gettempdir()):
        with contextlib.suppress(OSError):  # it is another user's, or another process was faster
            remove_tree(path)


def owned_name(kind: str) -> str:
    """A name prefix that identifies this process as the owner."""
    return f"toolrl-{kind}-{_process_namespace()}-{os.getpid()}-{start_time(os.getpid())}-"


def abandoned(kind: str, parent: str) -> Iterator[str]:
    """Paths in `parent` that belong to dead processes."""
    pattern = re.compile(rf"toolrl-{kind}-(\d+)-(\d+)-(\d+)-")
    for entry in os.scandir(parent):
        match = pattern.match(entry.name)
        if match and int(match[1]) == _process_namespace() and start_time(match[2]) != match[3]:
            yield entry.path


def _process_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino
