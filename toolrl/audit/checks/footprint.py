"""The threads, descendants and file descriptors of this process, read from /proc."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Footprint:
    """Counts by name at one moment.

    Attributes:
        threads: By thread name.
        processes: Descendants, by program name.
        files: Open file descriptors, by target.
    """

    threads: Counter[str]
    processes: Counter[str]
    files: Counter[str]

    def growth_since(self, before: Footprint) -> dict[str, tuple[int, list[str]]]:
        """How many more there are of each kind, with the names of some new ones.

        Unrelated ones may end meanwhile, so the growth of one name or of the total counts, whichever is larger.
        """
        growth = {}
        for kind in ("threads", "processes", "files"):
            now, then = getattr(self, kind), getattr(before, kind)
            newest = (now - then).most_common(3)
            more = max(now.total() - then.total(), *(count for _, count in newest), 0)
            if more > 0:
                growth[kind] = (more, [name for name, _ in newest])
        return growth


def footprint() -> Footprint:
    """Count them. File descriptors and processes are counted on Linux only."""
    threads = Counter(_without_digits(thread.name) for thread in threading.enumerate())
    return Footprint(threads, _descendants(), _open_files())


def settled_footprint(is_small: Callable[[Footprint], bool], patience_seconds: float = 1.0) -> Footprint:
    """Return the first footprint that is small, or the last one after `patience_seconds`: closing takes a moment."""
    deadline = time.monotonic() + patience_seconds
    while True:
        now = footprint()
        if is_small(now) or time.monotonic() >= deadline:
            return now
        time.sleep(0.02)


def _open_files() -> Counter[str]:
    files: Counter[str] = Counter()
    with suppress(OSError):
        for entry in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # listdir's own descriptor is closed by now
                target = os.readlink(f"/proc/self/fd/{entry}")
                files[_without_digits(target) if ":[" in target else target] += 1
    return files


def _descendants() -> Counter[str]:
    children: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            text = (folder / "stat").read_text()
            name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
            pid = int(folder.name)
            children.setdefault(int(rest[1]), []).append(pid)
            names[pid] = name
    found: Counter[str] = Counter()
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(names[pid] for pid in below)
        waiting += below
    return found


def _without_digits(name: str) -> str:
    return "".join("" if character.isdigit() else character for character in name)
