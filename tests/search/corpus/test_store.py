"""Stores give documents by position, id and URL, are written whole or not at all, and once."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, strategies as st

from toolrl.errors import ConfigError
from toolrl.search import Document, NotReadable
from toolrl.search.corpus.sources import DocumentCorpus
from toolrl.search.corpus.store import DocumentStore, MappedStore, MemoryStore, open_store
from toolrl.support.kept import kept

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
def test_a_damaged_store_is_made_anew(name, damage, tmp_path):
    open_store(DocumentCorpus(DOCUMENTS), tmp_path)
    (folder,) = tmp_path.glob("documents-*")
    if damage == "deleted":
        (folder / name).unlink()
    else:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"nonsense")
    assert list(open_store(DocumentCorpus(DOCUMENTS), tmp_path)) == DOCUMENTS
    assert list(MappedStore(folder)) == DOCUMENTS


WANT = """
import os, sys, time
from pathlib import Path
from toolrl.support.kept import kept
cache, marks = map(Path, sys.argv[1:])
def make(folder):
    (marks / str(os.getpid())).write_text("")
    (folder / "part").write_text("1")
    time.sleep(0.3)
    (folder / "whole").write_text("1")
print(kept(cache, "thing", make, lambda folder: (folder / "whole").read_text()))
"""


@pytest.fixture
def want(tmp_path):
    """Starts a process that wants a kept folder, and marks that it makes it."""
    (tmp_path / "marks").mkdir()
    command = [sys.executable, "-c", WANT, tmp_path / "cache", tmp_path / "marks"]
    return lambda: subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_of_many_processes_one_makes_it_and_all_have_it(tmp_path, want):
    processes = [want() for _ in range(4)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["1\n"] * 4
    assert len(list((tmp_path / "marks").iterdir())) == 1
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [".lock-thing", "thing"]


def test_threads_do_not_make_it_twice(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "whole").write_text("1")

    def get(_):
        return kept(tmp_path, "thing", make, lambda folder: (folder / "whole").read_text())

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(get, range(16))) == {"1"}
    assert len(made) == 1


def test_what_a_killed_process_left_is_removed_and_made_anew(tmp_path, want):
    cache = tmp_path / "cache"
    first = want()
    while not list(cache.glob(".thing-*/part")):
        time.sleep(0.01)
    first.kill()
    first.communicate()
    assert list(cache.glob(".thing-*"))
    assert want().communicate(timeout=60)[0] == "1\n"
    assert sorted(path.name for path in cache.iterdir()) == [".lock-thing", "thing"]


def test_a_cache_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cache_dir"):
        open_store(DocumentCorpus(DOCUMENTS), tmp_path / "file")
