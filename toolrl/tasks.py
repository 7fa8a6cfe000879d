"""Task sets: immutable sequences of tasks, generated or read from data, that can be shuffled and split by seed."""

from __future__ import annotations

import logging
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from toolrl.errors import ConfigError, TaskError
from toolrl.support.checking import plain_scalar
from toolrl.support.rows import read_rows
from toolrl.types import TASK_FIELDS, Task, fits_task_field

T = TypeVar("T")
_MANY = 20  # tasks of which about a fifth should be held out
_FEWEST_HELD_OUT, _MOST_HELD_OUT = 0.1, 0.4
_log = logging.getLogger(__name__)
RowToTask = Callable[[dict[str, Any], int], Task]


class TaskSet(Sequence[Task]):
    """An immutable sequence of tasks with unique ids."""

    def __init__(self, tasks: Iterable[Task | Mapping[str, Any]]):
        """Collect tasks.

        Args:
            tasks: Tasks, or rows as `task_from_row` reads them: a list of dicts, a `datasets.Dataset`, a pandas frame.

        Raises:
            TaskError: The set is empty, two tasks share an id, or an item is neither a task nor a row.
        """
        self._tasks = tuple(_collect(tasks))
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
        """Return the task with this id.

        Raises:
            TaskError: No task has this id.
        """
        try:
            return self._by_id[task_id]
        except KeyError:
            raise TaskError(f"no task has the id {task_id!r}; the first is {self._tasks[0].id!r}") from None

    def shuffled(self, seed: int) -> TaskSet:
        """Return the same tasks in an order determined by `seed`."""
        tasks = list(self._tasks)
        random.Random(seed).shuffle(tasks)
        return TaskSet(tasks)

    def take(self, count: int) -> TaskSet:
        """Return the first `count` tasks, or all if there are fewer.

        Raises:
            TaskError: `count` is below 1.
        """
        if count < 1:
            raise TaskError(f"at least one task must be taken, got {count!r}")
        return TaskSet(self._tasks[:count])

    def split(self, test_fraction: float, seed: int = 0) -> tuple[TaskSet, TaskSet]:
        """Divide into two disjoint sets (train, test) by a shuffle determined by `seed`.

        Raises:
            TaskError: One of the two would be empty.
        """
        tasks = self.shuffled(seed)
        cut = len(tasks) - round(len(tasks) * test_fraction)
        if not 0 < cut < len(tasks):
            raise TaskError(f"test_fraction={test_fraction} leaves one side of {len(tasks)} tasks empty")
        return tasks[:cut], tasks[cut:]

    def of_split(self, split: str) -> TaskSet:
        """Return the tasks of "train" or "test": about a fifth is held out, by a hash of the prompt.

        Raises:
            ConfigError: The split is neither.
            TaskError: No task is left for it.
        """
        chosen = list(of_split(self._tasks, lambda task: task.prompt, split))
        if not chosen:
            raise TaskError(f"no task is left for split={split!r}: all {len(self)} have the same prompt; add others")
        held_out = len(chosen) if split == "test" else len(self) - len(chosen)
        if len(self) >= _MANY and not _FEWEST_HELD_OUT <= held_out / len(self) <= _MOST_HELD_OUT:
            _log.warning(
                "%d of %d tasks are held out for 'test': prompts that are the same are on the same side. For other "
                "splits, make them yourself, and take `split` as a setting",
                held_out, len(self),
            )  # fmt: skip
        return TaskSet(chosen)

    @classmethod
    def generate(cls, make: Callable[[random.Random, int], Task], size: int, seed: int) -> TaskSet:
        """Generate tasks with `make(rng, index)`, where `rng` is seeded by `seed` and the index."""
        return cls(make(random.Random(f"{seed}/{index}"), index) for index in range(size))

    @classmethod
    def read(cls, source: str | Path, to_task: RowToTask | None = None, *, split: str = "train") -> TaskSet:
        """Read a file or a data set from the Hugging Face hub.

        Args:
            source: See `toolrl.support.rows.read_rows`.
            to_task: Turns a row and its index into a task; `task_from_row` by default.
            split: Which split of a data set on the hub.

        Raises:
            TaskError: The file does not exist, or a row is broken; the message names the line.
            ConfigError: The data set cannot be loaded from the hub.
        """
        rows = enumerate(read_rows(source, split=split))
        return cls(_to_task(row, index, to_task or task_from_row, place) for index, (place, row) in rows)


