"""Splits text into index terms, for a corpus of prose and of dotted names.

`heapq.nlargest` becomes `heapq.nlargest`, `heapq` and `nlargest`: it is found as a whole and by its
parts. Underscores and inner capitals separate parts too. Terms are lower case, except for the exact
terms: a title has `=Name` for each of its dotted suffixes and `==Name` for the whole, and a query has
both where it names something. They tell `logging.INFO` from `logging.info`, and the document about
`nlargest` from those that mention it.

There is no stemming and no stop word list: BM25 gives frequent words little weight, and `is`, `not` and
`with` are worth asking about here.

Unicode equivalents are one term (NFKC: full-width, decomposed, ligatures). In scripts without spaces between words
(Chinese, Japanese, Thai ...), and in Korean, whose words take endings, a run of letters is indexed by its letters and
its bigrams, and queried by its bigrams, as in Lucene's CJKBigramFilter.
"""

from __future__ import annotations

import re
from itertools import pairwise
from unicodedata import normalize

import regex  # its \w has the marks of Indic and Thai vowels, and it knows scripts

_ASCII_IDENTIFIER = re.compile(r"\w+(?:\.\w+)*")  # twice as fast
_IDENTIFIER = regex.compile(_ASCII_IDENTIFIER.pattern)
_WORD = regex.compile(r"[^\W_]+")
_UNSPACED = regex.compile(
    r"((?:[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\p{Script=Bopomofo}\p{Script=Thai}"
    r"\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}\p{Script=Tibetan}\u30FC]\p{M}*)+)"
)
_LETTER = regex.compile(r"\P{M}\p{M}*|\p{M}+")
_CAPITAL_INSIDE = re.compile(r"[a-z0-9][A-Z]|[A-Z][A-Z][a-z]")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def text_terms(text: str, *, asked: bool = False) -> list[str]:
    """Index terms of a text, in order, repeated as often as they occur.

    Args:
        text: Any text.
        asked: Whether the text is a query: runs without spaces then give bigrams only.
    """
    if text.isascii():
        identifiers = _ASCII_IDENTIFIER.findall(text)
    else:
        text = normalize("NFKC", text)
        if _UNSPACED.search(text):
            return _terms_of_mixed(text, asked)
        identifiers = _IDENTIFIER.findall(text)
    terms = []
    for identifier in identifiers:
        whole = identifier.lower()
        terms.append(whole)
        if not whole.isalnum():
            terms += _parts(whole)
        if _CAPITAL_INSIDE.search(identifier):
            terms += [part.lower() for part in _CAMEL.findall(identifier) if part.lower() != whole]
    return terms


def _terms_of_mixed(text: str, asked: bool) -> list[str]:
    """Terms of a text that contains runs of a script without spaces."""
    terms = []
    for part in _UNSPACED.splititer(text):
        if not _UNSPACED.match(part):
            terms += text_terms(part)
            continue
        letters = _LETTER.findall(part)
        if len(letters) == 1 or not asked:
            terms += letters
        terms += [first + second for first, second in pairwise(letters)]
    return terms


def _parts(identifier: str) -> list[str]:
    """The components between dots, and the words that underscores join."""
    parts = []
    for component in identifier.split("."):
        words = _WORD.findall(component)
        if component != identifier:
            parts.append(component)
        if words != [component]:
            parts += words
    return parts


def title_terms(title: str) -> list[str]:
    """Index terms of a title: those of any text, and an exact term for each dotted suffix of its names."""
    title = normalize("NFKC", title)
    terms = text_terms(title)
    for identifier in _IDENTIFIER.findall(title):
        parts = identifier.split(".")
        terms += ["=" + ".".join(parts[start:]) for start in range(len(parts))]
    return [*terms, f"=={title}"]


def query_terms(query: str) -> list[str]:
    """Terms of a query, without repetition, with an exact term for every word that must be a name.

    That is a word with a dot, an underscore or a capital letter inside, or the only word of the query.
    """
    query = normalize("NFKC", query)
    identifiers = _IDENTIFIER.findall(query)
    named = [name for name in identifiers if len(identifiers) == 1 or not name.isalnum() or not name[1:].islower()]
    exact = [mark + name for name in named if len(name) > 1 or len(identifiers) == 1 for mark in ("=", "==")]
    return list(dict.fromkeys([*text_terms(query, asked=True), *exact, f"=={query.strip()}"]))
