"""A run's `metrics.jsonl`, read on as it grows."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any


class Metrics:
    """The rows of a metrics file."""

    def __init__(self, path: Path):
        """Name the file; it need not be there yet."""
        self._path = path
        self._offset = 0
        self._identity = (0, 0)
        self._lock = threading.Lock()
        self.rows: list[dict[str, Any]] = []

    def refresh(self) -> list[dict[str, Any]]:
        """Read what is new; an unfinished last line waits, a line that is no row is passed over."""
        with self._lock:
            self._read()
            return list(self.rows)

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_dev, status.st_ino) != self._identity or status.st_size < self._offset:
                    self._identity, self._offset, self.rows = (status.st_dev, status.st_ino), 0, []
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._offset += len(line)
                    self._add(line)
        except OSError:  # not there, or not ours to read
            self._offset, self.rows = 0, []

    def _add(self, line: bytes) -> None:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return
        if isinstance(row, dict) and type(row.get("step")) is int and abs(row["step"]) < 2**53:
            self.rows.append(row)

    @property
    def step(self) -> int | None:
        """The last step, None before the first."""
        return self.rows[-1]["step"] if self.rows else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All rows of a metrics file; none if it is not there."""
    return Metrics(path).refresh()
