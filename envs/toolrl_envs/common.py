"""What the ready-made environments share."""

from __future__ import annotations

import functools
import hashlib
import heapq
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from toolrl import ConfigError, Task, TaskError, TaskSet, is_file_name, of_split, read_rows
from toolrl.rewards import exact_match, numbers_equal
from toolrl.search import Retriever, open_retriever

Split = Literal["train", "test"]

# Taken off a right answer for each tool call.
CALL_COST = 0.1

SYSTEM_PROMPT = "Use a tool only if you need it. End with <answer>...</answer>."


def check_split(split: str) -> None:
    """Refuse a split that does not exist."""
    if split not in ("train", "test"):
        raise ConfigError(f"split must be 'train' or 'test', got {split!r}")


def check_size(size: int) -> None:
    """Refuse a number of tasks that is none."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigError(f"size must be a whole number of at least 1, got {size!r}")


def check_unused(data: object, *, test_split: str = "", hub_split: str = "", **generator: object) -> None:
    """Refuse settings that would do nothing: the hub's without data, the generator's where tasks are read."""
    for name, value in (("test_split", test_split), ("hub_split", hub_split)):
        if data is None and value:
            raise ConfigError(f"{name}={value!r} is about data sets on the hub; leave it out where data= is not given")
    for name, setting in generator.items():
        if data is not None and setting is not None:
            raise ConfigError(f"{name}={setting!r} is about generated tasks; leave it out where data= is given")


class Item(Protocol):
    """What a row becomes."""

    @property
    def id(self) -> str:
        """Unique among the rows."""


ItemT = TypeVar("ItemT", bound=Item)


def read_split(
    data: str | Path,
    read: Callable[[dict[str, Any], str], ItemT | None],
    text: Callable[[ItemT], str],
    split: Split,
    *,
    size: int | None = None,
    seed: int = 0,
    test_split: str = "",
    hub_split: str = "",
    default_test_split: str = "test",
) -> list[ItemT]:
    """Read the rows of one split of a data set, and draw at most `size` of them. No row is in two splits.

    Args:
        data: What `toolrl.read_rows` reads. "{split}" in a file's name stands for the split; a file without it is
            divided: every fifth text is held out for "test". Sets on the hub have splits of their own.
        read: Makes something of a row and of the id that it has if it brings none; None leaves the row out.
        text: What is asked, by which a file is divided.
        split: "train" or "test".
        size: At most so many; None for all.
        seed: Fixes their choice and order.
        test_split: What the test split is called on the hub.
        hub_split: The only split of a set on the hub, which is divided as a file is.
        default_test_split: What the test split is called if `test_split` says nothing.

    Raises:
        TaskError: There is no such file, a row is broken, or two that differ have one id; names the line.
        ConfigError: A setting is wrong or would do nothing, the set cannot be loaded, or nothing is left for the split.
    """
    check_split(split)
    if size is not None:
        check_size(size)
    name = str(data)
    is_file = is_file_name(name)
    if is_file and (test_split or hub_split):
        setting = f"hub_split={hub_split!r}" if hub_split else f"test_split={test_split!r}"
        raise ConfigError(f"{setting} is about data sets on the hub, and data={name!r} is a file; leave it out")
    if hub_split and test_split:
        raise ConfigError(f"hub_split={hub_split!r} divides one split, so test_split={test_split!r} does nothing")
    if test_split == "train":
        raise ConfigError("test_split='train' is what is trained on; hub_split='train' divides it")
    divided = bool(hub_split) or (is_file and "{split}" not in name)
    on_hub = hub_split or (split if split == "train" else test_split or default_test_split)
    rows = read_rows(name.replace("{split}", split), split=on_hub)
    items = _read(rows, read, text, "" if divided else f"{split}-")
    if divided:
        items = of_split(items, text, split)
    # No more are kept than are drawn: some sets bring pages along.
    key = functools.partial(_place_of, split=split, seed=seed)
    drawn = sorted(items, key=key) if size is None else heapq.nsmallest(size, items, key=key)
    if not drawn:
        remedy = (
            "; it is divided by what its rows ask: give more rows, or a file for each split ('{split}' in the name)"
        )
        raise ConfigError(f"data={name!r} has nothing for split={split!r}{remedy if divided else ''}")
    return drawn


def read_tasks(data: str | Path, read: Callable[[dict[str, Any], str], Task], split: Split, **settings: Any) -> TaskSet:
    """`read_split` for rows that become tasks."""
    return TaskSet(read_split(data, read, lambda task: task.prompt, split, **settings))


def _read(
    rows: Iterator[tuple[str, dict[str, Any]]],
    read: Callable[[dict[str, Any], str], ItemT | None],
    text: Callable[[ItemT], str],
    prefix: str,
) -> Iterator[ItemT]:
    """What the rows become; one that is there twice once."""
    texts: dict[str, str] = {}
    for index, (place, row) in enumerate(rows):
        try:
            item = read(row, f"{prefix}{index}")
        except KeyError as error:
            raise TaskError(f"{place}: field {error} is missing; it has: {', '.join(row)}") from None
        except TaskError as error:
            raise TaskError(f"{place}: {error}") from None
        if item is None:
            continue
        if item.id not in texts:
            texts[item.id] = text(item)
            yield item
        elif texts[item.id] != text(item):
            raise TaskError(f"{place}: another row has the id {item.id!r} too")


def _place_of(item: Item, split: Split, seed: int) -> bytes:
    return lot(item.id, split, seed)


def lot(key: str, split: Split, seed: int) -> bytes:
    """What things are ordered by so that a seed fixes which are drawn, whatever their order was."""
    return hashlib.blake2b(f"{split}/{seed}/{key}".encode()).digest()


def same_answer(answer: str, expected: Any) -> bool:
    """The same number, which may have thousands separators, or the same text up to case, white space and quotes."""
    return numbers_equal(answer, expected) or exact_match(answer, expected)


# What the environments about the standard library search.
PYTHON_DOCS = "bm25:python-docs"


@functools.cache
def opener(retriever: str) -> Callable[[], Retriever]:
    """What opens a retriever by its name (see `toolrl.search.open_retriever`), the same for each name."""
    return functools.partial(open_retriever, retriever)
