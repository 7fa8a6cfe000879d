"""Stores return documents by position, id and URL, and are written atomically and once."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from toolrl.errors import ConfigError
from toolrl.search import Document, NotReadable
from toolrl.search.corpus.sources import DocumentCorpus
from toolrl.search.corpus.store import DocumentStore, MappedStore, MemoryStore, open_store

DOCUMENTS = [
    Document("a", "Apple", "red", "https://x.example/a"),
    Document("b", "Banana", "yellow", "a"),  # a URL that is another's id
    Document("c", "Cherry", "dark", "https://x.example/a"),
]


@pytest.fixture(params=["memory", "mapped"])
def store(request, tmp_path) -> DocumentStore:
    return MemoryStore(DOCUMENTS) if request.param == "memory" else open_store(DocumentCorpus(DOCUMENTS), tmp_path)


def test_documents_have_positions_ids_and_urls(store):
    assert len(store) == 3
    assert list(store) == [store[position] for position in range(3)] == DOCUMENTS
    assert store.read("a") == DOCUMENTS[0]
    assert store.positions("a") == [0, 1]
    assert store.positions("https://x.example/a") == [0, 2]
    with pytest.raises(NotReadable, match="'d'"):
        store.read("d")


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5), st.text(min_size=1, max_size=9)), min_size=1))
def test_any_text_comes_back(tmp_path_factory, rows):
    documents = [Document(f"{n}{a}", b, f"text {c}") for n, (a, b, c) in enumerate(rows)]
    documents = [d for d in documents if d.id.isprintable() and d.title.isprintable() and d.text.isprintable()]
    if documents:
        store = open_store(DocumentCorpus(documents), tmp_path_factory.mktemp("store"))
        assert list(store) == documents
        assert [store.read(document.id) for document in documents] == documents


def test_many_batches_are_one_store(tmp_path):
    documents = [Document(str(number), "t", f"text {number}") for number in range(20_000)]
    store = open_store(DocumentCorpus(documents), tmp_path)
    assert [store[position].id for position in (0, 8191, 8192, 19_999)] == ["0", "8191", "8192", "19999"]
    assert store.read("16384").text == "text 16384"


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "at least one"),
        ([*DOCUMENTS, DOCUMENTS[1]], "the id 'b' .numbers 1 and 3"),
        ([DOCUMENTS[0], Document("blank", "Title", " \n")], "'blank'"),
    ],
)
def test_a_broken_corpus_is_refused_by_name_and_leaves_nothing(documents, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        MemoryStore(documents)
    with pytest.raises(ConfigError, match=message):
        open_store(DocumentCorpus(documents), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".lock-")] == []


@pytest.mark.parametrize("name", ["documents.arrow", "references.npy"])
@pytest.mark.parametrize("damage", ["truncated", "deleted", "garbage"])
def test_a_damaged_store_is_rebuilt(name, damage, tmp_path):
    open_store(DocumentCorpus(DOCUMENTS), tmp_path)
    (folder,) = tmp_path.glob("documents-*")
    if damage == "deleted":
        (folder / name).unlink()
    else:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"nonsense")
    assert list(open_store(DocumentCorpus(DOCUMENTS), tmp_path)) == DOCUMENTS
    assert list(MappedStore(folder)) == DOCUMENTS


def test_a_cache_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cache_dir"):
        open_store(DocumentCorpus(DOCUMENTS), tmp_path / "file")
