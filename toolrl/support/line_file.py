"""A file that several threads and processes append whole lines to."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolrl.support.closing import Closeable


class LineFile(Closeable):
    """Appends whole lines. A partial line left by a killed process is removed before the next line is written.

    Attributes:
        path: The file.
    """

    def __init__(self, path: str | Path):
        """Open the file for appending; it and its folder are created if necessary."""
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._lock = threading.Lock()  # the file's lock excludes other open files, not other threads
        with self._locked():
            self._cut_partial_line()

    def append(self, line: str) -> None:
        """Append one line, given without its end; what UTF-8 cannot encode becomes `?`."""
        with self._locked():
            self._cut_partial_line()
            rest = memoryview(f"{line}\n".encode("utf-8", "replace"))
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _cut_partial_line(self) -> None:
        size = end = os.fstat(self._descriptor).st_size
        if size == 0 or os.pread(self._descriptor, 1, size - 1) == b"\n":
            return
        while end > 0:
            start = max(0, end - 65_536)
            newline = os.pread(self._descriptor, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._descriptor, end)
