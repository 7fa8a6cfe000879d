"""A retriever by name, for the command line, configuration files and environments' settings."""

from __future__ import annotations

from pathlib import Path

from toolrl.errors import ConfigError
from toolrl.search.base import Retriever
from toolrl.search.cache import CachedRetriever, CacheMode
from toolrl.search.corpus.sources import PYTHON_DOCS

FORMS = "'bm25:CORPUS', 'dense:CORPUS', 'hybrid:CORPUS', 'web', 'web:ENGINES' or 'http://SERVER'"


def open_retriever(
    name: str,
    *,
    model: str | None = None,
    store: str | Path | None = None,
    mode: CacheMode = "cache",
    cache_dir: str | Path | None = None,
) -> Retriever:
    """Open a retriever.

    Args:
        name: "bm25:CORPUS", "dense:CORPUS" or "hybrid:CORPUS" with what `open_corpus` takes; "web" or
            "web:ENGINES" for ddgs, such as "web:duckduckgo,brave"; or the address of a retrieval server.
        model: Of a dense or hybrid one; see `DenseRetriever`.
        store: The SQLite file of a `CachedRetriever` in front of it; None for none.
        mode: Of that.
        cache_dir: Where indexes are kept; see `BM25Retriever.open`.

    Raises:
        ConfigError: There is no such retriever or corpus, or it has no use for a model.
        MissingExtra: A package for it is not installed.
    """
    if store is None and mode != "cache":
        raise ConfigError(f"mode={mode!r} needs a store: name the SQLite file of the recording")
    retriever = _open(name, model, cache_dir)
    if store is None:
        return retriever
    try:
        return CachedRetriever(retriever, store, mode)
    except ConfigError:
        retriever.close()
        raise


def _open(name: str, model: str | None, cache_dir: str | Path | None) -> Retriever:
    kind, _, rest = name.partition(":")
    if model and kind not in ("dense", "hybrid"):
        raise ConfigError(f"model={model!r} makes no sense with the search backend {name!r}")
    if kind in ("http", "https") and rest:
        from toolrl.search.http import HTTPRetriever

        return HTTPRetriever(name)
    if kind == "web":
        from toolrl.search.web.retriever import WebRetriever

        return WebRetriever(engines=rest.split(",")) if rest else WebRetriever()
    if kind == "bm25" and rest:
        return _bm25(rest, cache_dir)
    if kind in ("dense", "hybrid") and rest:
        from toolrl.search.corpus.dense import DEFAULT_MODEL, DenseRetriever

        dense = DenseRetriever(rest, model or DEFAULT_MODEL, cache_dir=cache_dir)
        if kind == "dense":
            return dense
        from toolrl.search.hybrid import HybridRetriever

        return HybridRetriever([_bm25(rest, cache_dir), dense])
    raise ConfigError(f"unknown search backend {name!r}; it must be {FORMS}")


def _bm25(corpus: str, cache_dir: str | Path | None) -> Retriever:
    from toolrl.search.corpus.bm25 import BM25Retriever, python_docs_retriever

    # That corpus is small: it is indexed faster than its index is found.
    return python_docs_retriever() if corpus == PYTHON_DOCS else BM25Retriever.open(corpus, cache_dir=cache_dir)
