"""What a search backend is: a query goes in, the best documents come out."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from toolrl.errors import ConfigError, ToolError


@dataclass(frozen=True, slots=True)
class Document:
    """One searchable text.

    Attributes:
        id: Unique within its corpus, stable between runs; a page's is its URL.
        title: What the text is about, in a few words.
        text: The text itself; of a web result the snippet.
        url: Where it comes from; empty if it has no address.
        score: How well it matches the query that found it, on the backend's own scale (higher is
            better, comparable within one result list only); 0 outside of a result.
    """

    id: str
    title: str
    text: str
    url: str = ""
    score: float = 0.0


class NotReadable(ToolError):
    """A document or page that was asked for cannot be shown: there is none, or it may not be read.

    The message is for the model.
    """


class Retriever(ABC):
    """A search backend. One instance serves many episodes at once, so its methods are thread-safe.

    That nothing was found is an empty list. That nothing could be asked (the backend is down,
    unreachable, or limits us) raises `toolrl.errors.RetrieverFault`, and the sample stays unscored.

    A subclass has `search`; `search_batch` too where asking together is cheaper, and `read` if it has
    more to show than its results do.
    """

    @property
    def identity(self) -> str:
        """The backend and those of its settings that results depend on, as one text: part of a cache's key."""
        return type(self).__qualname__

    @abstractmethod
    def search(self, query: str, k: int) -> list[Document]:
        """Return at most `k` documents, best first, with their scores.

        Raises:
            RetrieverFault: The backend is down or limits us.
            ConfigError: `k` is not positive.
        """

    def search_batch(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Return one result list per query, in the order of the queries; raises as `search`."""
        return [self.search(query, k) for query in queries]

    def read(self, reference: str) -> Document:
        """Return the whole document of an id or URL.

        Raises:
            NotReadable: There is none, or it may not be read.
            RetrieverFault: The backend is down or limits us.
        """
        raise NotReadable(f"{reference!r} cannot be opened here: there are only search results")

    async def asearch(self, query: str, k: int) -> list[Document]:
        """`search` for asynchronous callers."""
        return await asyncio.to_thread(self.search, query, k)

    async def asearch_batch(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """`search_batch` for asynchronous callers."""
        return await asyncio.to_thread(self.search_batch, queries, k)

    async def aread(self, reference: str) -> Document:
        """`read` for asynchronous callers."""
        return await asyncio.to_thread(self.read, reference)

    def close(self) -> None:
        """Release connections and processes; may be called twice."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_k(k: int) -> None:
    """Refuse a number of results that is not positive.

    Raises:
        ConfigError: It is not.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
