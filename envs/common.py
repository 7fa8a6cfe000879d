"""What the ready-made environments share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

from toolrl import ConfigError
from toolrl.search import Retriever, open_retriever

Split = Literal["train", "test"]

# Taken off a right answer for each tool call.
CALL_COST = 0.1

SYSTEM_PROMPT = "Use a tool only if you need it. End with <answer>...</answer>."


def check_split(split: str) -> None:
    """Refuse a split that does not exist."""
    if split not in ("train", "test"):
        raise ConfigError(f"split must be 'train' or 'test', got {split!r}")


# What the environments about the standard library search.
PYTHON_DOCS = "bm25:python-docs"


@functools.cache
def opener(retriever: str) -> Callable[[], Retriever]:
    """What opens a retriever by its name (see `toolrl.search.open_retriever`), the same for each name."""
    return functools.partial(open_retriever, retriever)
