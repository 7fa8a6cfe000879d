"""Search: retrievers over a corpus, a service or the web, and a corpus that every machine has."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from toolrl.search.base import Document, NotReadable, Retriever
from toolrl.search.corpus.pydocs import Parameter, Symbol, python_documentation, python_symbols

if TYPE_CHECKING:
    from toolrl.search.cache import CachedRetriever
    from toolrl.search.corpus.bm25 import BM25Retriever, python_docs_retriever
    from toolrl.search.corpus.dense import DenseRetriever
    from toolrl.search.corpus.sources import Corpus, open_corpus
    from toolrl.search.http import HTTPRetriever
    from toolrl.search.hybrid import HybridRetriever
    from toolrl.search.registry import open_retriever, register_retriever
    from toolrl.search.server import RetrievalServer
    from toolrl.search.web.pages import PageReader, PageSettings
    from toolrl.search.web.retriever import WebRetriever
    from toolrl.search.wrappers import (
        POISONS,
        EmptyResults,
        FailingResults,
        PoisonedResults,
        RandomResults,
        RetrieverWrapper,
        SlowResults,
    )

# Imported on first use, so that importing `toolrl.search` does not import numpy.
_LAZY = {
    "BM25Retriever": "corpus.bm25",
    "CachedRetriever": "cache",
    "Corpus": "corpus.sources",
    "DenseRetriever": "corpus.dense",
    "EmptyResults": "wrappers",
    "FailingResults": "wrappers",
    "HTTPRetriever": "http",
    "HybridRetriever": "hybrid",
    "POISONS": "wrappers",
    "PageReader": "web.pages",
    "PageSettings": "web.pages",
    "PoisonedResults": "wrappers",
    "RandomResults": "wrappers",
    "RetrievalServer": "server",
    "RetrieverWrapper": "wrappers",
    "SlowResults": "wrappers",
    "WebRetriever": "web.retriever",
    "open_corpus": "corpus.sources",
    "open_retriever": "registry",
    "python_docs_retriever": "corpus.bm25",
    "register_retriever": "registry",
}

__all__ = [
    "POISONS",
    "BM25Retriever",
    "CachedRetriever",
    "Corpus",
    "DenseRetriever",
    "Document",
    "EmptyResults",
    "FailingResults",
    "HTTPRetriever",
    "HybridRetriever",
    "NotReadable",
    "PageReader",
    "PageSettings",
    "Parameter",
    "PoisonedResults",
    "RandomResults",
    "RetrievalServer",
    "Retriever",
    "RetrieverWrapper",
    "SlowResults",
    "Symbol",
    "WebRetriever",
    "open_corpus",
    "open_retriever",
    "python_docs_retriever",
    "python_documentation",
    "python_symbols",
    "register_retriever",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"toolrl.search.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
