"""Untrusted text of models, tools and web pages as HTML, all of it visible, none of it active; tool calls as code.

Markup is escaped. Characters that are invisible, or change how the text around them reads, are made visible: control
characters, ANSI escapes, bidirectional controls, zero-width characters, lone surrogates. The joiners U+200C and U+200D
stay as they are, since scripts and emoji need them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape
from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String

from toolrl.support.visible import SPECIAL, stand_in
from toolrl.types import ToolCall


def marked(text: str) -> Markup:
    """The text as HTML; the stand-ins of `plain` are marked up."""
    pieces, end = [], 0
    for match in SPECIAL.finditer(text):
        pieces.append(escape(text[end : match.start()]))
        end = match.end()
        title = "terminal escape" if match["ansi"] else f"U+{ord(match[0]):04X}"
        shown = escape("".join(map(stand_in, match[0])))
        pieces.append(Markup('<span class="control" title="{}">{}</span>').format(title, shown))
    pieces.append(escape(text[end:]))
    return Markup("").join(pieces)


@dataclass(frozen=True, slots=True)
class TextLimits:
    """How much of one text is shown.

    Attributes:
        lines: The most lines shown at first.
        characters: The most characters shown at first.
        folded: The most characters in all, those folded away included.
    """

    lines: int = 24
    characters: int = 2_400
    folded: int = 100_000


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The beginning of a text, in two pieces.

    Attributes:
        head: The piece shown at first.
        rest: The piece folded away; empty if the head is the whole text.
        left_out: The number of characters after them, which are omitted.
        shown: The number of characters in both.
    """

    head: str
    rest: str
    left_out: int
    shown: int

    @property
    def rest_lines(self) -> int:
        """The number of lines folded away."""
        return self.rest.count("\n") + 1


def excerpt(text: str, limits: TextLimits) -> Excerpt:
    """Cut a text, at the end of a line if it has many; a text only slightly too long stays whole."""
    lines = text[: limits.characters].split("\n", limits.lines)
    if len(lines) > limits.lines:
        end = sum(len(line) + 1 for line in lines[:-1])
    else:
        end = min(len(text), limits.characters)
    if len(text) - end < limits.characters // 8 and text.count("\n", end) < 4:
        end = len(text)
    shown = max(end, min(len(text), limits.folded))
    return Excerpt(text[:end], text[end:shown], len(text) - shown, shown)


# ---- tool calls as code

_HIGHLIGHTED_CHARACTERS = 20_000  # lexing a long text is slow
_SHORT = 80
_CLASSES = (
    (Comment, "c"),
    (Keyword, "k"),
    (Operator.Word, "k"),
    (String, "s"),
    (Number, "n"),
    (Name.Builtin, "b"),
    (Name.Function, "b"),
    (Name.Class, "b"),
)
_CODE_ARGUMENTS = ("code", "command", "script", "sql", "program", "source")


@dataclass(frozen=True, slots=True)
class CallParts:
    """A call, laid out to be read.

    Attributes:
        line: `name(argument=value, ...)`; arguments in `blocks` have only their name here.
        blocks: The name and text of each long argument.
        language: "python" if a block is Python, else empty.
    """

    line: str
    blocks: tuple[tuple[str, str], ...]
    language: str


def call_parts(call: ToolCall) -> CallParts:
    """Lay out a call: short arguments on one line, code and long texts as blocks."""
    short, blocks = [], []
    for name, value in call.arguments.items():
        text = argument_text(value)
        if name in _CODE_ARGUMENTS or "\n" in text or len(text) > _SHORT:
            blocks.append((name, text))
            short.append(name if len(call.arguments) > 1 else "")
        else:
            short.append(f"{name}={_json(value)}")
    inner = ", ".join(part for part in short if part)
    name = call.name or "(no name)"
    line = name if blocks and not inner else f"{name}({inner})"
    return CallParts(line, tuple(blocks), "python" if call.name == "python" else "")


def argument_text(value: Any) -> str:
    """An argument as text: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else _json(value)


def python(text: str) -> Markup:
    """Python with its syntax highlighted."""
    if len(text) > _HIGHLIGHTED_CHARACTERS:
        return marked(text)
    pieces = []
    for kind, value in PythonLexer(stripnl=False, ensurenl=False).get_tokens(text):
        name = next((name for group, name in _CLASSES if kind in group), "")
        piece = marked(value)
        pieces.append(Markup('<span class="{}">{}</span>').format(name, piece) if name else piece)
    return Markup("").join(pieces)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2 if isinstance(value, dict | list) and value else None)
