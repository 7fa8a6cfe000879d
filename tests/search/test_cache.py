"""A question is asked once; a replay asks nobody and says what is missing."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from toolrl.errors import ConfigError, RetrieverFault
from toolrl.search import CachedRetriever, Document, NotReadable, Retriever
from toolrl.support.usage import Usage, counting


class Library(Retriever):
    """Answers any query but "nothing" and "down", and records the queries."""

    identity = "library"

    def __init__(self, edition: int = 1, seconds: float = 0.0):
        self.edition, self.seconds = edition, seconds
        self.asked: list[str] = []

    def search(self, query: str, k: int) -> list[Document]:
        time.sleep(self.seconds)
        self.asked.append(query)
        if query == "down":
            raise RetrieverFault("the library is closed")
        count = 0 if query == "nothing" else k
        return [Document(f"{query}{n}", "", f"edition {self.edition}", "u", 1 / (n + 1)) for n in range(count)]

    def read(self, reference: str) -> Document:
        self.asked.append(reference)
        if reference == "gone":
            raise NotReadable("it is gone")
        return Document(reference, "T", "whole text")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "deep" / "store.sqlite"


def test_the_second_answer_comes_from_the_cache(file):
    library = Library()
    with CachedRetriever(library, file) as cached:
        first = cached.search("cat", 2)
        assert cached.search("cat", 2) == first == Library().search("cat", 2)
        assert cached.search("nothing", 2) == cached.search("nothing", 2) == []
        assert library.asked == ["cat", "nothing"]
        cached.search("cat", 3)
        assert len(library.asked) == 3, "another k is another question"


def test_it_is_kept_between_runs(file):
    with CachedRetriever(Library(), file) as cached:
        cached.search("cat", 1)
    with CachedRetriever(Library(edition=2), file) as cached:
        assert cached.search("cat", 1)[0].text == "edition 1"


def test_of_a_batch_only_what_is_missing_is_asked_once(file):
    library = Library()
    with CachedRetriever(library, file) as cached:
        cached.search("b", 1)
        found = cached.search_batch(["a", "b", "a", "c"], 1)
    assert [documents[0].id for documents in found] == ["a0", "b0", "a0", "c0"]
    assert library.asked == ["b", "a", "c"]


def test_documents_and_unreadable_references_are_remembered(file):
    library = Library()
    with CachedRetriever(library, file) as cached:
        assert cached.read("x") == cached.read("x") == Document("x", "T", "whole text")
        for _ in range(2):
            with pytest.raises(NotReadable, match="it is gone"):
                cached.read("gone")
    assert library.asked == ["x", "gone"]


def test_faults_are_never_remembered(file):
    library = Library()
    with CachedRetriever(library, file) as cached:
        for _ in range(2):
            with pytest.raises(RetrieverFault):
                cached.search("down", 1)
    assert len(library.asked) == 2


def test_recording_always_asks_and_keeps_the_newest_answer(file):
    for edition in (1, 2):
        with CachedRetriever(Library(edition), file, "record") as cached:
            cached.search("cat", 1)
    with CachedRetriever("library", file, "replay") as replayed:
        assert replayed.search("cat", 1)[0].text == "edition 2"


def test_a_replay_returns_the_recorded_answers_and_asks_nobody(file):
    with CachedRetriever(Library(), file, "record") as cached:
        recorded = [cached.search("cat", 3), cached.search("nothing", 3), cached.read("x")]
    library = Library(edition=2)
    with CachedRetriever(library, file, "replay") as replayed:
        assert [replayed.search("cat", 3), replayed.search("nothing", 3), replayed.read("x")] == recorded
        with pytest.raises(RetrieverFault, match=r"the search 'dog', k=3 was not recorded in .*store\.sqlite"):
            replayed.search("dog", 3)
        with pytest.raises(RetrieverFault, match="reading 'y' was not recorded"):
            replayed.read("y")
    assert library.asked == []


def test_a_recording_can_be_replayed_from_a_read_only_file(file):
    with CachedRetriever(Library(), file, "record") as cached:
        cached.search("cat", 1)
    file.chmod(0o444)
    with CachedRetriever("library", file, "replay") as replayed:
        assert replayed.search("cat", 1)


def test_without_a_recording_there_is_no_replay(file):
    with pytest.raises(ConfigError, match="no recording"):
        CachedRetriever("library", file, "replay")
    assert not file.exists()
    CachedRetriever(Library(), file, "record").close()
    with pytest.raises(ConfigError, match="only of nothing"):
        CachedRetriever("library", file, "replay")


def test_a_file_that_is_not_a_cache_is_refused_and_kept(file):
    file.parent.mkdir()
    file.write_text("precious notes, none of SQLite's" * 50)
    for mode in ("cache", "replay"):
        with pytest.raises(ConfigError, match="is not a disk cache"):
            CachedRetriever(Library(), file, mode)
    assert file.read_text().startswith("precious")
    other = file.with_name("other.sqlite")
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE answers (x)")
    connection.close()
    with pytest.raises(ConfigError, match="not a disk cache"):
        CachedRetriever(Library(), other)


def test_invalid_modes_are_refused(file):
    with pytest.raises(ConfigError, match="got 'rewind'"):
        CachedRetriever(Library(), file, "rewind")
    with pytest.raises(ConfigError, match="needs a retriever"):
        CachedRetriever("library", file, "cache")


def test_answers_that_are_too_old_are_asked_for_again(file):
    library = Library()
    with CachedRetriever(library, file) as cached:
        cached.search("cat", 1)
    with CachedRetriever(library, file, max_age_seconds=3600) as cached:
        cached.search("cat", 1)
    assert len(library.asked) == 1
    with CachedRetriever(library, file, max_age_seconds=0) as cached:
        cached.search("cat", 1)
    assert len(library.asked) == 2


def test_hits_and_misses_are_counted_as_usage(file):
    usage = Usage()
    with CachedRetriever(Library(), file) as cached, counting(usage):
        cached.search("cat", 1)
        cached.search("cat", 1)
        cached.search_batch(["cat", "dog"], 1)
    assert usage.amounts() == {"search_cache_hits": 2.0, "search_cache_misses": 2.0}


def test_of_threads_with_the_same_query_at_once_one_asks_the_retriever(file):
    library, start = Library(seconds=0.1), threading.Barrier(8)

    def ask(_):
        start.wait()
        return cached.search("cat", 1)

    with CachedRetriever(library, file) as cached, ThreadPoolExecutor(8) as threads:
        assert len({documents[0].id for documents in threads.map(ask, range(8))}) == 1
    assert library.asked == ["cat"]


WRITER = """
import sys
from toolrl.search import CachedRetriever, Document, Retriever
class Library(Retriever):
    identity = "library"
    def search(self, query, k):
        return [Document(query, "", "text")] * k
with CachedRetriever(Library(), sys.argv[1]) as cached:
    for number in range(200):
        assert cached.search(f"{number % 100}", 2)[0].id == f"{number % 100}"
        assert cached.search(f"{sys.argv[2]}-{number}", 1)[0].text == "text"
"""


def test_many_processes_share_a_cache(file):
    processes = [subprocess.Popen([sys.executable, "-c", WRITER, file, str(number)]) for number in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0, 0]
    with CachedRetriever("library", file, "replay") as replayed:
        assert all(replayed.search(f"{number}", 2) for number in range(100))
        assert all(replayed.search(f"{process}-{number}", 1) for process in range(4) for number in range(200))


def test_a_forked_process_reopens_the_cache(file):
    with CachedRetriever(Library(), file) as cached:
        cached.search("cat", 1)
        child = os.fork()
        if child == 0:
            os._exit(0 if cached.search("cat", 1) and cached.search("dog", 1) else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert cached.search("dog", 1)[0].id == "dog0"
