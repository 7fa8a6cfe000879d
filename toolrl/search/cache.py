"""Record and replay: a retriever's answers, kept in a disk cache.

The key is the backend's `identity`, the query and its `k`. Any number of threads and processes may share one file.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, TypeVar

from toolrl.errors import ConfigError, RetrieverFault
from toolrl.search.base import Document, NotReadable, Retriever, check_k
from toolrl.support.disk_cache import DiskCache
from toolrl.support.usage import count_usage

CacheMode = Literal["cache", "record", "replay"]

T = TypeVar("T")

_LOCKS = 256


class CachedRetriever(Retriever):
    """Remembers another retriever's answers.

    Empty results are remembered too; faults never. Counts `search_cache_hits` and `search_cache_misses` in the usage of
    the tool call in progress.

    Args:
        retriever: The retriever to ask. For "replay" the identity of the recorded one will do.
        path: The SQLite file, created if it is missing.
        mode: "cache" asks for what is missing, and keeps it; "record" always asks, and keeps the newest answer;
            "replay" never asks, and a missing answer is an error that says so.
        max_age_seconds: In the mode "cache", older answers are asked for again.

    Raises:
        ConfigError: The file is not a disk cache; or for "replay", it does not exist or has nothing of that backend.
    """

    def __init__(
        self,
        retriever: Retriever | str,
        path: str | Path,
        mode: CacheMode = "cache",
        *,
        max_age_seconds: float = math.inf,
    ):
        if mode not in ("cache", "record", "replay"):
            raise ConfigError(f"mode must be 'cache', 'record' or 'replay', got {mode!r}")
        if isinstance(retriever, str) and mode != "replay":
            raise ConfigError(f"mode={mode!r} needs a retriever to ask, got only the identity {retriever!r}")
        self._inner = None if isinstance(retriever, str) else retriever
        self._backend = retriever if isinstance(retriever, str) else retriever.identity
        self._mode = mode
        # A group of rollouts starts with the same query, all at once.
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._max_age = max_age_seconds
        self._path = Path(path)
        if mode == "replay" and not self._path.is_file():
            raise ConfigError(f"no recording at {str(path)!r} to replay; make one with mode='record'")
        self._cache = DiskCache(self._path, read_only=mode == "replay")
        if mode == "replay" and self._backend not in (known := self._cache.backends()):
            self._cache.close()
            recorded = ", ".join(map(repr, known)) or "nothing"
            raise ConfigError(
                f"{str(path)!r} has no recording of {self._backend!r}, only of {recorded}; record it with mode='record'"
            )

    @property
    def identity(self) -> str:
        """The identity of the cached retriever: the answers are the same."""
        return self._backend

    def search(self, query: str, k: int) -> list[Document]:
        """See `Retriever.search`; of several threads with the same query at once, one asks the retriever."""
        with self._lock_of(f"{k}/{query}"):
            return self.search_batch([query], k)[0]

    def search_batch(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Ask for all missing answers in one batch."""
        check_k(k)
        requests = {query: json.dumps(["search", query, k]) for query in queries}
        known = {query: answer for query, request in requests.items() if (answer := self._known(request)) is not None}
        if missing := [query for query in requests if query not in known]:
            found = self._ask(f"the search {missing[0]!r}, k={k}", lambda inner: inner.search_batch(missing, k))
            for query, documents in zip(missing, found, strict=True):
                known[query] = json.dumps([asdict(document) for document in documents])
                self._cache.put(self._backend, requests[query], known[query])
        return [[Document(**fields) for fields in json.loads(known[query])] for query in queries]

    def read(self, reference: str) -> Document:
        """See `Retriever.read`; that something cannot be read is remembered as well."""
        request = json.dumps(["read", reference])
        with self._lock_of(request):
            answer = self._known(request)
            if answer is None:
                answer = self._ask(f"reading {reference!r}", lambda inner: _read(inner, reference))
                self._cache.put(self._backend, request, answer)
        fields = json.loads(answer)
        if "not_readable" in fields:
            raise NotReadable(fields["not_readable"])
        return Document(**fields)

    def close(self) -> None:
        """Close the file and the retriever."""
        self._cache.close()
        if self._inner is not None:
            self._inner.close()

    def _lock_of(self, request: str) -> threading.Lock:
        return self._locks[hash(request) % _LOCKS]

    def _known(self, request: str) -> str | None:
        if self._mode == "record":
            return None
        answer = self._cache.get(self._backend, request, self._max_age if self._mode == "cache" else math.inf)
        count_usage("search_cache_misses" if answer is None else "search_cache_hits")
        return answer

    def _ask(self, what: str, ask: Callable[[Retriever], T]) -> T:
        if self._mode == "replay" or self._inner is None:
            raise RetrieverFault(
                f"{what} was not recorded in {str(self._path)!r} for {self._backend!r}, and replay asks nobody; "
                "record it with mode='record' or use mode='cache'"
            )
        return ask(self._inner)


def _read(retriever: Retriever, reference: str) -> str:
    try:
        return json.dumps(asdict(retriever.read(reference)))
    except NotReadable as error:
        return json.dumps({"not_readable": str(error)})
