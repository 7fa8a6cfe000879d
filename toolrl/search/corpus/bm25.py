"""BM25 over a corpus, in memory or memory-mapped, with bm25s.

bm25s computes every term's weight in every document ahead of time (an eager index), so that a query
is a sum over a few sparse columns. This module adds terms for dotted names (`tokens`), weights for titles, a
deterministic order of results, and faster indexing with less memory: bm25s goes through the documents one by one;
here all terms of a corpus are one array, sorted once. The ranking is Lucene's (`method="lucene"` in bm25s; Kamphuis et
al., ECIR 2020, table 1).
"""

from __future__ import annotations

import functools
import hashlib
import logging
from array import array
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Self

import bm25s
import numpy as np

from toolrl.search.base import Document, Retriever, check_k
from toolrl.search.corpus.pydocs import python_documentation
from toolrl.search.corpus.sources import Corpus, DocumentCorpus, open_corpus
from toolrl.search.corpus.store import DocumentStore, MemoryStore, open_store
from toolrl.search.corpus.tokens import query_terms, text_terms, title_terms
from toolrl.support.build_cache import default_cache_dir, load_or_build

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG, past the application's level

# Anserini's k1 and b. On the Python documentation, nearby values (0.6 to 1.5, 0.4 to 0.75) rank the answers to
# questions in prose equally well; if titles counted once, documents that mention a module would outrank it.
K1, B = 0.9, 0.4
TITLE_WEIGHT = 3
_FORMAT = 2  # increase whenever the terms of a document change

# The settings an index depends on, besides its documents and bm25s.
_INDEX_SETTINGS = (_FORMAT, K1, B, TITLE_WEIGHT)

MAX_REMEMBERED_CHUNKS = 1 << 20  # chunks whose terms are remembered
_MAX_REMEMBERED_CHARACTERS = 64  # longer ones, such as a Chinese sentence, hardly ever recur


class BM25Retriever(Retriever):
    """Ranks documents by BM25; needs no network."""

    def __init__(self, documents: Iterable[Document]):
        """Index documents in memory; for more than about ten thousand see `open`.

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
        """Load the index of a corpus from disk, memory-mapped; it is built first if it is missing.

        Any number of processes may open the same index: the first one builds it, and they share its pages.

        Args:
            corpus: A corpus or what `open_corpus` takes.
            cache_dir: The folder of indexes, which are named by a key of the corpus; default: `TOOLRL_CACHE`,
                or `toolrl` in the user's cache folder.

        Raises:
            ConfigError: The corpus does not exist or is broken, or `cache_dir` cannot be written.
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
        raise ValueError(f"{folder} belongs to another corpus")
    return index


def _key(corpus: Corpus) -> str:
    """A key of everything the index depends on."""
    return hashlib.sha256(repr((bm25s.__version__, _INDEX_SETTINGS, corpus.fingerprint())).encode()).hexdigest()[:32]


class _Vocabulary(dict[str, int]):
    """Numbers terms on first use."""

    def __missing__(self, term: str) -> int:
        self[term] = number = len(self)
        return number


class _TermIds(dict[str, tuple[int, ...]]):
    """The term numbers of each chunk between white space; a few chunks make up most of any text."""

    def __init__(self, vocabulary: _Vocabulary):
        super().__init__()
        self._vocabulary = vocabulary

    def __missing__(self, chunk: str) -> tuple[int, ...]:
        ids = tuple(self._vocabulary[term] for term in text_terms(chunk))
        if len(chunk) <= _MAX_REMEMBERED_CHARACTERS:
            if len(self) >= MAX_REMEMBERED_CHUNKS:
                self.clear()
            self[chunk] = ids
        return ids


def build_index(documents: Iterable[Document]) -> bm25s.BM25:
    """Index documents, in one pass, with the same weights as bm25s's own `index`."""
    vocabulary = _Vocabulary()
    of_chunk = _TermIds(vocabulary)
    terms, lengths = array("i"), array("i")  # of all documents, concatenated
    for document in documents:
        before = len(terms)
        terms.extend([vocabulary[term] for term in title_terms(document.title)] * TITLE_WEIGHT)
        terms.extend(chain.from_iterable(map(of_chunk.__getitem__, document.text.split())))
        lengths.append(len(terms) - before)
    index = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy")
    index.nonoccurrence_array = None  # only used by other methods
    index.vocab_dict = dict(vocabulary)
    index.unique_token_ids_set = set(vocabulary.values())
    index.scores = _scores(np.frombuffer(terms, np.int32), np.frombuffer(lengths, np.int32), len(vocabulary))
    return index


def _scores(terms_T: np.ndarray, lengths_D: np.ndarray, vocabulary: int) -> dict[str, object]:
    """The weight of each term in each document that contains it, in columns by term, as bm25s stores them.

    Args:
        terms_T: Terms of all documents, concatenated.
        lengths_D: Number of terms of each document.
        vocabulary: Number of distinct terms.
    """
    documents = len(lengths_D)
    keys_T = terms_T.astype(np.int64) * documents
    keys_T += np.repeat(np.arange(documents), lengths_D)
    keys_T.sort()  # by term, then by document
    starts_N = np.flatnonzero(np.diff(keys_T, prepend=-1))
    frequencies_N = np.diff(starts_N, append=len(keys_T)).astype(np.float32)
    terms_N, documents_N = np.divmod(keys_T[starts_N], documents)
    del keys_T, starts_N
    having_V = np.bincount(terms_N, minlength=vocabulary)
    rarity_V = np.log(1 + (documents - having_V + 0.5) / (having_V + 0.5)).astype(np.float32)
    length_D = (K1 * (1 - B + B * lengths_D / max(lengths_D.mean(), 1e-9))).astype(np.float32)
    weights_N = rarity_V[terms_N] * (frequencies_N / (length_D[documents_N] + frequencies_N))
    indptr = np.concatenate([[0], np.cumsum(having_V)])
    return {"data": weights_N, "indices": documents_N.astype(np.int32), "indptr": indptr, "num_docs": documents}
