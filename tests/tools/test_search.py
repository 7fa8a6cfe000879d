"""Promises about the search tool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from toolrl import ConfigError, RetrieverFault, Task, ToolCall, ToolEnv, ToolFailure, ToolResult, call
from toolrl.search import CachedRetriever, Document, NotReadable, Retriever
from toolrl.support.event_loop import run_sync
from toolrl.tools import Toolbox, open_tool, search_tool
from toolrl.tools.resources import ResourceScope
from toolrl.tools.search import cut_into_parts, format_documents

CallTool = Callable[..., ToolResult]


class FakeRetriever(Retriever):
    """Finds the documents whose title is a word of the query."""

    def __init__(self, *documents: Document) -> None:
        self.documents = documents

    def search(self, query: str, k: int) -> list[Document]:
        if query == "down":
            raise RetrieverFault("backend down")
        return [document for document in self.documents if document.title in query.split()][:k]


RETRIEVER = FakeRetriever(*(Document(letter, letter, f"text of {letter}") for letter in "abcd"))


def test_documents_are_numbered_and_titled_in_the_retrievers_order(call_tool: CallTool) -> None:
    search = search_tool(lambda: RETRIEVER, k=2)
    assert call_tool(search, query="a b c").content == "[1] a\ntext of a\n[2] b\ntext of b"


def test_finding_nothing_is_reported(call_tool: CallTool) -> None:
    assert call_tool(search_tool(lambda: RETRIEVER), query="z").content == "No results."


def test_a_backend_that_is_down_is_a_fault(call_tool: CallTool) -> None:
    with pytest.raises(RetrieverFault, match="backend down"):
        call_tool(search_tool(lambda: RETRIEVER), query="down")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("short  text\non two lines", "short text on two lines"),
        ("some characters and more than that", "some characters and ..."),
        ("x" * 30, "x" * 23 + " ..."),
    ],
)
def test_a_snippet_is_one_line_cut_at_a_word(text: str, shown: str) -> None:
    assert format_documents([Document("d", "T", text)], 23) == f"[1] T\n{shown}"


def test_a_title_that_begins_the_text_is_said_once() -> None:
    documents = [Document("a", "re.sub", "re.sub(pattern) Replace."), Document("b", "re", "Text of re.")]
    assert format_documents(documents, 80) == "[1] re.sub(pattern) Replace.\n[2] re\nText of re."
    assert format_documents([Document("c", "re", "return it")], 80) == "[1] re\nreturn it"
    assert format_documents([Document("d", "", "no title")], 80) == "[1] no title"


def test_full_snippets_are_never_cut_by_the_tools_own_limit(call_tool: CallTool) -> None:
    documents = [Document(str(index), "t", "word " * 500) for index in range(5)]
    search = search_tool(lambda: FakeRetriever(*documents), k=5, snippet_characters=400)
    assert call_tool(search, query="t").cut_characters == 0


def test_the_format_of_results_is_the_authors(call_tool: CallTool) -> None:
    documents = [Document("id1", "t", "some {braces} text", "https://x.example", 1.25), Document("id2", "t", "b")]
    layout = "{number}. {title} <{id}> {url} {score:.1f}: {snippet}"
    search = search_tool(lambda: FakeRetriever(*documents), result_format=layout)
    assert call_tool(search, query="t").content == (
        "1. t <id1> https://x.example 1.2: some {braces} text\n2. t <id2>  0.0: b"
    )


@pytest.mark.parametrize("layout", ["{name}", "{title", "{0}", "{title.missing}", "{score:q}"])
def test_a_format_with_other_fields_is_refused(layout: str) -> None:
    with pytest.raises(ConfigError, match="its fields are number, id, title, snippet, url, score"):
        search_tool(lambda: RETRIEVER, result_format=layout)


class Library(FakeRetriever):
    """Opens documents as well."""

    def read(self, reference: str) -> Document:
        for document in self.documents:
            if document.id == reference:
                return document
        raise NotReadable(f"there is no {reference}")


def test_a_document_is_read_in_parts(call_tool: CallTool) -> None:
    words = " ".join(f"word{number}" for number in range(60))
    read = open_tool(
        lambda: Library(Document("d", "A  title", words), Document("e", "Short", "all of it")), characters=200
    )
    assert call_tool(read, reference="e").content == "Short\nall of it"
    parts = [call_tool(read, reference="d", part=part).content for part in (1, 2, 3)]
    assert [part.splitlines()[0] for part in parts] == [f"A title (part {number} of 3)" for number in (1, 2, 3)]
    assert " ".join(part.splitlines()[1] for part in parts) == words
    beyond = call_tool(read, reference="d", part=4)
    assert (beyond.content, beyond.failure) == ("error: 'd' has 3 parts, there is no part 4", ToolFailure.RAISED)
    assert call_tool(read, reference="z").content == "error: there is no z"


def test_results_that_cannot_be_opened_are_reported(call_tool: CallTool) -> None:
    assert "only search results" in call_tool(open_tool(lambda: RETRIEVER), reference="a").content


@given(st.text("ab \n", max_size=200), st.integers(1, 50))
def test_parts_lose_nothing_but_space_between_them(text: str, characters: int) -> None:
    parts = cut_into_parts(text, characters)
    assert all(len(part) <= characters for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_tools_of_one_function_share_the_retriever(scope: ResourceScope) -> None:
    opened = []

    def open_library() -> Library:
        opened.append(Library(Document("x", "x", "text")))
        return opened[-1]

    toolbox = Toolbox([search_tool(open_library), open_tool(open_library)])
    for name, arguments in (("search", {"query": "x"}), ("open", {"reference": "x"})):
        assert run_sync(toolbox.call(ToolCall(name, arguments), scope)).failure is None
    assert len(opened) == 1


def test_an_episode_records_cache_hits(tmp_path: Path) -> None:
    search = search_tool(lambda: CachedRetriever(RETRIEVER, tmp_path / "store.sqlite"))
    env = ToolEnv(tasks=[Task("t", "?", "a")], tools=[search], reward=lambda task, episode: 1.0)
    session, other = env.open_episode(env.tasks[0]), env.open_episode(env.tasks[0])
    for _ in range(2):
        run_sync(session.advance(call("search", query="a")))
    run_sync(other.advance(call("search", query="a")))
    for episode in (session, other):
        run_sync(episode.close())
    assert session.usage == {"search_cache_misses": 1, "search_cache_hits": 1}
    assert other.usage == {"search_cache_hits": 1}
    env.close()