def of_split(items: Iterable[T], text: Callable[[T], str], split: str) -> Iterator[T]:
    """Yield the items of one split, for files and environments that have no splits of their own.

    About a fifth is held out for "test", by a hash of the text: an item stays on its side whatever is added, and items
    with the same text are on the same side. If a few items all fall on one side, one text is moved to the other.

    Raises:
        ConfigError: The split is neither "train" nor "test".
    """
    if split not in ("train", "test"):
        raise ConfigError(f"split must be 'train' or 'test', got {split!r}")
    waiting: list[T] = []
    sides: set[bool] = set()
    for item in items:
        if len(sides) == 2:
            if _in_test(text(item)) == (split == "test"):
                yield item
            continue
        waiting.append(item)
        sides.add(_in_test(text(item)))
        if len(sides) == 2:
            yield from (early for early in waiting if _in_test(text(early)) == (split == "test"))
    if len(sides) == 1:
        texts = {_plain(text(item)) for item in waiting}
        moved = min(texts, key=lambda one: (zlib.crc32(one.encode()), one)) if len(texts) > 1 else None
        stays = sides == {split == "test"}
        yield from (item for item in waiting if (_plain(text(item)) != moved) == stays)


def is_held_out(key: str) -> bool:
    """Whether something belongs to the test split: every fifth does, by a hash of its key."""
    return zlib.crc32(key.encode()) % 5 == 0


def _in_test(text: str) -> bool:
    return is_held_out(_plain(text))


def _plain(text: str) -> str:
    """Normalise case and white space, so that the same question in two spellings is one text."""
    return " ".join(text.casefold().split())


def task_from_row(row: Mapping[str, Any], index: int) -> Task:
    """Read a row with the fields `prompt`, `answer` and optionally `id` and `TASK_FIELDS`; others become metadata.

    A prompt may be a list with one user message, as in TRL's conversational data sets. A column with the name of a
    typed field but values of another type becomes metadata too.
    """
    row = {name: plain_scalar(value) for name, value in row.items()}
    typed = {name: row.pop(name) for name in TASK_FIELDS if name in row and fits_task_field(name, row[name])}
    prompt, answer, id = row.pop("prompt"), row.pop("answer"), row.pop("id", None)
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], Mapping):
        prompt = prompt[0].get("content") if prompt[0].get("role") == "user" else prompt
    return Task(str(index if id is None else id), prompt, answer, row, **typed)


def _collect(tasks: Any) -> Iterator[Task]:
    """Yield tasks unchanged, and rows as tasks."""
    if hasattr(tasks, "itertuples"):  # a pandas frame, which iterates over its columns
        tasks = tasks.to_dict("records")
    for method in ("to_dicts", "to_pylist"):  # polars frames and Arrow tables
        if hasattr(tasks, method):
            tasks = getattr(tasks, method)()
    if isinstance(tasks, (str, Path)):
        raise TaskError(f"tasks must be tasks or rows, got {str(tasks)!r}; TaskSet.read(...) reads a file or a hub set")
    if isinstance(tasks, Mapping):
        names = ", ".join(map(repr, list(tasks)[:5]))
        raise TaskError(
            f"tasks must be a list of tasks or rows, got a mapping of {names}; choose one of them, or list its rows"
        )
    if not isinstance(tasks, Iterable):
        raise TaskError(f"tasks must be tasks or rows, got a single {type(tasks).__name__}: {tasks!r:.80}")
    for index, item in enumerate(tasks):
        if isinstance(item, Task):
            yield item
        elif isinstance(item, Mapping):
            yield _to_task(item, index, task_from_row, f"task {index}")
        else:
            raise TaskError(
                f"task {index} must be a Task, or a row with prompt and answer, got {type(item).__name__}: {item!r:.80}"
            )


def _to_task(row: Mapping[str, Any], index: int, to_task: Callable[[Any, int], Task], place: str) -> Task:
    try:
        task = to_task(row, index)
    except KeyError as error:
        fields = ", ".join(map(str, row))
        raise TaskError(f"{place}: field {error} is missing; it has: {fields}") from None
    except TaskError as error:
        raise TaskError(f"{place}: {error}") from None
    if not isinstance(task, Task):
        raise TaskError(f"{place}: to_task must return a Task, got {type(task).__name__}")
    return task
