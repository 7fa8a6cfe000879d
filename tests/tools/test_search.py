"""Promises about the search tool."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from toolrl import RetrieverFault, ToolResult
from toolrl.search import Document, Retriever
from toolrl.tools import search_tool
from toolrl.tools.search import format_documents

CallTool = Callable[..., ToolResult]


class FakeRetriever(Retriever):
    """Finds the documents whose title is a word of the query."""

    def __init__(self, *documents: Document) -> None:
        self.documents = documents

    def search(self, query: str, k: int) -> list[Document]:
        if query == "down":
            raise RetrieverFault("backend down")
        return [document for document in self.documents if document.title in query.split()][:k]

    def search_batch(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        return [self.search(query, k) for query in queries]

    def close(self) -> None:
        pass


RETRIEVER = FakeRetriever(*(Document(letter, letter, f"text of {letter}") for letter in "abcd"))


def test_documents_are_numbered_and_titled_in_the_retrievers_order(call_tool: CallTool) -> None:
    search = search_tool(lambda: RETRIEVER, k=2)
    assert call_tool(search, query="a b c").content == "[1] a\ntext of a\n[2] b\ntext of b"


def test_that_nothing_was_found_is_said(call_tool: CallTool) -> None:
    assert call_tool(search_tool(lambda: RETRIEVER), query="z").content == "No results."


def test_a_backend_that_is_down_is_no_mistake_of_the_models(call_tool: CallTool) -> None:
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
