"""A disk cache of a service's answers: one SQLite file, shared by any number of threads and processes."""

from __future__ import annotations

import math
import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tenacity

from toolrl.errors import ConfigError, RetrieverFault

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
  backend TEXT NOT NULL, request TEXT NOT NULL, answer TEXT NOT NULL, seconds REAL NOT NULL,
  PRIMARY KEY (backend, request)
) WITHOUT ROWID
"""
_BUSY_SECONDS = 60.0  # while another process writes


class DiskCache:
    """Answers, as text, by backend and request. Thread-safe; the threads of a process share one connection.

    Args:
        path: The file, created if it is missing; None keeps everything in memory.
        read_only: The file must exist, and is not written to.

    Raises:
        ConfigError: The file is not such a cache, or cannot be opened.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False):
        self._path = path
        self._read_only = read_only
        self._lock = threading.Lock()
        try:
            if path is not None and not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = self._connect()
            try:
                if not read_only:
                    self._prepare()
                self._connection.execute("SELECT backend, request, answer, seconds FROM answers LIMIT 1")
            except sqlite3.Error:
                self._connection.close()
                raise
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"{str(path)!r} is not a disk cache ({error}); remove it or name another file") from error

    def _prepare(self) -> None:
        """Set the file up; SQLite does not wait by itself while another process does the same."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_busy),
            stop=tenacity.stop_after_delay(_BUSY_SECONDS),
            wait=tenacity.wait_fixed(0.02),
            reraise=True,
        )
        for statement in ("PRAGMA journal_mode=WAL", _SCHEMA):
            retrying(self._connection.execute, statement)

    def backends(self) -> list[str]:
        """The backends whose answers are in the cache."""
        return [row[0] for row in self._run("SELECT DISTINCT backend FROM answers ORDER BY backend")]

    def get(self, backend: str, request: str, max_age_seconds: float = math.inf) -> str | None:
        """Return an answer that is not too old, or None."""
        oldest = time.time() - max_age_seconds if max_age_seconds < math.inf else 0.0
        statement = "SELECT answer FROM answers WHERE backend = ? AND request = ? AND seconds >= ?"
        rows = self._run(statement, (backend, request, oldest))
        return str(rows[0][0]) if rows else None

    def put(self, backend: str, request: str, answer: str) -> None:
        """Store an answer; an older one is replaced."""
        self._run("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", (backend, request, answer, time.time()))

    def close(self) -> None:
        """Close the file; may be called twice."""
        with self._lock:
            if self._pid == os.getpid():
                self._connection.close()

    def _connect(self) -> sqlite3.Connection:
        self._pid = os.getpid()
        mode = "ro" if self._read_only else "rwc"
        uri = "file::memory:" if self._path is None else f"{self._path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, _BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=True)
        if self._path is None:
            connection.execute(_SCHEMA)
        return connection

    def _run(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            if self._pid != os.getpid():  # an SQLite connection must not be carried across a fork
                self._lock, self._connection = threading.Lock(), self._connect()
            with self._lock:
                return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise RetrieverFault(f"the disk cache {str(self._path)!r} failed: {error}") from error


def _is_busy(error: BaseException) -> bool:
    codes = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode in codes
