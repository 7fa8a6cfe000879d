"""Search: retrievers over a corpus, a service or the web, and a corpus that every machine has."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from toolrl.errors import naming_extras
from toolrl.search.base import Document as Document, NotReadable as NotReadable, Retriever as Retriever
from toolrl.search.corpus.pydocs import (
    Parameter as Parameter,
    Symbol as Symbol,
    python_documentation as python_documentation,
    python_symbols as python_symbols,
)

if TYPE_CHECKING:
    from toolrl.search.cache import CachedRetriever as CachedRetriever
    from toolrl.search.corpus.bm25 import (
        BM25Retriever as BM25Retriever,
        python_docs_retriever as python_docs_retriever,
    )
    from toolrl.search.corpus.dense import DenseRetriever as DenseRetriever
    from toolrl.search.corpus.sources import Corpus as Corpus, open_corpus as open_corpus
    from toolrl.search.http import HTTPRetriever as HTTPRetriever
    from toolrl.search.hybrid import HybridRetriever as HybridRetriever
    from toolrl.search.registry import open_retriever as open_retriever, register_retriever as register_retriever
    from toolrl.search.server import RetrievalServer as RetrievalServer
    from toolrl.search.web.pages import PageReader as PageReader, PageSettings as PageSettings
    from toolrl.search.web.retriever import WebRetriever as WebRetriever
    from toolrl.search.wrappers import (
        POISONS as POISONS,
        EmptyResults as EmptyResults,
        FailingResults as FailingResults,
        PoisonedResults as PoisonedResults,
        RandomResults as RandomResults,
        RetrieverWrapper as RetrieverWrapper,
        SlowResults as SlowResults,
    )

# Imported on first use, so that importing `toolrl.search` does not import numpy.
_EXPORTS = {
    "cache": "CachedRetriever",
    "corpus.bm25": "BM25Retriever python_docs_retriever",
    "corpus.dense": "DenseRetriever",
    "corpus.sources": "Corpus open_corpus",
    "http": "HTTPRetriever",
    "hybrid": "HybridRetriever",
    "registry": "open_retriever register_retriever",
    "server": "RetrievalServer",
    "web.pages": "PageReader PageSettings",
    "web.retriever": "WebRetriever",
    "wrappers": "POISONS EmptyResults FailingResults PoisonedResults RandomResults RetrieverWrapper SlowResults",
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names.split()}

__all__ = [
    *("Document", "NotReadable", "Parameter", "Retriever", "Symbol", "python_documentation", "python_symbols"),
    *_MODULE_OF,
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with naming_extras():
        return getattr(import_module(f"toolrl.search.{_MODULE_OF[name]}"), name)
