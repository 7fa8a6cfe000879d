"""Search: retrievers over a corpus or a service, and a corpus that every machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolrl.search.base import Document, NotReadable, Retriever
from toolrl.search.pydocs import Parameter, Symbol, python_documentation, python_symbols

if TYPE_CHECKING:
    from toolrl.search.bm25 import BM25Retriever, python_docs_retriever

__all__ = [
    "BM25Retriever",
    "Document",
    "NotReadable",
    "Parameter",
    "Retriever",
    "Symbol",
    "python_docs_retriever",
    "python_documentation",
    "python_symbols",
]


def __getattr__(name: str) -> Any:
    if name in ("BM25Retriever", "python_docs_retriever"):  # so that `toolrl.search` imports without numpy
        from toolrl.search import bm25

        return getattr(bm25, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
