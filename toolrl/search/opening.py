"""A retriever by name, for the command line, configuration files and environments' settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from toolrl.errors import ConfigError
from toolrl.search.base import Retriever
from toolrl.search.cache import CachedRetriever, CacheMode
from toolrl.search.corpora import PYTHON_DOCS

FORMS = "'bm25:CORPUS', 'dense:CORPUS', 'hybrid:CORPUS', 'web', 'web:ENGINES' or 'http://SERVER'"


def open_retriever(
    name: str, *, store: str | Path | None = None, mode: CacheMode = "cache", cache_dir: str | Path | None = None
) -> Retriever:
    """Open a retriever.

    Args:
        name: "bm25:CORPUS", "dense:CORPUS" or "hybrid:CORPUS" with what `open_corpus` takes; "web" or
            "web:ENGINES" for ddgs, such as "web:duckduckgo,brave"; or the address of a retrieval server.
        store: The SQLite file of a `CachedRetriever` in front of it; None for none.
        mode: Of that.
        cache_dir: Where indexes are kept; see `BM25Retriever.open`.

    Raises:
        ConfigError: There is no such retriever or corpus.
        MissingExtra: A package for it is not installed.
    """
    retriever = _open(name, cache_dir)
    if store is None:
        if mode != "cache":
            raise ConfigError(f"mode={mode!r} needs a store: name the SQLite file of the recording")
        return retriever
    return CachedRetriever(retriever, store, mode)


def _open(name: str, cache_dir: str | Path | None) -> Retriever:
    if name.startswith(("http://", "https://")):
        from toolrl.search.http import HTTPRetriever

        return HTTPRetriever(name)
    kind, _, rest = name.partition(":")
    kinds: dict[str, Callable[[str, str | Path | None], Retriever]] = {
        "bm25": _bm25,
        "dense": _dense,
        "hybrid": _hybrid,
    }
    if kind in kinds and rest:
        return kinds[kind](rest, cache_dir)
    if kind == "web":
        from toolrl.search.web import WebRetriever

        return WebRetriever(backend=rest) if rest else WebRetriever()
    raise ConfigError(f"unknown search backend {name!r}; it must be {FORMS}")


def _bm25(corpus: str, cache_dir: str | Path | None) -> Retriever:
    from toolrl.search.bm25 import BM25Retriever, python_docs_retriever

    # That corpus is small: it is indexed faster than its index is found.
    return python_docs_retriever() if corpus == PYTHON_DOCS else BM25Retriever.open(corpus, cache_dir=cache_dir)


def _dense(corpus: str, cache_dir: str | Path | None) -> Retriever:
    from toolrl.search.dense import DenseRetriever

    return DenseRetriever(corpus, cache_dir=cache_dir)


def _hybrid(corpus: str, cache_dir: str | Path | None) -> Retriever:
    from toolrl.search.hybrid import HybridRetriever

    return HybridRetriever([_bm25(corpus, cache_dir), _dense(corpus, cache_dir)])
