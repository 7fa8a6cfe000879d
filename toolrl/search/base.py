"""What a search backend is: a query goes in, the best documents come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Document:
    """One searchable text.

    Attributes:
        id: Unique within its corpus, stable between runs.
        title: What the text is about, in a few words.
        text: The text itself.
        url: Where it comes from; empty if it has no address.
        score: How well it matches the query that found it, on the backend's own scale (higher is
            better, comparable within one result list only); 0 outside of a result.
    """

    id: str
    title: str
    text: str
    url: str = ""
    score: float = 0.0


@runtime_checkable
class Retriever(Protocol):
    """A search backend. One instance serves many episodes at once, so its methods are thread-safe.

    That nothing was found is an empty list. That nothing could be asked (the backend is down,
    unreachable, or limits us) raises `toolrl.errors.RetrieverFault`, and the sample stays unscored.
    """

    def search(self, query: str, k: int) -> list[Document]:
        """Return at most `k` documents, best first, with their scores.

        Raises:
            RetrieverFault: The backend is down or limits us.
        """
        ...

    def search_batch(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Return one result list per query, in the order of the queries.

        Raises:
            RetrieverFault: The backend is down or limits us.
        """
        ...

    def close(self) -> None:
        """Release connections and processes; may be called twice."""
        ...
