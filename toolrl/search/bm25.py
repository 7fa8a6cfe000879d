"""BM25 over a corpus in memory, on bm25s.

bm25s computes every term's weight in every document ahead of time (an eager index), so that a query
is a sum over a few sparse columns. What is added here is the cutting of dotted names (`tokens`), the
weight of titles, and an order of results that is the same in each run.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import bm25s
import numpy as np

from toolrl.errors import ConfigError
from toolrl.search.base import Document, Retriever, check_k
from toolrl.search.pydocs import python_documentation
from toolrl.search.tokens import query_terms, text_terms, title_terms

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG, past the application's level

# Anserini's k1 and b. On the Python documentation other values near them (0.6 to 1.5, 0.4 to 0.75) rank
# the answers to questions in prose equally well; with titles that count once, some modules lose to
# documents that mention them.
_K1 = 0.9
_B = 0.4
_TITLE_WEIGHT = 3
_INDEX_FORMAT = 1  # to be raised whenever the terms of a document change
_UNFINISHED = ".bm25-"
_LEFTOVER_SECONDS = 3600.0


class BM25Retriever(Retriever):
    """Ranks documents by BM25; needs no network."""

    def __init__(self, documents: Sequence[Document], *, cache_dir: str | Path | None = None):
        """Index documents.

        Args:
            documents: The corpus; equal scores rank in its order.
            cache_dir: Where to keep the index between processes, under a key made from the corpus.
                Worth it from about 100,000 documents.

        Raises:
            ConfigError: There are no documents, two share an id, one has no text, or `cache_dir`
                cannot be written.
        """
        self._documents = tuple(documents)
        _validate(self._documents)
        self._index = _build(self._documents) if cache_dir is None else _cached(self._documents, Path(cache_dir))

    def __len__(self) -> int:
        return len(self._documents)

    def search(self, query: str, k: int) -> list[Document]:
        """Return at most `k` documents that share a term with the query, best first, with their scores.

        Raises:
            ConfigError: `k` is not positive.
        """
        check_k(k)
        term_ids = self._index.get_tokens_ids(query_terms(query))
        if not term_ids:
            return []
        scores_D = self._index.get_scores_from_ids(term_ids)  # (D,)
        matches = np.flatnonzero(scores_D > 0)
        if len(matches) > k:
            threshold = np.partition(scores_D[matches], -k)[-k]
            matches = matches[scores_D[matches] >= threshold]  # (at least k,), in corpus order
        best = matches[np.argsort(-scores_D[matches], kind="stable")][:k]
        return [replace(self._documents[position], score=float(scores_D[position])) for position in best]


@functools.cache
def python_docs_retriever() -> BM25Retriever:
    """A retriever over `python_documentation()`, shared by the process; indexing takes half a second."""
    return BM25Retriever(python_documentation())


def _validate(documents: Sequence[Document]) -> None:
    if not documents:
        raise ConfigError("a retriever needs at least one document, got none")
    seen = set()
    for document in documents:
        if document.id in seen:
            raise ConfigError(f"two documents have the id {document.id!r}; ids must be unique")
        if not document.text.strip():
            raise ConfigError(f"document {document.id!r} has no text; leave it out")
        seen.add(document.id)


def _build(documents: Sequence[Document]) -> bm25s.BM25:
    vocabulary: dict[str, int] = {}
    term_ids = [
        [vocabulary.setdefault(term, len(vocabulary)) for term in _document_terms(document)] for document in documents
    ]
    index = bm25s.BM25(k1=_K1, b=_B, method="lucene", backend="numpy")
    index.index((term_ids, vocabulary), create_empty_token=False, show_progress=False)
    return index


def _document_terms(document: Document) -> list[str]:
    return title_terms(document.title) * _TITLE_WEIGHT + text_terms(document.text)


def _cached(documents: Sequence[Document], cache_dir: Path) -> bm25s.BM25:
    """Load the index of exactly these documents, or build and keep it. Safe between processes."""
    home = cache_dir / f"bm25-{_corpus_key(documents)}"
    try:
        return bm25s.BM25.load(home, show_progress=False)
    except (OSError, ValueError, EOFError, KeyError, TypeError):  # not there, or damaged
        shutil.rmtree(home, ignore_errors=True)
    index = _build(documents)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(cache_dir)
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=cache_dir, ignore_cleanup_errors=True) as unfinished:
            index.save(unfinished, show_progress=False)
            os.rename(unfinished, home)
    except OSError as error:
        if not home.is_dir():  # else another process was faster
            raise ConfigError(f"cannot keep the index in cache_dir={str(cache_dir)!r}: {error}") from error
    return index


def _remove_leftovers(cache_dir: Path) -> None:
    """Delete what processes that were killed while saving have left."""
    for unfinished in cache_dir.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if time.time() - unfinished.stat().st_mtime > _LEFTOVER_SECONDS:
                shutil.rmtree(unfinished, ignore_errors=True)


def _corpus_key(documents: Sequence[Document]) -> str:
    """A key of everything that the index depends on."""
    settings = (bm25s.__version__, _INDEX_FORMAT, _K1, _B, _TITLE_WEIGHT)
    digest = hashlib.sha256(repr(settings).encode())
    for document in documents:
        digest.update(repr((document.title, document.text)).encode())
    return digest.hexdigest()[:32]
