"""`award`: a tool or a user gives something for the turn that called it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from toolrl.support.checking import finite, shown
from toolrl.types import Award

_current: ContextVar[list[Award] | None] = ContextVar("toolrl_awards", default=None)


def award(value: float, reason: str = "") -> None:
    """Award the turn in progress; call it from a tool or a user.

    Awards are kept with the turn, shown in the viewer and returned by Gymnasium's `step`. The environment bounds their
    sum (`Limits.awards`), and its reward decides what they are worth (`Episode.awards`).

    Args:
        value: Positive or negative.
        reason: Why, for people.

    Raises:
        ValueError: The value is not finite.
        TypeError: The value is not a number, or the reason is not text.
        RuntimeError: No tool or user of an episode is running.
    """
    number = finite("an award", value)
    if not isinstance(reason, str):
        raise TypeError(f"the reason of an award must be text, got {shown(reason)}")
    awards = _current.get()
    if awards is None:
        raise RuntimeError("award() was called outside of an episode; call it in a tool or a user")
    awards.append(Award(number, reason))


@contextmanager
def collecting(awards: list[Award]) -> Iterator[None]:
    """Make `award` append to a list, here and in threads that copy this context."""
    token = _current.set(awards)
    try:
        yield
    finally:
        _current.reset(token)
