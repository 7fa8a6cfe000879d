"""Task sets: sized, seedable, splittable sequences of tasks, generated or read from data."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from toolrl.errors import TaskError
from toolrl.rows import read_rows
from toolrl.types import Task

RowToTask = Callable[[dict[str, Any], int], Task]


class TaskSet(Sequence[Task]):
    """An immutable sequence of tasks with unique ids."""

    def __init__(self, tasks: Iterable[Task]):
        """Collect tasks.

        Raises:
            TaskError: There are none, or two share an id.
        """
        self._tasks = tuple(tasks)
        self._by_id = {task.id: task for task in self._tasks}
        if not self._tasks:
            raise TaskError("a task set needs at least one task, got none")
        if len(self._by_id) < len(self._tasks):
            duplicate = Counter(task.id for task in self._tasks).most_common(1)[0][0]
            raise TaskError(f"two tasks have the id {duplicate!r}; ids must be unique")

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> TaskSet: ...
    def __getitem__(self, index: int | slice) -> Task | TaskSet:
        return TaskSet(self._tasks[index]) if isinstance(index, slice) else self._tasks[index]

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks)

    def __repr__(self) -> str:
        return f"TaskSet({len(self)} tasks, {self._tasks[0].id!r} ...)"

    def by_id(self, task_id: str) -> Task:
        """Return the task with that id.

        Raises:
            TaskError: There is none.
        """
        try:
            return self._by_id[task_id]
        except KeyError:
            raise TaskError(f"no task has the id {task_id!r}; the first is {self._tasks[0].id!r}") from None

    def shuffled(self, seed: int) -> TaskSet:
        """The same tasks in an order fixed by `seed`."""
        tasks = list(self._tasks)
        random.Random(seed).shuffle(tasks)
        return TaskSet(tasks)

    def take(self, count: int) -> TaskSet:
        """The first `count` tasks, or all if there are fewer."""
        return TaskSet(self._tasks[:count])

    def split(self, test_fraction: float, seed: int = 0) -> tuple[TaskSet, TaskSet]:
        """Divide into two disjoint sets (train, test), by a shuffle fixed by `seed`."""
        tasks = self.shuffled(seed)
        cut = len(tasks) - round(len(tasks) * test_fraction)
        if not 0 < cut < len(tasks):
            raise TaskError(f"test_fraction={test_fraction} leaves one side of {len(tasks)} tasks empty")
        return tasks[:cut], tasks[cut:]

    @classmethod
    def generate(cls, make: Callable[[random.Random, int], Task], size: int, seed: int) -> TaskSet:
        """Generate tasks: `make(rng, index)` is called with a generator fixed by `seed` and the index."""
        return cls(make(random.Random(f"{seed}/{index}"), index) for index in range(size))

    @classmethod
    def read(cls, source: str | Path, to_task: RowToTask | None = None, *, split: str = "train") -> TaskSet:
        """Read a file or a data set on the Hugging Face hub.

        Args:
            source: See `toolrl.rows.read_rows`.
            to_task: Turns a row and its index into a task; the default reads the fields `id`
                (optional), `prompt`, `answer`; the others become metadata.
            split: Of a set on the hub.

        Raises:
            TaskError: There is no such file, or a row is broken; names the line.
            ConfigError: The set cannot be loaded from the hub.
        """
        rows = enumerate(read_rows(source, split=split))
        return cls(_to_task(row, index, to_task or task_from_row, place) for index, (place, row) in rows)


def task_from_row(row: dict[str, Any], index: int) -> Task:
    """Read a row with the fields `prompt`, `answer` and optionally `id`; the others become metadata."""
    row = dict(row)
    return Task(str(row.pop("id", index)), row.pop("prompt"), row.pop("answer"), row)


def _to_task(row: dict[str, Any], index: int, to_task: RowToTask, place: str) -> Task:
    try:
        task = to_task(row, index)
    except KeyError as error:
        fields = ", ".join(row)
        raise TaskError(f"{place}: field {error} is missing; it has: {fields}") from None
    except TaskError as error:
        raise TaskError(f"{place}: {error}") from None
    if not isinstance(task.prompt, str):
        raise TaskError(f"{place}: the prompt must be text, got {task.prompt!r}")
    return task
