"""How text is cut into index terms, for a corpus of prose and of dotted names.

`heapq.nlargest` becomes `heapq.nlargest`, `heapq` and `nlargest`: it is found as a whole and by its
parts. Underscores and inner capitals separate parts too. Terms are lower case, except for the exact
terms: a title carries `=Name` for each of its dotted endings and `==Name` for the whole, and a query asks
for both where it names something. They tell `logging.INFO` from `logging.info`, and the document about
`nlargest` from those that mention it.

There is no stemming and no list of stop words: the weights of BM25 take care of frequent words, and
`is`, `not` and `with` are things one asks about here.
"""

from __future__ import annotations

import re

_IDENTIFIER = re.compile(r"\w+(?:\.\w+)*")
_WORD = re.compile(r"[^\W_]+")
_CAPITAL_INSIDE = re.compile(r"[a-z0-9][A-Z]|[A-Z][A-Z][a-z]")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def text_terms(text: str) -> list[str]:
    """Index terms of a text, in order, repeated as often as they occur."""
    terms = []
    for identifier in _IDENTIFIER.findall(text):
        whole = identifier.lower()
        terms.append(whole)
        if not whole.isalnum():
            terms += _parts(whole)
        if _CAPITAL_INSIDE.search(identifier):
            terms += [part.lower() for part in _CAMEL.findall(identifier) if part.lower() != whole]
    return terms


def _parts(identifier: str) -> list[str]:
    """The components between dots, and their words where underscores join several."""
    parts = []
    for component in identifier.split("."):
        words = _WORD.findall(component)
        if component != identifier:
            parts.append(component)
        if words != [component]:
            parts += words
    return parts


def title_terms(title: str) -> list[str]:
    """Index terms of a title: those of any text, and an exact term for each dotted ending of its names."""
    terms = text_terms(title)
    for identifier in _IDENTIFIER.findall(title):
        parts = identifier.split(".")
        terms += ["=" + ".".join(parts[start:]) for start in range(len(parts))]
    return [*terms, f"=={title}"]


def query_terms(query: str) -> list[str]:
    """Terms of a query, each once, with an exact term for every word that can only be a name.

    That is a word with a dot, an underscore or a capital inside, or the only word of the query.
    """
    identifiers = _IDENTIFIER.findall(query)
    named = [name for name in identifiers if len(identifiers) == 1 or not name.isalnum() or not name[1:].islower()]
    exact = [mark + name for name in named if len(name) > 1 or len(identifiers) == 1 for mark in ("=", "==")]
    return list(dict.fromkeys([*text_terms(query), *exact, f"=={query.strip()}"]))
