"""Shared by the ready-made environments: one loader for files and hub data sets, and a few settings."""

from __future__ import annotations

import functools
import hashlib
import heapq
import logging
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from toolrl import ConfigError, Task, TaskError, TaskSet, is_file_name, of_split, read_rows
from toolrl.rewards import exact_match, numbers_equal
from toolrl.search import Retriever, open_retriever

Split = Literal["train", "test"]

# Deducted from the reward of a right answer for each tool call.
CALL_COST = 0.1

SYSTEM_PROMPT = "Use a tool only if you need it. End with <answer>...</answer>."

# The corpus of the environments about the standard library.
PYTHON_DOCS = "bm25:python-docs"

_log = logging.getLogger(__name__)


def check_split(split: str, size: int | None = None) -> None:
    """Refuse a split that does not exist, and a number of tasks that is not a positive whole number."""
    if split not in ("train", "test"):
        raise ConfigError(f"split must be 'train' or 'test', got {split!r}")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ConfigError(f"size must be a whole number of at least 1, got {size!r}")


def check_paraphrased(split: str, **settings: object) -> None:
    """Refuse settings of the generator next to `paraphrased`.

    Raises:
        ConfigError: The split is not "test", or another setting would have no effect.
    """
    if split != "test":
        raise ConfigError(f"paraphrased questions are held out: pass split='test', got {split!r}")
    if given := [name for name, value in settings.items() if value is not None]:
        raise ConfigError(f"paraphrased questions are a fixed list, on which {given[0]} has no effect; leave it out")


def check_unused(data: object, *, test_split: str = "", hub_split: str = "", **generator: object) -> None:
    """Refuse settings without effect: those of the hub without data, those of the generator with data."""
    for name, value in (("test_split", test_split), ("hub_split", hub_split)):
        if data is None and value:
            raise ConfigError(f"{name}={value!r} applies to data sets on the hub; remove it, or set data=")
    for name, setting in generator.items():
        if data is not None and setting is not None:
            raise ConfigError(f"{name}={setting!r} applies to generated tasks; remove it, or remove data=")


class Item(Protocol):
    """The result of reading a row."""

    @property
    def id(self) -> str:
        """Unique among the rows."""

    @property
    def prompt(self) -> str:
        """The question, by which a file is divided."""


ItemT = TypeVar("ItemT", bound=Item)


def read_split(
    data: str | Path,
    read: Callable[[dict[str, Any], str], ItemT | None],
    split: Split,
    *,
    size: int | None = None,
    seed: int = 0,
    test_split: str = "",
    hub_split: str = "",
    default_test_split: str = "test",
    skip_broken: bool = False,
) -> list[ItemT]:
    """Read one split of a data set and draw at most `size` of its rows. No row is in two splits.

    Args:
        data: Anything `toolrl.read_rows` reads. "{split}" in a file name stands for the split; a file without it is
            divided by `toolrl.of_split`. Data sets on the hub have their own splits.
        read: Turns a row, and the id to use if it has none, into an item; None skips the row.
        split: "train" or "test".
        size: Maximum number of items; None for all.
        seed: Fixes which are drawn, and their order.
        test_split: The name of the test split on the hub.
        hub_split: The only split of a data set on the hub, which is then divided like a file.
        default_test_split: The name of the test split on the hub where `test_split` is empty.
        skip_broken: Skip rows that cannot be read, with a warning, unless there are no others.

    Raises:
        TaskError: The file does not exist, a row is broken, or two different rows share an id; names the line.
        ConfigError: A setting is wrong or has no effect, the data set cannot be loaded, or the split is empty.
    """
    check_split(split, size)
    name = str(data)
    is_file = is_file_name(name)
    if is_file and (test_split or hub_split):
        setting = f"hub_split={hub_split!r}" if hub_split else f"test_split={test_split!r}"
        raise ConfigError(f"{setting} applies to data sets on the hub, but data={name!r} is a file; remove it")
    if hub_split and test_split:
        raise ConfigError(f"hub_split={hub_split!r} divides a single split, so test_split={test_split!r} has no effect")
    if test_split == "train":
        raise ConfigError("test_split='train' is the training split; use hub_split='train' to divide it")
    divided = bool(hub_split) or (is_file and "{split}" not in name)
    on_hub = hub_split or (split if split == "train" else test_split or default_test_split)
    rows = read_rows(name.replace("{split}", split), split=on_hub)
    items = _read(rows, read, "" if divided else f"{split}-", name if skip_broken else "")
    if divided:
        items = of_split(items, lambda item: item.prompt, split)
    # Only the items drawn are kept in memory: some data sets come with whole pages.
    drawn = heapq.nsmallest(size, items, _order(split, seed)) if size else sorted(items, key=_order(split, seed))
    if not drawn:
        remedy = "; add rows, or use one file per split ('{split}' in the name)" if divided else ""
        raise ConfigError(f"data={name!r} has nothing for split={split!r}{remedy}")
    return drawn


def load_tasks(data: str | Path, read: Callable[[dict[str, Any], str], Task], split: Split, **settings: Any) -> TaskSet:
    """`read_split` for rows that become tasks."""
    return TaskSet(read_split(data, read, split, **settings))


def _read(
    rows: Iterator[tuple[str, dict[str, Any]]],
    read: Callable[[dict[str, Any], str], ItemT | None],
    prefix: str,
    skipping_in: str,
) -> Iterator[ItemT]:
    """Read rows, each distinct one once; broken ones are skipped if `skipping_in` names the data set."""
    prompts: dict[str, str] = {}
    broken: list[str] = []
    for index, (place, row) in enumerate(rows):
        try:
            item = read(row, f"{prefix}{index}")
        except KeyError as error:
            raise TaskError(f"{place}: field {error} is missing; it has: {', '.join(row)}") from None
        except TaskError as error:
            if not skipping_in:
                raise TaskError(f"{place}: {error}") from None
            broken.append(f"{place}: {error}")
            continue
        if item is None:
            continue
        if item.id not in prompts:
            prompts[item.id] = item.prompt
            yield item
        elif prompts[item.id] != item.prompt:
            raise TaskError(f"{place}: another row has the id {item.id!r} too")
    if broken and not prompts:
        raise TaskError(f"no row of data={skipping_in!r} can be used; the first: {broken[0]}")
    if broken:
        _log.warning("skipped %d rows of %s; the first: %s", len(broken), skipping_in, broken[0])


def _order(split: Split, seed: int) -> Callable[[Item], bytes]:
    """A random order fixed by the seed, whatever the order of the rows."""
    return lambda item: hashlib.blake2b(f"{split}/{seed}/{item.id}".encode()).digest()


def task_id(kind: str, key: str) -> str:
    """The id of a generated task: its kind, and a hash of what tells it apart."""
    return f"{kind}-{zlib.crc32(key.encode()):08x}"


def same_answer(answer: str, expected: Any) -> bool:
    """Whether both are the same number (thousands separators allowed) or text (ignoring case, spaces and quotes)."""
    return numbers_equal(answer, expected) or exact_match(answer, expected)


@functools.cache
def opener(retriever: str) -> Callable[[], Retriever]:
    """A function that opens a retriever by name (see `toolrl.search.open_retriever`), the same one for each name."""
    return functools.partial(open_retriever, retriever)
