"""Sentences and words of English text, in linear time and without data to download.

IFEval counts sentences with NLTK's Punkt model, and capitalised words with NLTK's tokeniser. These functions follow the
same conventions by rules; counts differ where Punkt knows a rare abbreviation.
"""

from __future__ import annotations

import itertools
import re

_word = re.compile(r"\w+")
_chunk = re.compile(r"\S+")
_quotes = "\"'”’)]"
_closing = "\"'”’)]}*_»"
_opening = "\"'“‘([{*_«#-–—• "


def _set_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Never end a sentence.
_LEADING = _set_of(
    "mr mrs ms dr prof gen col capt lt sgt cmdr rev hon sen rep gov pres messrs mme st mt ft vs cf viz fig figs "
    "vol ch eq nos pp e.g i.e approx"
)
# End a sentence only before a word that often starts one.
_TRAILING = _set_of(
    "inc ltd co corp jr sr bros etc al u.s u.k u.n e.u d.c a.m p.m ph.d b.a m.a b.sc m.sc m.d b.c a.d "
    "jan feb mar apr aug sept oct nov dec mon tues wed thurs fri ave blvd rd dept univ assn est"
)
_STARTERS = _set_of(
    "the a an he she it they we i you this that these those there his her its our my your their in on at but and "
    "however for if when while after before as so then what who how why where although because since until with "
    "yes no not each every some many most all both one here"
)


def split_sentences(text: str) -> list[str]:
    """Split a text into its sentences.

    A sentence ends with `.`, `!`, `?` or an ellipsis, and any closing quotes and brackets, before white space. Titles,
    initials and other abbreviations do not end a sentence, nor does a line break alone.
    """
    sentences: list[str] = []
    chunks = list(_chunk.finditer(text))
    start, has_ended = 0, False
    for chunk, following in itertools.pairwise(chunks):
        is_quote = not chunk.group().strip(_quotes)
        has_ended = _ends_sentence(chunk.group(), following.group()) or (has_ended and is_quote)
        if has_ended and following.group().strip(_quotes):  # a detached closing quote belongs to it
            sentences.append(text[start : chunk.end()].strip())
            start, has_ended = chunk.end(), False
    rest = text[start:].strip()
    return [*sentences, rest] if rest else sentences


def _ends_sentence(chunk: str, following: str) -> bool:
    bare = chunk.rstrip(_closing)
    if not bare or bare[-1] not in ".!?":
        return False
    if bare[-1] in "!?":
        return True
    next_word = following.lstrip(_opening)
    is_lower = next_word[:1].islower()
    if bare.endswith(".."):
        return not is_lower
    word = bare[:-1].lstrip(_opening).lower()
    if word in _LEADING or (word == "no" and next_word[:1].isdigit()):
        return False
    if word in ("p.s", "p.p.s"):
        return True
    if word in _TRAILING or (len(word) > 1 and re.fullmatch(r"(?:[a-z]\.)+[a-z]", word)):
        return not is_lower and next_word.rstrip(",.;:!?'\"").lower() in _STARTERS
    if len(word) == 1 and word.isalpha() and bare[:-1].lstrip(_opening).isupper() and word != "i":
        return not is_lower and next_word.lower() in _STARTERS  # an initial
    return not (word.isdigit() and is_lower)


def count_words(text: str) -> int:
    """The number of runs of letters, digits and underscores."""
    return sum(1 for _ in _word.finditer(text))


_separator = re.compile(r"[\s()\[\]{}<>\"“”‘’«»`;@#$%&?!*…‒–—―]+|[,:](?!\d)|--+|\.{2,}")
_contraction = re.compile(
    r"(?<=\w)(?='(?:s|m|d|ll|re|ve)$)|(?<=\w)(?=n't$)|(?<=^can)(?=not$)|(?<=^gon)(?=na$)|(?<=^got)(?=ta$)"
    r"|(?<=^wan)(?=na$)|(?<=^lem)(?=me$)|(?<=^gim)(?=me$)",
    re.IGNORECASE,
)


def count_capital_words(text: str) -> int:
    """The number of words in capitals. A hyphenated word counts once, a contraction twice (DO N'T, I 'm)."""
    tokens = (token.rstrip("'.,:") for token in _separator.split(text) if token)
    return sum(part.isupper() for token in tokens for part in _contraction.split(token))
