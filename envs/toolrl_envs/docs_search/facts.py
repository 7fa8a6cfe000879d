"""Facts about the standard library that the search tool can find.

Facts come from the running interpreter, so tasks differ slightly between Python versions.
The splits share no object.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from toolrl import is_held_out
from toolrl.search import Symbol, python_docs_retriever, python_symbols
from toolrl_envs.common import Split

FactKind = Literal["module", "parameter", "default", "returns", "constant"]

# Settings of the search tool in both documentation environments.
RESULTS = 2
SNIPPET_CHARACTERS = 80


@dataclass(frozen=True)
class Fact:
    """One fact.

    Attributes:
        kind: The kind of question it answers.
        subject: The dotted name of the object, or the bare name for "module".
        detail: The parameter, for "default".
        value: The answer.
        query: A query that finds the document.
    """

    kind: FactKind
    subject: str
    value: str
    query: str
    detail: str = ""


def split_of(name: str) -> Split:
    """The split of an object, by the last part of its name, so that namesakes stay together."""
    return "test" if is_held_out(name.rsplit(".", 1)[-1]) else "train"


@cache
def facts(kind: FactKind, split: Split) -> tuple[Fact, ...]:
    """All facts of a kind that the search tool can find, in documentation order."""
    return tuple(fact for fact in _candidates(kind) if split_of(fact.subject) == split and _is_found(fact))


def _candidates(kind: FactKind) -> Iterator[Fact]:
    symbols = [symbol for symbol in python_symbols() if _is_plain(symbol)]
    if kind == "module":
        count = Counter(symbol.name for symbol in python_symbols() if symbol.kind != "module")
        for symbol in symbols:
            if symbol.kind in ("function", "class", "exception") and count[symbol.name] == 1 and len(symbol.name) > 3:
                yield Fact(kind, symbol.name, symbol.module, symbol.name)
    for symbol in symbols:
        name = symbol.document_id
        if kind == "constant" and type(symbol.value) is int and 2 <= symbol.value < 10**6:
            yield Fact(kind, name, str(symbol.value), name)
        returned = re.fullmatch(r"Returns? (?:the |an? )?([a-z][\w' -]{2,40})\.?", symbol.summary)
        if kind == "returns" and returned and len(returned.group(1).split()) <= 5:
            yield Fact(kind, name, returned.group(1), name)
        if symbol.kind != "function":
            continue
        named = [parameter for parameter in symbol.parameters if not parameter.kind.startswith("var")]
        if kind == "parameter" and named and len(named[0].name) > 1:
            yield Fact(kind, name, named[0].name, name)
        if kind == "default":
            for parameter in named:
                if re.fullmatch(r"-?\d{1,6}|'[\w./ -]+'", parameter.default or ""):
                    yield Fact(kind, name, str(parameter.default).strip("'"), name, parameter.name)


def _is_plain(symbol: Symbol) -> bool:
    return not symbol.name.startswith("_") and symbol.module.count(".") <= 2 and len(symbol.document_id) <= 40


def _is_found(fact: Fact) -> bool:
    """Whether the search tool shows the fact for its query."""
    for document in python_docs_retriever().search(fact.query, RESULTS):
        shown = " ".join(document.text.split())[:SNIPPET_CHARACTERS].rsplit(" ", 1)[0]
        if fact.kind == "module":
            if document.id == f"{fact.value}.{fact.subject}":
                return True
        elif document.id == fact.subject:
            if fact.kind == "default":
                return re.search(rf"\b{fact.detail}=['\"]?{re.escape(fact.value)}\b", shown) is not None
            if fact.kind == "constant":
                return " ".join(document.text.split()) == f"{fact.subject} = {fact.value}"
            return re.search(rf"\b{re.escape(fact.value)}\b", shown) is not None
    return False
