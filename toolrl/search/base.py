"""The interface of search backends: a query goes in, the best documents come out."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from toolrl.errors import ConfigError, ToolError
from toolrl.support.closing import Closeable


@dataclass(frozen=True, slots=True)
class Document:
    """One searchable text.

    Attributes:
        id: Unique within its corpus, stable between runs; a page's is its URL.
        title: What the text is about, in a few words.
        text: The text itself; for a web result the snippet.
        url: Its source; empty if it has no address.
        score: How well it matches the query, on the backend's own scale (higher is better; only comparable
            within one result list); 0 outside of a result.
    """

    id: str
    title: str
    text: str
    url: str = ""
    score: float = 0.0


class NotReadable(ToolError):
    """The requested document or page does not exist, or may not be read.

    The message is for the model.
    """


class Retriever(Closeable):
    """A search backend. One instance serves many episodes at once, so its methods are thread-safe.

    A search that finds nothing returns an empty list. A backend that is down, unreachable or limits us raises
    `toolrl.errors.RetrieverFault`, and the sample stays unscored.

    A subclass defines `search`; also `search_batch` if batches are cheaper, and `read` if documents have more to show
    than results do.
    """

    @property
    def identity(self) -> str:
        """The backend and the settings its results depend on, as one text: part of a cache key."""
        return type(self).__qualname__

    @abstractmethod
    def search(self, query: str, k: int) -> list[Document]:
        """Return at most `k` documents, best first, with their scores.

        Raises:
            RetrieverFault: The backend is down or limits us.
            ConfigError: `k` is not positive.
        """

    def search_batch(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Return one result list per query, in order; raises as `search`."""
        return [self.search(query, k) for query in queries]

    def read(self, reference: str) -> Document:
        """Return the whole document of an id or URL.

        Raises:
            NotReadable: It does not exist, or may not be read.
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


def check_k(k: int) -> None:
    """Check that a number of results is positive.

    Raises:
        ConfigError: It is not.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
