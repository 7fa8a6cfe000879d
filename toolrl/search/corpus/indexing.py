"""Builds the index that bm25s searches: the same numbers as its own `index`, in less time and memory.

bm25s goes through the documents one by one; here all terms of a corpus are one array, sorted once. The ranking is
that of Lucene (`method="lucene"` of bm25s; Kamphuis et al., ECIR 2020, table 1).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import chain

import bm25s
import numpy as np

from toolrl.search.base import Document
from toolrl.search.corpus.tokens import text_terms, title_terms

# Anserini's k1 and b. On the Python documentation other values near them (0.6 to 1.5, 0.4 to 0.75) rank
# the answers to questions in prose equally well; with titles that count once, some modules lose to
# documents that mention them.
K1, B = 0.9, 0.4
TITLE_WEIGHT = 3
_FORMAT = 2  # to be raised whenever the terms of a document change

# What an index depends on besides its documents and bm25s.
INDEX_SETTINGS = (_FORMAT, K1, B, TITLE_WEIGHT)

_REMEMBERED = 1 << 20  # chunks that are cut into terms only once
_REMEMBERED_CHARACTERS = 64  # longer ones, a Chinese sentence say, hardly come twice


class _Vocabulary(dict[str, int]):
    """Numbers terms as they are first asked for."""

    def __missing__(self, term: str) -> int:
        self[term] = number = len(self)
        return number


class _TermIds(dict[str, tuple[int, ...]]):
    """The numbers of the terms of what stands between white space; a little makes up most of any text."""

    def __init__(self, vocabulary: _Vocabulary):
        super().__init__()
        self._vocabulary = vocabulary

    def __missing__(self, chunk: str) -> tuple[int, ...]:
        ids = tuple(self._vocabulary[term] for term in text_terms(chunk))
        if len(chunk) <= _REMEMBERED_CHARACTERS:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[chunk] = ids
        return ids


def build_index(documents: Iterable[Document]) -> bm25s.BM25:
    """Index documents; they are gone through once."""
    vocabulary = _Vocabulary()
    of_chunk = _TermIds(vocabulary)
    terms, lengths = array("i"), array("i")  # of all documents, one after the other
    for document in documents:
        before = len(terms)
        terms.extend([vocabulary[term] for term in title_terms(document.title)] * TITLE_WEIGHT)
        terms.extend(chain.from_iterable(map(of_chunk.__getitem__, document.text.split())))
        lengths.append(len(terms) - before)
    index = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy")
    index.nonoccurrence_array = None  # other methods have it
    index.vocab_dict = dict(vocabulary)
    index.unique_token_ids_set = set(vocabulary.values())
    index.scores = _scores(np.frombuffer(terms, np.int32), np.frombuffer(lengths, np.int32), len(vocabulary))
    return index


def _scores(terms_T: np.ndarray, lengths_D: np.ndarray, vocabulary: int) -> dict[str, object]:
    """The weight of each term in each document that has it, in columns by term, as bm25s keeps them.

    Args:
        terms_T: Terms of all documents, one after the other.
        lengths_D: How many are each document's.
        vocabulary: Number of different terms.
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
