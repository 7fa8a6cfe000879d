"""What the ready-made environments share."""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections.abc import Callable
from typing import Any, Literal

from toolrl import ConfigError
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


def belongs(key: str, split: Split) -> bool:
    """Whether what has this key is of the split, where a data set has only one: every fifth is held out for "test"."""
    return (zlib.crc32(key.encode()) % 5 == 0) == (split == "test")


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
