"""Our index has the weights that bm25s computes from the same terms."""

from __future__ import annotations

import bm25s
import numpy as np
import pytest
from hypothesis import given, strategies as st

from toolrl.search import Document, python_documentation
from toolrl.search.corpus.bm25 import K1, TITLE_WEIGHT, B, build_index
from toolrl.search.corpus.tokens import text_terms, title_terms


def index_of_bm25s(documents: list[Document]) -> bm25s.BM25:
    vocabulary: dict[str, int] = {}
    corpus = [
        [
            vocabulary.setdefault(term, len(vocabulary))
            for term in title_terms(document.title) * TITLE_WEIGHT + text_terms(document.text)
        ]
        for document in documents
    ]
    index = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy")
    index.index((corpus, vocabulary), create_empty_token=False, show_progress=False)
    return index


def assert_equal(documents: list[Document]) -> None:
    ours, theirs = build_index(documents), index_of_bm25s(documents)
    assert ours.vocab_dict == theirs.vocab_dict
    assert ours.scores["num_docs"] == theirs.scores["num_docs"]
    for name in ("indptr", "indices"):
        assert np.array_equal(ours.scores[name], theirs.scores[name])
    np.testing.assert_allclose(ours.scores["data"], theirs.scores["data"], rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*divide:RuntimeWarning")
@given(st.lists(st.tuples(st.text("abcAB._ ", max_size=12), st.text("abcAB._ ", max_size=40)), min_size=1, max_size=8))
def test_the_weights_are_those_of_bm25s_for_any_documents(texts: list[tuple[str, str]]) -> None:
    assert_equal([Document(str(n), title, f"a {text}") for n, (title, text) in enumerate(texts)])


def test_the_weights_are_those_of_bm25s_for_real_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolrl.search.corpus.bm25.MAX_REMEMBERED_CHUNKS", 1000)
    assert_equal(python_documentation()[::3])
