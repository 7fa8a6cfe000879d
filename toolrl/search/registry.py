"""Retrievers by name, for the command line, configuration files and environments' settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from toolrl.errors import ConfigError, naming_extras
from toolrl.search.base import Retriever
from toolrl.search.cache import CachedRetriever, CacheMode
from toolrl.search.corpus.sources import PYTHON_DOCS

# Called with what follows the colon of a name, and with those of `model` and `cache_dir` that it has as parameters.
RetrieverFactory = Callable[..., Retriever]

_factories: dict[str, tuple[RetrieverFactory, tuple[str, ...]]] = {}


def register_retriever(name: str, factory: RetrieverFactory, *usage: str) -> None:
    """Make a search backend known to `open_retriever`, and so to environments' settings and the command line.

    Args:
        name: The part of the name before the colon: "elastic" for "elastic:INDEX".
        factory: Opens the retriever. Called with the part after the colon, and with `model=` and `cache_dir=` if it
            has such parameters.
        usage: How such names are written, for messages: "elastic:INDEX", or "elastic" too if the part after the colon
            may be left out. Default: "NAME:...".

    Raises:
        ConfigError: The name is taken, or has a colon in it.
    """
    if name in _factories or not name or ":" in name:
        raise ConfigError(f"a search backend cannot be registered as {name!r}: the name is taken or not a plain word")
    _factories[name] = (factory, usage or (f"{name}:...",))


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
        name: "bm25:CORPUS", "dense:CORPUS" or "hybrid:CORPUS" with a corpus as `open_corpus` takes it; "web" or
            "web:ENGINES" for ddgs, such as "web:duckduckgo,brave"; the address of a retrieval server; "service:NAME"
            for one that a cluster offers; or a backend added by `register_retriever`.
        model: For a dense or hybrid one; see `DenseRetriever`.
        store: The SQLite file of a `CachedRetriever` in front of it; default: no cache.
        mode: The mode of the `CachedRetriever`.
        cache_dir: Where indexes are kept; see `BM25Retriever.open`.

    Raises:
        ConfigError: The retriever or corpus is unknown, or the backend does not use a model.
        MissingExtra: A package it needs is not installed.
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
    backend, _, argument = name.partition(":")
    factory, usage = _factories.get(backend, (None, ()))
    if factory is None or not (argument or backend in usage):
        known = ", ".join(repr(form) for _, forms in _factories.values() for form in forms)
        raise ConfigError(f"unknown search backend {name!r}; known are {known}")
    options = {"model": model, "cache_dir": cache_dir}
    taken = inspect.signature(factory).parameters
    if model and "model" not in taken:
        raise ConfigError(f"the search backend {name!r} does not use a model, got model={model!r}")
    with naming_extras():
        return factory(argument, **{option: value for option, value in options.items() if option in taken})


def _bm25(corpus: str, cache_dir: str | Path | None) -> Retriever:
    from toolrl.search.corpus.bm25 import BM25Retriever, python_docs_retriever

    # This corpus is small: indexing it takes less time than finding its index on disk.
    return python_docs_retriever() if corpus == PYTHON_DOCS else BM25Retriever.open(corpus, cache_dir=cache_dir)


def _dense(corpus: str, model: str | None, cache_dir: str | Path | None) -> Retriever:
    from toolrl.search.corpus.dense import DEFAULT_MODEL, DenseRetriever

    return DenseRetriever(corpus, model or DEFAULT_MODEL, cache_dir=cache_dir)


def _hybrid(corpus: str, model: str | None, cache_dir: str | Path | None) -> Retriever:
    from toolrl.search.hybrid import HybridRetriever

    return HybridRetriever([_bm25(corpus, cache_dir), _dense(corpus, model, cache_dir)])


def _web(engines: str) -> Retriever:
    from toolrl.search.web.retriever import WebRetriever

    return WebRetriever(engines=engines.split(",")) if engines else WebRetriever()


def _http(address: str, scheme: str = "http") -> Retriever:
    from toolrl.search.http import HTTPRetriever

    return HTTPRetriever(f"{scheme}:{address}")


def _https(address: str) -> Retriever:
    return _http(address, "https")


def _service(name: str) -> Retriever:
    from toolrl.search.http import ServiceRetriever

    return ServiceRetriever(name)


register_retriever("bm25", _bm25, "bm25:CORPUS")
register_retriever("dense", _dense, "dense:CORPUS")
register_retriever("hybrid", _hybrid, "hybrid:CORPUS")
register_retriever("web", _web, "web", "web:ENGINES")
register_retriever("http", _http, "http://SERVER")
register_retriever("https", _https, "https://SERVER")
register_retriever("service", _service, "service:NAME")
