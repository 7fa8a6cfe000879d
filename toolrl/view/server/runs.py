"""The runs being served: their trajectories and metrics, followed as they grow."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
import pyarrow.compute as pc

from toolrl.errors import ConfigError, TaskError
from toolrl.evaluation import Comparison
from toolrl.view.collection import Trajectories, run_names
from toolrl.view.index import FILE_NAME, TrajectoryIndex
from toolrl.view.metrics import Metrics
from toolrl.view.tokens import Vocabulary

_LIVE_SECONDS = 90.0
_CACHED = 16
_FACETS = ("success", "env", "mode", "stop")
_RUN_FILES = (FILE_NAME, "metrics.jsonl", "config.yaml")
NEWEST, OLDEST = "", "oldest"


@dataclass(frozen=True, slots=True)
class Matches:
    """The trajectories that match a query, in an order. Only row numbers are kept: there may be a hundred thousand.

    Attributes:
        trajectories: All trajectories of the run.
        rows: (N,) the rows that match.
        facets: For some fields, each value with its count, most frequent first.
    """

    trajectories: Trajectories
    rows: Any
    facets: dict[str, list[tuple[Any, int]]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: slice) -> Trajectories:
        return self.trajectories.take(self.rows[positions])

    def id(self, position: int) -> str | None:
        """The id of the trajectory at a position; None if out of range."""
        if not 0 <= position < len(self.rows):
            return None
        return str(self.trajectories.table["id"][int(self.rows[position])].as_py())

    def position(self, id: str) -> int | None:
        """The position of a trajectory; None if it does not match."""
        found = numpy.flatnonzero(self.rows == pc.index(self.trajectories.table["id"], id).as_py())
        return int(found[0]) if len(found) else None


def _match(trajectories: Trajectories, where: str, sort: str) -> Matches:
    found = trajectories.where(where) if where.strip() else trajectories
    if sort not in (NEWEST, OLDEST):
        found = found.sort(sort.removeprefix("-"), descending=sort.startswith("-"))
    rows = found.table["_row"].to_numpy()
    facets = {}
    for field in _FACETS:
        counts = [(entry["values"], entry["counts"]) for entry in pc.value_counts(found.table[field]).to_pylist()]
        facets[field] = sorted(counts, key=lambda count: -count[1])
    return Matches(trajectories, rows[::-1] if sort == NEWEST else rows, facets)


class Run:
    """One run. Requests are concurrent: a lock guards its state.

    Attributes:
        name: Its name on pages and in links.
        folder: Its folder.
        file: Its file of trajectories, which need not exist yet.
    """

    def __init__(self, name: str, path: Path):
        """Serve a folder, or a file of trajectories."""
        self.name = name
        self.folder = path if path.is_dir() else path.parent
        self.file = path / FILE_NAME if path.is_dir() else path
        self.metrics = Metrics(self.folder / "metrics.jsonl")
        self._index: TrajectoryIndex | None = None
        self._trajectories: Trajectories | None = None
        self._vocabulary: Vocabulary | None = None
        self._match = lru_cache(_CACHED)(_match)
        self._lock = threading.RLock()

    def trajectories(self) -> Trajectories | None:
        """All trajectories written so far; None before the first.

        Raises:
            TaskError: They were written by a version that cannot be read.
        """
        with self._lock:
            if not self.file.is_file():
                return None
            if self._index is None:
                self._index = TrajectoryIndex(self.file)
            changed = self._index.refresh()
            if changed or self._trajectories is None:
                self._trajectories = Trajectories.of([self._index], names=[self.name])
                self._match.cache_clear()
            return self._trajectories if len(self._trajectories) else None

    def of_task(self, env: str, task: str, where: str = "") -> Trajectories:
        """All trajectories of a task, or those that match a query.

        Raises:
            ConfigError: No run was found.
            QueryError: The query cannot be understood.
        """
        found = self.trajectories()
        if found is not None:
            found = found.masked(pc.and_(pc.equal(found.table["env"], env), pc.equal(found.table["task"], task)))
            found = found.where(where) if where.strip() else found
        if not found:
            raise ConfigError(f"{self.name!r} has no episode of the task {task!r} of {env!r}")
        return found

    def match(self, where: str, sort: str) -> Matches | None:
        """The trajectories that match a query, in an order; None before the first is written.

        Args:
            where: The query; empty for all.
            sort: A field's name, with `-` for descending order, or `NEWEST` or `OLDEST` first.

        Raises:
            QueryError: The query or the order cannot be understood.
        """
        trajectories = self.trajectories()
        if trajectories is None:
            return None
        with self._lock:
            return self._match(trajectories, where, sort)

    @property
    def broken_lines(self) -> int:
        """The number of lines in the file that are not trajectories."""
        return len(self._index.broken) if self._index else 0

    @property
    def version(self) -> str:
        """A stamp that changes whenever there is something new to show."""
        sizes = [f"{status.st_ino:x}.{status.st_size:x}" for status in self._stats()]
        return "-".join([*sizes, "live" if self.is_live else "still"])

    @property
    def is_live(self) -> bool:
        """Whether something was written in the last minute and a half."""
        return time.time() - self.written < _LIVE_SECONDS

    @property
    def written(self) -> float:
        """The time of the last write, in seconds since the epoch; 0 if there was none."""
        return max((status.st_mtime for status in self._stats()), default=0.0)

    def _stats(self) -> list[os.stat_result]:
        """The status of its files, as far as they exist."""
        found = []
        for path in (self.file, self.folder / "metrics.jsonl"):
            with contextlib.suppress(OSError):
                found.append(path.stat())
        return found

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The texts of its tokens, once its model's tokenizer exists."""
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary.of_run(self.folder)
            return self._vocabulary


