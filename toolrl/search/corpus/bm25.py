"""BM25 over a corpus, in memory or mapped from disk, on bm25s.

bm25s computes every term's weight in every document ahead of time (an eager index), so that a query
is a sum over a few sparse columns. What is added here is the cutting of dotted names (`tokens`), the
weight of titles, an order of results that is the same in each run, and indexing in fewer seconds (`indexing`).
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Self

import bm25s
import numpy as np

from toolrl.search.base import Document, Retriever, check_k
from toolrl.search.corpus.indexing import INDEX_SETTINGS, build_index
from toolrl.search.corpus.pydocs import python_documentation
from toolrl.search.corpus.sources import Corpus, DocumentCorpus, open_corpus
from toolrl.search.corpus.store import DocumentStore, MemoryStore, open_store
from toolrl.search.corpus.tokens import query_terms
from toolrl.support.build_cache import default_cache_dir, load_or_build

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG, past the application's level


class BM25Retriever(Retriever):
    """Ranks documents by BM25; needs no network."""

    def __init__(self, documents: Iterable[Document]):
        """Index documents in memory; for more than some ten thousand see `open`.

        Args:
            documents: The corpus; equal scores rank in its order.

        Raises:
            ConfigError: There are no documents, two share an id, or one has no text.
        """
        corpus = DocumentCorpus(documents)
        store = MemoryStore(corpus)
        self._set_up(store, build_index(store), corpus)

    @classmethod
    def open(cls, corpus: Corpus | str | Path, *, cache_dir: str | Path | None = None) -> Self:
        """Index a corpus on disk, unless that has been done before, and map it into memory.

        Any number of processes may open one at the same time: the first builds it, and its pages are shared.

        Args:
            corpus: A corpus or what `open_corpus` takes.
            cache_dir: Where indexes are kept, under a key made from the corpus; default: `TOOLRL_CACHE`, or
                `toolrl` in the user's cache folder.

        Raises:
            ConfigError: There is no such corpus, it is broken, or `cache_dir` cannot be written.
        """
        corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
        home = Path(cache_dir) if cache_dir is not None else default_cache_dir()
        store = open_store(corpus, home)
        retriever = cls.__new__(cls)
        retriever._set_up(
            store,
            load_or_build(
                home,
                f"bm25-{_key(corpus)}",
                lambda folder: build_index(store).save(folder, show_progress=False),
                lambda folder: _load(folder, len(store)),
            ),
            corpus,
        )
        return retriever

    def _set_up(self, store: DocumentStore, index: bm25s.BM25, corpus: Corpus) -> None:
        self._store, self._index, self._corpus = store, index, corpus

    @functools.cached_property
    def identity(self) -> str:
        """The corpus and the settings of the ranking."""
        return f"bm25-{_key(self._corpus)}"

    def __len__(self) -> int:
        return len(self._store)

    def search(self, query: str, k: int) -> list[Document]:
        """Return at most `k` documents that share a term with the query, best first, with their scores."""
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
        return [replace(self._store[int(position)], score=float(scores_D[position])) for position in best]

    def read(self, reference: str) -> Document:
        """Return the whole document of an id or URL."""
        return self._store.read(reference)


@functools.cache
def python_docs_retriever() -> BM25Retriever:
    """A retriever over `python_documentation()`, shared by the process; indexing takes half a second."""
    return BM25Retriever(python_documentation())


def _load(folder: Path, documents: int) -> bm25s.BM25:
    index = bm25s.BM25.load(folder, mmap=True, show_progress=False)
    if index.scores["num_docs"] != documents:
        raise ValueError(f"{folder} is the index of another corpus")
    return index


def _key(corpus: Corpus) -> str:
    """A key of everything that the index depends on."""
    return hashlib.sha256(repr((bm25s.__version__, INDEX_SETTINGS, corpus.fingerprint())).encode()).hexdigest()[:32]
