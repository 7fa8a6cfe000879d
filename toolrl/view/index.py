"""An index of a file of trajectories: a few facts about each in columns, and the position of its line.

A line holds thousands of token ids; a question about a run needs a few numbers of each episode. Each line is read once,
and the index is kept in `trajectories.index.arrow` next to the file.
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

from toolrl.errors import TaskError
from toolrl.trajectory import Trajectory
from toolrl.view.columns import SCHEMA, read_columns

INDEX_VERSION = 3
FILE_NAME = "trajectories.jsonl"
_BATCH = 4_000
_MARK_BYTES = 512


def trajectory_file(run: str | Path) -> Path:
    """The file of trajectories in a run's folder, or the file itself.

    Raises:
        TaskError: There is no such file, or it cannot be read.
    """
    path = Path(run)
    try:
        file = path / FILE_NAME if path.is_dir() else path
        found = file.is_file() and os.access(file, os.R_OK)
    except OSError as error:
        raise TaskError(f"cannot read {str(path)!r}: {error.strerror}") from None
    if not found:
        raise TaskError(f"no readable trajectories at {str(file)!r}; name a run's folder or a file of trajectories")
    return file


class TrajectoryIndex:
    """The index of one file.

    Attributes:
        path: The file.
        table: One row per trajectory, in the file's order; `SCHEMA` in `toolrl.view.columns` has the columns.
        broken: The numbers, from 1, of the lines that cannot be read as trajectories; they are skipped.
    """

    def __init__(self, path: str | Path, *, keep: bool = True):
        """Load the stored index if it matches the file, and read the lines that it lacks.

        Args:
            path: A run's folder, or a file of trajectories.
            keep: Whether to store the index next to the file; it is not stored where that cannot be written.

        Raises:
            TaskError: The file is missing, or all its lines are of a version that cannot be read.
        """
        self.path = trajectory_file(path)
        self.table = SCHEMA.empty_table()
        self.broken: list[int] = []
        self._keep = keep
        self._other_version = ""
        self._covered = self._lines = self._stored = 0
        self._marks = ("", "")
        self._restore()
        self.refresh()

    def refresh(self) -> bool:
        """Read the lines appended since the last call, and return whether anything changed.

        An unfinished last line waits for the next call. A file that was replaced or cut is read again from the start.
        """
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if self._covered and (size < self._covered or self._marks != _marks(file, self._covered)):
                self.table, self.broken = SCHEMA.empty_table(), []
                self._covered = self._lines = self._stored = 0
            if size == self._covered:
                self._refuse_other_version()
                return False
            tables, broken = [self.table], len(self.broken)
            for rows in self._read(file):
                tables.append(pyarrow.Table.from_pylist(rows, schema=SCHEMA))
            changed = len(tables) > 1
            if changed:
                self.table = pyarrow.concat_tables(tables).combine_chunks()
            self._marks = _marks(file, self._covered)
        self._refuse_other_version()
        if new := self.broken[broken:]:
            warnings.warn(
                f"{self.path}: {len(new)} lines cannot be read as trajectories and are skipped, the first is line "
                f"{new[0]}{f' ({self._other_version})' if self._other_version else ''}",
                stacklevel=2,
            )
        if self._covered > 1.1 * self._stored:
            self._store()
        return changed

    def line(self, row: int) -> bytes:
        """The line of a trajectory, by its row in `table`."""
        with self.path.open("rb") as file:
            file.seek(self.table["offset"][row].as_py())
            return file.read(self.table["length"][row].as_py())

    def read(self, row: int) -> Trajectory:
        """The trajectory at a row of `table`; bytes that are not UTF-8 are replaced.

        Raises:
            TaskError: A part of the line that the index skips is broken.
        """
        try:
            return Trajectory.from_row(json.loads(self.line(row).decode("utf-8", "replace")))
        except (ValueError, AttributeError) as error:
            raise TaskError(f"{self.path}: {self.table['id'][row].as_py()!r} cannot be read ({error!r})") from None

    def _read(self, file: Any) -> Iterator[list[dict[str, Any]]]:
        """Rows in batches, from where the last call stopped."""
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
        try:
            return read_columns(line)
        except TaskError as error:
            self._other_version = self._other_version or f"line {self._lines}: {error}"
            return None
        except ValueError:
            return None

    def _refuse_other_version(self) -> None:
        if self._other_version and not self.table.num_rows:
            raise TaskError(f"{self.path}, {self._other_version}")

    # ---- the stored index

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
            return  # it is rebuilt
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
        except OSError:  # a read-only folder, or a full disk
            self._keep = False
            with contextlib.suppress(OSError):  # a read-only file system
                partial.unlink()


def _marks(file: Any, covered: int) -> tuple[str, str]:
    """Hashes of the first and last bytes of the covered part, to recognise a file that was replaced."""
    found = []
    for start in (0, max(0, covered - _MARK_BYTES)):
        found.append(hashlib.sha256(os.pread(file.fileno(), min(_MARK_BYTES, covered - start), start)).hexdigest()[:16])
    return found[0], found[1]
