"""The search tool: a query to a retriever, and its documents as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from toolrl.search import Document, Retriever
from toolrl.tools.definition import Tool, tool
from toolrl.tools.resources import per_run


def search_tool(
    open_retriever: Callable[[], Retriever],
    *,
    k: int = 3,
    snippet_characters: int = 300,
    timeout_seconds: float = 30.0,
) -> Tool:
    """Make a `search(query)` tool over a retriever shared by all episodes.

    Args:
        open_retriever: Called once, at the first search.
        k: Documents per query.
        snippet_characters: How much of each document's text is shown.
        timeout_seconds: Wall-clock limit of one search.
    """

    @tool(timeout_seconds=timeout_seconds, max_output_characters=k * (snippet_characters + 200))
    def search(query: str, retriever: Retriever = per_run(open_retriever)) -> str:
        """Search the documents and return the best matches.

        Args:
            query: A few keywords.
        """
        return format_documents(retriever.search(query, k), snippet_characters)

    return search


def format_documents(documents: Sequence[Document], snippet_characters: int) -> str:
    """Documents as the model sees them: numbered titles, each followed by the start of its text.

    A text that begins with its title stands alone, so that no token is spent on saying it twice.
    """
    if not documents:
        return "No results."
    return "\n".join(
        f"[{number}] {_shown(document, snippet_characters)}" for number, document in enumerate(documents, 1)
    )


def _shown(document: Document, characters: int) -> str:
    snippet = _snippet(document.text, characters)
    # "re" does not begin "return": the title must end where a word does.
    begins = snippet.startswith(document.title) and not snippet[len(document.title) :][:1].isalnum()
    return snippet if begins or not document.title else f"{document.title}\n{snippet}"


def _snippet(text: str, characters: int) -> str:
    """The start of a text on one line, cut at a word."""
    text = " ".join(text.split())
    if len(text) <= characters:
        return text
    return text[:characters].rsplit(" ", 1)[0] + " ..."
