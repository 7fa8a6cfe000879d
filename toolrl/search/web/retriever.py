"""Web search through `ddgs`, which parses the result pages of search engines."""

from __future__ import annotations

import contextlib
import queue
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from toolrl.errors import ConfigError, MissingExtra, RetrieverFault
from toolrl.search.base import Document, NotReadable, Retriever, check_k
from toolrl.search.web.addresses import IPNetwork, blocked, is_blocked
from toolrl.search.web.pages import PageReader, PageSettings
from toolrl.support.retry import RetryPolicy, ServiceCaller

if TYPE_CHECKING:
    from toolrl.search.web.engines import WatchedEngine

_LONGEST_QUERY = 500  # characters; the limit of DuckDuckGo


class WebRetriever(Retriever):
    """Finds web pages through search engines, and reads them.

    The result is an empty list only if the engine says that it found nothing. Any other answer without results (a
    challenge for bots, an error, a layout that `ddgs` does not know) is retried, and then a fault.

    A document's id is its URL, its text the engine's snippet; scores are 1/rank. An engine is asked for one page of
    about ten results.
    """

    def __init__(
        self,
        *,
        engines: Sequence[str] = ("duckduckgo",),
        region: str = "us-en",
        safesearch: str = "moderate",
        timeout_seconds: float = 8.0,
        blocked_domains: Iterable[str] = (),
        retry_policy: RetryPolicy | None = None,
        pages: PageSettings | None = None,
        allow_addresses: Sequence[IPNetwork] = (),
    ):
        """Prepare to search.

        Args:
            engines: Names of `ddgs` engines, such as "duckduckgo", "mojeek" and "wikipedia". Each is only asked if
                those before it are down or limit us.
            region: Country and language, such as "us-en"; "wt-wt" for none.
            safesearch: "on", "moderate" or "off". `ddgs` does not pass it to every engine (not to duckduckgo).
            timeout_seconds: Wall-clock limit of one request to an engine.
            blocked_domains: Results there and in their subdomains are dropped, and no page there is read.
            retry_policy: How each engine is asked. All engines share the deadline.
            pages: How pages are read.
            allow_addresses: For pages; see `AddressGuard`.

        Raises:
            MissingExtra: A package of the extra `web` is not installed.
            ConfigError: A setting is invalid.
        """
        if not re.fullmatch(r"[a-z]{2}-[a-z]{2}", region):
            raise ConfigError(f"region must be a country and a language, such as 'us-en', got {region!r}")
        if safesearch not in ("on", "moderate", "off"):
            raise ConfigError(f"safesearch must be 'on', 'moderate' or 'off', got {safesearch!r}")
        if not timeout_seconds > 0:
            raise ConfigError(f"timeout_seconds must be positive, got {timeout_seconds}")
        self.region = region
        self.safesearch = safesearch
        self.blocked_domains = blocked(blocked_domains)
        settings = RetryPolicy() if retry_policy is None else retry_policy
        if engines:
            settings = replace(settings, deadline_seconds=settings.deadline_seconds / len(engines))
        self._engines = {name: _Engine(name, timeout_seconds, settings) for name in engines}
        if not self._engines or len(self._engines) != len(engines):
            raise ConfigError(f"engines must name at least one, and none twice, got {tuple(engines)!r}")
        self._reader = PageReader(pages, blocked_domains=self.blocked_domains, allow_addresses=allow_addresses)

    @property
    def identity(self) -> str:
        """The engines and the settings that results depend on."""
        return (
            f"WebRetriever(engines={','.join(self._engines)}, region={self.region}, safesearch={self.safesearch}, "
            f"blocked={','.join(sorted(self.blocked_domains))}, pages={self._reader.identity})"
        )

    def search(self, query: str, k: int) -> list[Document]:
        """Ask the engines; see `Retriever.search`."""
        check_k(k)
        # Characters that no engine accepts are dropped: they are the query's fault, not the engine's.
        text = (" " if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in query)
        query = " ".join("".join(text).split())[:_LONGEST_QUERY]
        if not query:
            return []
        faults = []
        for engine in self._engines.values():
            try:
                found = engine.search(query, self.region, self.safesearch)
            except RetrieverFault as fault:
                faults.append(fault)
                continue
            allowed = [result for result in found if not is_blocked(result.url, self.blocked_domains)][:k]
            return [replace(result, score=1.0 / rank) for rank, result in enumerate(allowed, 1)]
        if len(faults) == 1:
            raise faults[0]
        raise RetrieverFault("; ".join(map(str, faults))) from faults[-1]

    def read(self, reference: str) -> Document:
        """Read a page by its URL; see `PageReader`."""
        if "://" not in reference:
            raise NotReadable(f"{reference!r} is not a URL; give the URL of a result")
        return self._reader.read(reference)

    def close(self) -> None:
        """End waiting requests; may be called twice."""
        for engine in self._engines.values():
            engine.caller.close()
        self._reader.close()


class _Engine:
    """One search engine and its idle clients, each of which is used by one thread at a time."""

    def __init__(self, name: str, timeout_seconds: float, settings: RetryPolicy):
        try:
            from toolrl.search.web import engines as ddgs_engine
        except ImportError as error:
            raise MissingExtra("ddgs", "web") from error
        self._type = ddgs_engine.watched(name)
        self._name = name
        self._timeout_seconds = timeout_seconds
        self._idle: queue.SimpleQueue[WatchedEngine] = queue.SimpleQueue()
        self.caller = ServiceCaller(f"search engine {name}", settings)

    def search(self, query: str, region: str, safesearch: str) -> list[Document]:
        def attempt() -> list[Document]:
            with self._client() as client:
                return _documents(client.search(query, region=region, safesearch=safesearch) or [])

        return self.caller.call(f"search {query[:100]!r}", attempt)

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        try:
            client = self._idle.get_nowait()
        except queue.Empty:
            client = self._type(timeout=self._timeout_seconds)
        yield client
        self._idle.put(client)  # not after a failure: the next attempt uses a new connection


def _documents(results: Iterable[Any]) -> list[Document]:
    """Convert results to documents; each URL once."""
    documents: dict[str, Document] = {}
    for result in results:
        title, text = " ".join(result.title.split()), " ".join(result.body.split())
        documents.setdefault(result.href, Document(result.href, title, text, result.href))
    return list(documents.values())
