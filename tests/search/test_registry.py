"""Retrievers by name, and searches on the command line."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from toolrl.cli import main
from toolrl.errors import ConfigError
from toolrl.search import (
    BM25Retriever,
    CachedRetriever,
    Document,
    HTTPRetriever,
    Retriever,
    open_retriever,
    python_docs_retriever,
    register_retriever,
)


@pytest.fixture
def run(capfd, monkeypatch):
    """Runs a command in this process, and returns its status and what it printed."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        with pytest.raises(SystemExit) as exit:
            main(["search", *arguments])
        printed = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, exit.value.code, printed.out, printed.err)

    return command


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "fruit.jsonl"
    file.write_text('{"id": "k", "title": "Kiwi", "text": "green and sweet"}\n{"id": "p", "text": "a pear"}\n')
    return file


def test_a_name_opens_a_retriever(corpus, tmp_path):
    assert open_retriever("bm25:python-docs") is python_docs_retriever()
    opened = open_retriever(f"bm25:{corpus}", cache_dir=tmp_path)
    assert isinstance(opened, BM25Retriever)
    assert opened.search("kiwi", 1)[0].id == "k"
    with open_retriever("http://localhost:8000/retrieve") as remote:
        assert isinstance(remote, HTTPRetriever)
    with open_retriever(f"bm25:{corpus}", cache_dir=tmp_path, store=tmp_path / "s.sqlite") as cached:
        assert isinstance(cached, CachedRetriever)


@pytest.mark.parametrize("name", ["elastic:x", "bm25:", "bm25", "", "google"])
def test_an_unknown_backend_is_refused_and_the_known_ones_are_named(name):
    with pytest.raises(ConfigError, match=r"unknown search backend .*; known are 'bm25:CORPUS', 'dense:CORPUS'"):
        open_retriever(name)


def test_a_backend_that_others_register_opens_by_name():
    class Echo(Retriever):
        def __init__(self, index: str, model: str | None):
            self.index, self.model = index, model

        def search(self, query: str, k: int) -> list[Document]:
            return [Document(self.index, str(self.model), query)]

    register_retriever("echo", Echo, "echo:INDEX")
    assert open_retriever("echo:wiki", model="e5").search("q", 1) == [Document("wiki", "e5", "q")]
    with pytest.raises(ConfigError, match=r"unknown search backend 'echo'; known are .*'echo:INDEX'"):
        open_retriever("echo")
    for name in ("echo", "web", "a:b"):
        with pytest.raises(ConfigError, match="cannot be registered"):
            register_retriever(name, Echo)


def test_a_model_for_a_backend_that_uses_none_is_refused():
    with pytest.raises(ConfigError, match="does not use a model"):
        open_retriever("bm25:python-docs", model="x")


def test_a_replay_needs_a_store():
    with pytest.raises(ConfigError, match="needs a store"):
        open_retriever("bm25:python-docs", mode="replay")


def test_the_command_line_searches_records_and_replays(run, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("TOOLRL_CACHE", str(tmp_path / "cache"))
    store = ("--store", str(tmp_path / "s.sqlite"))
    found = run("query", f"bm25:{corpus}", "sweet kiwi", *store, "--mode", "record")
    assert re.search(r"^\s+\d+\.\d+  k  Kiwi\n\s+green and sweet\n$", found.stdout)
    assert run("query", f"bm25:{corpus}", "sweet kiwi", *store, "--mode", "replay").stdout == found.stdout
    missing = run("query", f"bm25:{corpus}", "pear", *store, "--mode", "replay")
    assert missing.returncode == 1
    assert "was not recorded" in missing.stderr
    assert "Traceback" not in missing.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("elastic", "q"), "unknown search backend 'elastic'"),
        (("bm25:nowhere.jsonl", "q"), "no corpus 'nowhere.jsonl'"),
        (("bm25:python-docs", "q", "--mode", "replay", "--store", "nowhere.sqlite"), "no recording"),
    ],
)
def test_bad_input_is_one_line_and_status_2(run, arguments, message):
    done = run("query", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