class Runs:
    """The runs, by name."""

    def __init__(self, paths: Sequence[Path]):
        """Find the runs.

        Args:
            paths: Folders of runs, folders with such folders in them, or files of trajectories.

        Raises:
            TaskError: There is no run at one of the paths.
        """
        found = [run for path in paths for run in _find(path)]
        names = run_names([path / FILE_NAME if path.is_dir() else path for path in found])
        self.by_name = {name: Run(name, path) for name, path in zip(names, found, strict=True)}
        self._compare = lru_cache(_CACHED)(_compare)
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Run:
        if name not in self.by_name:
            raise ConfigError(f"unknown run {name!r}; the runs are {', '.join(self.by_name)}")
        return self.by_name[name]

    def compare(self, a: Run, a_where: str, b: Run, b_where: str, value: str) -> Comparison:
        """Compare some trajectories of a run, as "A", with some of another run, or of the same, as "B".

        Raises:
            QueryError: A query cannot be understood.
            ConfigError: No task was played in both.
        """
        with self._lock:
            return self._compare(value, (a, a_where, a.version), (b, b_where, b.version))


def _compare(value: str, *sides: tuple[Run, str, str]) -> Comparison:
    """Compare two runs, each given with a query and with its version, which only makes the cache miss."""
    found = []
    for run, where, _ in sides:
        trajectories = run.trajectories()
        if trajectories is None:
            raise ConfigError(f"{run.name!r} has no episodes yet")
        found.append(trajectories.where(where) if where.strip() else trajectories)
    return found[0].compare(found[1], value=value, names=("A", "B"))


def _find(path: Path) -> list[Path]:
    path = path.resolve()
    if path.is_file() or any((path / name).is_file() for name in _RUN_FILES):
        return [path]
    inside = sorted(child for child in path.glob("*/") if any((child / name).is_file() for name in _RUN_FILES))
    if not inside:
        raise TaskError(f"there is no run at {str(path)!r}; name a run's folder or a file of trajectories")
    return inside
