"""The search tool and the open tool: queries to a retriever, and its documents as text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from toolrl.errors import ConfigError
from toolrl.search import Document, NotReadable, Retriever
from toolrl.tools.definition import Tool, tool
from toolrl.tools.resources import per_run

OpenRetriever = Callable[[], Retriever]

_FIELDS = {"number": 1, "id": "", "title": "", "snippet": "", "url": "", "score": 0.0}


def search_tool(
    open_retriever: OpenRetriever,
    *,
    k: int = 3,
    snippet_characters: int = 300,
    result_format: str = "",
    timeout_seconds: float = 30.0,
) -> Tool:
    """Make a `search(query)` tool over a retriever shared by all episodes.

    Args:
        open_retriever: Called once, at the first search. Tools made with the same function share the retriever.
        k: Documents per query.
        snippet_characters: How much of each document's text is shown.
        result_format: Format of one result, with the fields {number}, {id}, {title}, {snippet}, {url} and {score}:
            "[{number}] {title} ({id}) {snippet}" goes with `open_tool`. By default number, title and snippet, without
            the title if the snippet begins with it.
        timeout_seconds: When a search should have finished. One that is much later is an infrastructure fault, never
            a timeout that the model sees. Backends have limits of their own.

    Raises:
        ConfigError: `result_format` has unknown fields.
    """
    if result_format:
        try:
            result_format.format(**_FIELDS)
        except (LookupError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"result_format={result_format!r}: {error!r}; its fields are {', '.join(_FIELDS)}"
            ) from None

    shared = _shared(open_retriever)
    # The text that the format itself adds to each result is not cut.
    around = len(result_format) + 200

    # The backend decides how long a search takes, not the model: a late one is a fault.
    @tool(timeout_seconds=timeout_seconds, keeps_time=True, max_output_characters=k * (snippet_characters + around))
    def search(query: str, retriever: Retriever = shared) -> str:
        """Search the documents and return the best matches.

        Args:
            query: A few keywords.
        """
        return format_documents(retriever.search(query, k), snippet_characters, result_format)

    return search


def open_tool(open_retriever: OpenRetriever, *, characters: int = 2000, timeout_seconds: float = 60.0) -> Tool:
    """Make an `open(reference, part)` tool that reads a document found by `search`, or a page by its URL, in parts.

    Args:
        open_retriever: As for `search_tool`.
        characters: Maximum length of a part; parts end at white space.
        timeout_seconds: As for `search_tool`.
    """
    if characters < 100:
        raise ConfigError(f"characters must be at least 100, got {characters}")

    shared = _shared(open_retriever)

    @tool(name="open", timeout_seconds=timeout_seconds, keeps_time=True, max_output_characters=characters + 1000)
    def read(reference: str, part: int = 1, retriever: Retriever = shared) -> str:
        """Read a document in parts.

        Args:
            reference: The id or URL of the document.
            part: Which part of it, from 1.
        """
        document = retriever.read(reference)
        parts = cut_into_parts(document.text, characters)
        if not 1 <= part <= len(parts):
            raise NotReadable(f"{reference!r} has {len(parts)} parts, there is no part {part}")
        place = f" (part {part} of {len(parts)})" if len(parts) > 1 else ""
        return f"{' '.join(document.title.split())[:300]}{place}\n{parts[part - 1]}"

    return read


@functools.lru_cache(maxsize=16)  # an opener may hold its documents
def _shared(open_retriever: OpenRetriever) -> Retriever:
    """Return one resource per function, so that tools made with the same function share what it opens."""
    return per_run(open_retriever)


def cut_into_parts(text: str, characters: int) -> list[str]:
    """Split a text into parts of at most `characters`, at white space if there is any in the last third of a part."""
    parts = []
    while len(text) > characters:
        space = max(text.rfind(mark, characters - characters // 3, characters + 1) for mark in (" ", "\n"))
        end = space if space > 0 else characters
        parts.append(text[:end])
        text = text[end:].lstrip()
    return [*parts, text] if text or not parts else parts


def format_documents(documents: Sequence[Document], snippet_characters: int, result_format: str = "") -> str:
    """Documents as the model sees them: numbered titles, each followed by the start of its text.

    If the text begins with the title, the title is not repeated. See `search_tool` for other formats.
    """
    if not documents:
        return "No results."
    shown = []
    for number, document in enumerate(documents, 1):
        if result_format:
            snippet = _snippet(document.text, snippet_characters)
            fields = {"number": number, "snippet": snippet, "score": document.score}
            texts = {"id": document.id, "title": " ".join(document.title.split()), "url": document.url}
            shown.append(result_format.format(**fields, **texts))
        else:
            shown.append(f"[{number}] {_shown(document, snippet_characters)}")
    return "\n".join(shown)


def _shown(document: Document, characters: int) -> str:
    snippet = _snippet(document.text, characters)
    # "re" is not the start of "return": the title must end at the end of a word.
    begins = snippet.startswith(document.title) and not snippet[len(document.title) :][:1].isalnum()
    return snippet if begins or not document.title else f"{document.title}\n{snippet}"


def _snippet(text: str, characters: int) -> str:
    """The start of a text on one line, cut between words."""
    text = " ".join(text[: 4 * characters + 1000].split())  # enough, unless it is white space
    if len(text) <= characters:
        return text
    return text[:characters].rsplit(" ", 1)[0] + " ..."
