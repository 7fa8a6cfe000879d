"""Search: retrievers over a corpus or a service, and a corpus that every machine has."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from toolrl.search.base import Document, NotReadable, Retriever
from toolrl.search.pydocs import Parameter, Symbol, python_documentation, python_symbols

if TYPE_CHECKING:
    from toolrl.search.bm25 import BM25Retriever, python_docs_retriever
    from toolrl.search.cache import CachedRetriever
    from toolrl.search.corpora import Corpus, open_corpus
    from toolrl.search.dense import DenseRetriever
    from toolrl.search.http import HTTPRetriever
    from toolrl.search.hybrid import HybridRetriever
    from toolrl.search.opening import open_retriever
    from toolrl.search.pages import PageReader, PageSettings
    from toolrl.search.politeness import Politeness, PolitenessSettings, TryAgain
    from toolrl.search.server import RetrievalServer
    from toolrl.search.web import WebRetriever
    from toolrl.search.wrappers import (
        POISONS,
        EmptyResults,
        FailingResults,
        PoisonedResults,
        RandomResults,
        RetrieverWrapper,
        SlowResults,
    )

# Imported when they are first used, so that `toolrl.search` imports without numpy.
_LATER = {
    "BM25Retriever": "bm25",
    "CachedRetriever": "cache",
    "Corpus": "corpora",
    "DenseRetriever": "dense",
    "EmptyResults": "wrappers",
    "FailingResults": "wrappers",
    "HTTPRetriever": "http",
    "HybridRetriever": "hybrid",
    "POISONS": "wrappers",
    "PageReader": "pages",
    "PageSettings": "pages",
    "PoisonedResults": "wrappers",
    "Politeness": "politeness",
    "PolitenessSettings": "politeness",
    "RandomResults": "wrappers",
    "RetrievalServer": "server",
    "RetrieverWrapper": "wrappers",
    "SlowResults": "wrappers",
    "TryAgain": "politeness",
    "WebRetriever": "web",
    "open_corpus": "corpora",
    "open_retriever": "opening",
    "python_docs_retriever": "bm25",
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
    "Politeness",
    "PolitenessSettings",
    "RandomResults",
    "RetrievalServer",
    "Retriever",
    "RetrieverWrapper",
    "SlowResults",
    "Symbol",
    "TryAgain",
    "WebRetriever",
    "open_corpus",
    "open_retriever",
    "python_docs_retriever",
    "python_documentation",
    "python_symbols",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"toolrl.search.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
