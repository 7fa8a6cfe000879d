"""Counts what a tool call uses (requests, cache hits, money) from anywhere below it.

The counts of an episode's calls are in its trajectory's `usage`, along with those its resources report.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Usage:
    """Amounts by name. Thread-safe."""

    def __init__(self) -> None:
        self._amounts: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, name: str, amount: float) -> None:
        """Add to an amount."""
        with self._lock:
            self._amounts[name] = self._amounts.get(name, 0.0) + amount

    def amounts(self) -> dict[str, float]:
        """All amounts so far."""
        with self._lock:
            return dict(self._amounts)


_current: ContextVar[Usage | None] = ContextVar("toolrl_usage", default=None)


def count_usage(name: str, amount: float = 1.0) -> None:
    """Add to the usage of the tool call in progress; does nothing outside of one."""
    usage = _current.get()
    if usage is not None:
        usage.add(name, amount)


@contextmanager
def counting(usage: Usage) -> Iterator[None]:
    """Make `count_usage` add to `usage`, here and in threads that copy this context."""
    token = _current.set(usage)
    try:
        yield
    finally:
        _current.reset(token)
