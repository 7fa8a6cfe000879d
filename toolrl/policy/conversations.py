"""Which of several engines has a conversation in its cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

_REMEMBERED = 20_000


class Conversations(Generic[T]):
    """Remembers who sampled the latest turn of each conversation."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, T] = OrderedDict()

    def find(self, prompt_ids: Sequence[int]) -> T | None:
        """Who has the longest prefix of a conversation (P,); None if nobody is known."""
        known = None
        if self._known:
            for key in _prefixes(prompt_ids):
                known = self._known.get(key, known)
        return known

    def remember(self, prompt_ids: Sequence[int], ids: Sequence[int], who: T) -> None:
        """Note who has a conversation up to here: its prompt (P,) and the turn (T,)."""
        *_, key = _prefixes([*prompt_ids, *ids])
        self._known[key] = who
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def _prefixes(ids: Sequence[int]) -> Iterator[int]:
    """A hash of each prefix of a conversation (len(ids),)."""
    key = 0
    for id in ids:
        key = hash((key, id))
        yield key
