"""An index of a file of trajectories: the facts about each episode in columns, and where its line lies.

A line of a file holds thousands of token ids; a question about a run needs a few numbers of each episode. They are read
once, as the file grows only what is new, and kept in `trajectories.index.arrow` beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow

from toolrl.errors import MissingExtra, TaskError
from toolrl.trajectory import Trajectory

INDEX_VERSION = 2
FILE_NAME = "trajectories.jsonl"
_BATCH = 4_000
_TEXT_CHARACTERS = 300
_MARK_BYTES = 512
_COLUMNS = {
    "id": pyarrow.string(),
    "env": pyarrow.string(),
    "task": pyarrow.string(),
    "prompt": pyarrow.string(),
    "answer": pyarrow.string(),
    "reason": pyarrow.string(),
    "reward": pyarrow.float64(),
    "success": pyarrow.bool_(),
    "stop": pyarrow.string(),
    "error": pyarrow.list_(pyarrow.string()),
    "fault": pyarrow.string(),
    "attempts": pyarrow.int32(),
    "turns": pyarrow.int32(),
    "calls": pyarrow.int32(),
    "failed_calls": pyarrow.int32(),
    "needs_tool": pyarrow.bool_(),
    "kind": pyarrow.string(),
    "prompt_tokens": pyarrow.int32(),
    "sampled_tokens": pyarrow.int32(),
    "observed_tokens": pyarrow.int32(),
    "tokens": pyarrow.int32(),
    "seconds": pyarrow.float64(),
    "generation_seconds": pyarrow.float64(),
    "tool_seconds": pyarrow.float64(),
    "mode": pyarrow.string(),
    "step": pyarrow.int64(),
    "session": pyarrow.string(),
    "group": pyarrow.string(),
    "info": pyarrow.string(),
    # By name, in one column each: a model can invent as many names of tools as it likes.
    "calls_by_name": pyarrow.map_(pyarrow.string(), pyarrow.int32()),
    "failures_by_name": pyarrow.map_(pyarrow.string(), pyarrow.int32()),
    "part_by_name": pyarrow.map_(pyarrow.string(), pyarrow.float64()),
    "usage_by_name": pyarrow.map_(pyarrow.string(), pyarrow.float64()),
    "offset": pyarrow.int64(),
    "length": pyarrow.int64(),
}


def trajectory_file(run: str | Path) -> Path:
    """The file of trajectories of a run's folder, or the file itself.

    Raises:
        TaskError: There is none.
    """
    path = Path(run)
    try:
        file = path / FILE_NAME if path.is_dir() else path
        found = file.is_file() and os.access(file, os.R_OK)
    except OSError as error:
        raise TaskError(f"cannot read {str(path)!r}: {error.strerror}") from None
    if not found:
        raise TaskError(
            f"no trajectories that can be read at {str(file)!r}; name a run's folder or a file of trajectories"
        )
    return file


class TrajectoryIndex:
    """The index of one file.

    Attributes:
        path: The file.
        table: One row an episode, in the file's order. Besides the fields of a query it has `offset` and `length` of
            the line, `info` as JSON, and `calls_by_name`, `failures_by_name`, `part_by_name` and `usage_by_name`.
        broken: Numbers of the lines that are no trajectories that can be read, which are left out; counted from 1.
    """

    def __init__(self, path: str | Path, *, keep: bool = True):
        """Read the index that is kept, if it fits, and what the file has more.

        Args:
            path: A file of trajectories.
            keep: Whether to keep the index beside the file; where that cannot be written, it is not.

        Raises:
            TaskError: The file is missing, or all of a version that cannot be read.
            MissingExtra: msgspec is not installed.
        """
        self.path = trajectory_file(path)
        self.table = _table([])
        self.broken: list[int] = []
        self._keep = keep
        self._other_version = ""
        self._covered = self._lines = self._stored = 0
        self._marks = ("", "")
        try:
            import toolrl.view.lines  # noqa: F401 - before anything is read
        except ImportError:
            raise MissingExtra("msgspec", "view") from None
        self._restore()
        self.refresh()

    def refresh(self) -> bool:
        """Read what has been appended since; an unfinished last line waits. Returns whether anything has changed.

        A file that has been replaced or cut is read again from its beginning.
        """
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if self._covered and (size < self._covered or self._marks != _marks(file, self._covered)):
                self.table, self.broken = _table([]), []
                self._covered = self._lines = self._stored = 0
            if size == self._covered:
                self._refuse_other_version()
                return False
            tables, broken = [self.table], len(self.broken)
            for rows in self._read(file):
                tables.append(_table(rows))
            changed = len(tables) > 1
            if changed:
                self.table = pyarrow.concat_tables(tables).combine_chunks()
            self._marks = _marks(file, self._covered)
        self._refuse_other_version()
        if new := self.broken[broken:]:
            warnings.warn(
                f"{self.path}: {len(new)} lines cannot be read as trajectories and are left out, the first is line "
                f"{new[0]}{f' ({self._other_version})' if self._other_version else ''}",
                stacklevel=2,
            )
        if self._covered > 1.1 * self._stored:
            self._store()
        return changed

    def line(self, row: int) -> bytes:
        """The line of an episode, by its place in `table`."""
        with self.path.open("rb") as file:
            file.seek(self.table["offset"][row].as_py())
            return file.read(self.table["length"][row].as_py())

    def read(self, row: int) -> Trajectory:
        """The episode itself; bytes that are not UTF-8 are replaced.

        Raises:
            TaskError: What the index passed over is broken.
        """
        try:
            return Trajectory.from_row(json.loads(self.line(row).decode("utf-8", "replace")))
        except (ValueError, KeyError, TypeError) as error:
            raise TaskError(f"{self.path}: {self.table['id'][row].as_py()!r} cannot be read ({error!r})") from None

    def _read(self, file: Any) -> Iterator[list[dict[str, Any]]]:
        """Batches of rows from where the last reading ended."""
        file.seek(self._covered)
        rows: list[dict[str, Any]] = []
        for line in file:
            if not line.endswith(b"\n"):
                break
            self._lines += 1
            row = self._row(line)
            if row is None:
                self.broken.append(self._lines)
            else:
                rows.append({**row, "offset": self._covered, "length": len(line)})
            self._covered += len(line)
            if len(rows) == _BATCH:
                yield rows
                rows = []
        if rows:
            yield rows

    def _row(self, line: bytes) -> dict[str, Any] | None:
        from toolrl.view.lines import read_facts

        try:
            return read_facts(line, _TEXT_CHARACTERS)
        except TaskError as error:
            self._other_version = self._other_version or f"line {self._lines}: {error}"
            return None
        except ValueError:
            return None

    def _refuse_other_version(self) -> None:
        if self._other_version and not self.table.num_rows:
            raise TaskError(f"{self.path}, {self._other_version}")

    # ---- what is kept

    @property
    def _store_path(self) -> Path:
        return self.path.with_name(f"{self.path.stem}.index.arrow")

    def _restore(self) -> None:
        if not self._keep or not self._store_path.is_file():
            return
        try:
            with pyarrow.memory_map(str(self._store_path)) as source:
                table = pyarrow.ipc.open_file(source).read_all()
            about = json.loads((table.schema.metadata or {})[b"toolrl"])
        except (OSError, KeyError, ValueError, pyarrow.ArrowException):
            return  # it is made again
        if about["version"] == INDEX_VERSION:
            self.table, self.broken = table.replace_schema_metadata(None), about["broken"]
            self._covered = self._stored = about["covered"]
            self._lines, self._marks = about["lines"], tuple(about["marks"])

    def _store(self) -> None:
        if not self._keep:
            return
        about = {
            "version": INDEX_VERSION,
            "covered": self._covered,
            "lines": self._lines,
            "marks": self._marks,
            "broken": self.broken,
        }
        partial = self._store_path.with_suffix(f".{os.getpid()}.partial")
        table = self.table.replace_schema_metadata({b"toolrl": json.dumps(about)})
        try:
            with pyarrow.OSFile(str(partial), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            partial.replace(self._store_path)
            self._stored = self._covered
        except OSError:  # a folder that cannot be written to, or a full disk
            self._keep = False
            with contextlib.suppress(OSError):  # a file system that is mounted read-only
                partial.unlink()


def _marks(file: Any, covered: int) -> tuple[str, str]:
    """What the covered part of a file begins and ends with, to tell it from another file."""
    found = []
    for start in (0, max(0, covered - _MARK_BYTES)):
        found.append(hashlib.sha256(os.pread(file.fileno(), min(_MARK_BYTES, covered - start), start)).hexdigest()[:16])
    return found[0], found[1]


def _table(rows: list[dict[str, Any]]) -> pyarrow.Table:
    """A table of the columns of an index."""
    return pyarrow.table({name: pyarrow.array([row[name] for row in rows], type) for name, type in _COLUMNS.items()})
