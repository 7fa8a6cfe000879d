"""The runs that are served: their episodes and metrics, read on as they grow."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pyarrow.compute as pc

from toolrl.errors import ConfigError, TaskError
from toolrl.view.collection import Paired, Trajectories, run_names
from toolrl.view.index import FILE_NAME, TrajectoryIndex
from toolrl.view.metrics import Metrics
from toolrl.view.tokens import Vocabulary

_LIVE_SECONDS = 90.0
_KEPT = 16
_FACETS = ("success", "env", "mode", "stop")
_MARKS = (FILE_NAME, "metrics.jsonl", "config.yaml")
NEWEST, OLDEST = "", "oldest"


@dataclass(frozen=True, slots=True)
class Selection:
    """Episodes that fit a query, in an order. Only their places are kept, since there may be a hundred thousand.

    Attributes:
        episodes: All of the run.
        rows: (N,) the places of those that fit.
        facets: How often a field has each of its values among them, frequent ones first.
    """

    episodes: Trajectories
    rows: Any
    facets: dict[str, list[tuple[Any, int]]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: slice) -> Trajectories:
        return self.episodes.take(self.rows[places])

    def id(self, place: int) -> str | None:
        """The id of the episode at a place; None beyond the ends."""
        if not 0 <= place < len(self.rows):
            return None
        return str(self.episodes.table["id"][int(self.rows[place])].as_py())

    def place(self, id: str) -> int | None:
        """Where an episode is in it; None if it is not."""
        found = numpy.flatnonzero(self.rows == pc.index(self.episodes.table["id"], id).as_py())
        return int(found[0]) if len(found) else None


def _selection(episodes: Trajectories, where: str, sort: str) -> Selection:
    found = episodes.where(where) if where.strip() else episodes
    if sort not in (NEWEST, OLDEST):
        found = found.sort(sort.removeprefix("-"), descending=sort.startswith("-"))
    rows = found.table["_row"].to_numpy()
    facets = {}
    for field in _FACETS:
        counts = [(entry["values"], entry["counts"]) for entry in pc.value_counts(found.table[field]).to_pylist()]
        facets[field] = sorted(counts, key=lambda count: -count[1])
    return Selection(episodes, rows[::-1] if sort == NEWEST else rows, facets)


class Run:
    """One run. Several requests may ask at once: what changes is changed under a lock.

    Attributes:
        name: As it is shown and linked.
        folder: Where it lies.
        file: Its trajectories; they need not be there yet.
    """

    def __init__(self, name: str, path: Path):
        """Name a folder, or a file of trajectories."""
        self.name = name
        self.folder = path if path.is_dir() else path.parent
        self.file = path / FILE_NAME if path.is_dir() else path
        self.metrics = Metrics(self.folder / "metrics.jsonl")
        self._index: TrajectoryIndex | None = None
        self._all: Trajectories | None = None
        self._vocabulary: Vocabulary | None = None
        self._kept: OrderedDict[tuple[str, str], Selection] = OrderedDict()
        self._lock = threading.RLock()

    def trajectories(self) -> Trajectories | None:
        """All that have been written so far; None before the first.

        Raises:
            TaskError: They were written by a version that cannot be read.
        """
        with self._lock:
            if not self.file.is_file():
                return None
            if self._index is None:
                self._index = TrajectoryIndex(self.file)
            changed = self._index.refresh()
            if changed or self._all is None:
                self._all = Trajectories.of([self._index], names=[self.name])
                self._kept.clear()
            return self._all if len(self._all) else None

    def of_task(self, env: str, task: str, where: str = "") -> Trajectories:
        """All episodes of a task, or those that fit a query too.

        Raises:
            ConfigError: There is none.
            QueryError: The query cannot be understood.
        """
        found = self.trajectories()
        if found is not None:
            found = found.masked(pc.and_(pc.equal(found.table["env"], env), pc.equal(found.table["task"], task)))
            found = found.where(where) if where.strip() else found
        if not found:
            raise ConfigError(f"{self.name!r} has no episode of the task {task!r} of {env!r}")
        return found

    def select(self, where: str, sort: str) -> Selection | None:
        """Those that fit a query, in an order: a field's name, with `-` for descending; newest or oldest first.

        Raises:
            QueryError: The query or the order cannot be understood.
        """
        episodes = self.trajectories()
        if episodes is None:
            return None
        with self._lock:
            if (where, sort) not in self._kept:
                self._kept[where, sort] = _selection(episodes, where, sort)
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end((where, sort))
            return self._kept[where, sort]

    @property
    def broken_lines(self) -> int:
        """Lines of the file that are no trajectories."""
        return len(self._index.broken) if self._index else 0

    @property
    def version(self) -> str:
        """Changes whenever there is something new to show."""
        sizes = []
        for path in (self.file, self.folder / "metrics.jsonl"):
            try:
                status = path.stat()
                sizes.append(f"{status.st_ino:x}.{status.st_size:x}")
            except OSError:
                sizes.append("0")
        return "-".join([*sizes, "live" if self.is_live else "still"])

    @property
    def is_live(self) -> bool:
        """Whether something was written in the last minute and a half."""
        return time.time() - self.written < _LIVE_SECONDS

    @property
    def written(self) -> float:
        """When something was last written, in seconds since the epoch; 0 if never."""
        times = [0.0]
        for path in (self.file, self.folder / "metrics.jsonl"):
            try:
                times.append(path.stat().st_mtime)
            except OSError:
                continue
        return max(times)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The texts of its tokens, once its model's tokenizer is there."""
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary.of_run(self.folder)
            return self._vocabulary


class Runs:
    """The runs by their names."""

    def __init__(self, paths: Sequence[Path]):
        """Find the runs.

        Args:
            paths: Folders of runs, folders that hold such folders, files of trajectories.

        Raises:
            TaskError: There is no run at one of them.
        """
        found = [run for path in paths for run in _find(path)]
        names = run_names([path / FILE_NAME if path.is_dir() else path for path in found])
        self.by_name = {name: Run(name, path) for name, path in zip(names, found, strict=True)}
        self._compared: OrderedDict[tuple[str, ...], Paired] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Run:
        if name not in self.by_name:
            raise ConfigError(f"there is no run {name!r}; there are {', '.join(self.by_name)}")
        return self.by_name[name]

    def pair(self, a: Run, a_where: str, b: Run, b_where: str) -> Paired:
        """Compare some episodes of a run with some of another, or of the same.

        Raises:
            QueryError: A query cannot be understood.
            ConfigError: They have no task in common.
        """
        key = (a.name, a_where, a.version, b.name, b_where, b.version)
        with self._lock:
            if key not in self._compared:
                left, right = a.trajectories(), b.trajectories()
                if left is None or right is None:
                    raise ConfigError(f"there are no episodes yet in {(a if left is None else b).name!r}")
                sides = [
                    side.where(query) if query.strip() else side for side, query in ((left, a_where), (right, b_where))
                ]
                self._compared[key] = sides[0].pair(sides[1])
                while len(self._compared) > _KEPT:
                    self._compared.popitem(last=False)
            return self._compared[key]


def _find(path: Path) -> list[Path]:
    path = path.resolve()
    if path.is_file() or any((path / name).is_file() for name in _MARKS):
        return [path]
    inside = sorted(child for child in path.glob("*/") if any((child / name).is_file() for name in _MARKS))
    if not inside:
        raise TaskError(f"there is no run at {str(path)!r}; name a run's folder or a file of trajectories")
    return inside
