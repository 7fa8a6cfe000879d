"""Record and replay: what a retriever has answered, in an SQLite file.

The key is the backend's `identity`, the query and its `k`. Any number of threads and processes may use one
file at a time.
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
from toolrl.search.answer_store import AnswerStore
from toolrl.search.base import Document, NotReadable, Retriever, check_k
from toolrl.support.usage import count_usage

CacheMode = Literal["cache", "record", "replay"]

T = TypeVar("T")

_TURNS = 256


class CachedRetriever(Retriever):
    """Remembers what another retriever answers.

    Empty results are remembered too; faults never. Counts `search_cache_hits` and `search_cache_misses` as usage of
    the tool call in progress.

    Args:
        retriever: Who is asked. For "replay" it may be the identity of the one that was recorded.
        path: The SQLite file, made if it is missing.
        mode: "cache" asks for what is not there, and keeps it; "record" asks always, and keeps the newest answer;
            "replay" never asks, and what is missing is an error that says so.
        max_age_seconds: In the mode "cache", what is older is asked for again.

    Raises:
        ConfigError: The file is no such store, or for "replay" there is none, or nothing of that backend in it.
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
        # A group of rollouts begins with the same query, all at once.
        self._turns = [threading.Lock() for _ in range(_TURNS)]
        self._max_age = max_age_seconds
        self._path = Path(path)
        if mode == "replay" and not self._path.is_file():
            raise ConfigError(f"there is no recording {str(path)!r} to replay; make one with mode='record'")
        self._store = AnswerStore(self._path, read_only=mode == "replay")
        if mode == "replay" and self._backend not in (known := self._store.backends()):
            self._store.close()
            recorded = ", ".join(map(repr, known)) or "nothing"
            raise ConfigError(
                f"{str(path)!r} has no recording of {self._backend!r}, only of {recorded}; record it with mode='record'"
            )

    @property
    def identity(self) -> str:
        """That of the retriever behind it: the answers are the same."""
        return self._backend

    def search(self, query: str, k: int) -> list[Document]:
        """See `Retriever.search`; of several threads that ask the same at once, one asks the retriever."""
        with self._turn(f"{k}/{query}"):
            return self.search_batch([query], k)[0]

    def search_batch(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Ask for those that are not known, all together."""
        check_k(k)
        requests = [json.dumps(["search", query, k]) for query in queries]
        known = {request: answer for request in dict.fromkeys(requests) if (answer := self._known(request)) is not None}
        missing = [query for query, request in zip(queries, requests, strict=True) if request not in known]
        if missing:
            missing = list(dict.fromkeys(missing))
            found = self._asked(f"the search {missing[0]!r}, k={k}", lambda inner: inner.search_batch(missing, k))
            for query, documents in zip(missing, found, strict=True):
                request = json.dumps(["search", query, k])
                known[request] = json.dumps([asdict(document) for document in documents])
                self._store.put(self._backend, request, known[request])
        return [[Document(**fields) for fields in json.loads(known[request])] for request in requests]

    def read(self, reference: str) -> Document:
        """See `Retriever.read`; that something cannot be read is remembered as well."""
        request = json.dumps(["read", reference])
        with self._turn(request):
            answer = self._known(request)
            if answer is None:
                answer = self._asked(f"reading {reference!r}", lambda inner: _read(inner, reference))
                self._store.put(self._backend, request, answer)
        fields = json.loads(answer)
        if "not_readable" in fields:
            raise NotReadable(fields["not_readable"])
        return Document(**fields)

    def close(self) -> None:
        """Close the file, and the retriever."""
        self._store.close()
        if self._inner is not None:
            self._inner.close()

    def _turn(self, request: str) -> threading.Lock:
        return self._turns[hash(request) % _TURNS]

    def _known(self, request: str) -> str | None:
        if self._mode == "record":
            return None
        answer = self._store.get(self._backend, request, self._max_age if self._mode == "cache" else math.inf)
        count_usage("search_cache_misses" if answer is None else "search_cache_hits")
        return answer

    def _asked(self, what: str, ask: Callable[[Retriever], T]) -> T:
        if self._mode == "replay" or self._inner is None:
            raise RetrieverFault(
                f"{what} was not recorded in {str(self._path)!r} for {self._backend!r}; replay asks nobody: "
                "record it with mode='record' or allow mode='cache'"
            )
        return ask(self._inner)


def _read(retriever: Retriever, reference: str) -> str:
    try:
        return json.dumps(asdict(retriever.read(reference)))
    except NotReadable as error:
        return json.dumps({"not_readable": str(error)})
