"""Tool calls as code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String

from toolrl.types import ToolCall
from toolrl.view.text import marked

_HIGHLIGHTED_CHARACTERS = 20_000  # a lexer is a set of regular expressions: not for texts of any length
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
    """A call in the form in which it reads best.

    Attributes:
        line: `name(argument=value, ...)`, with an ellipsis for what stands in `blocks`.
        blocks: Long arguments: name and text.
        language: "python" if a block is Python.
    """

    line: str
    blocks: tuple[tuple[str, str], ...]
    language: str


def call_parts(call: ToolCall) -> CallParts:
    """Lay out a call: short arguments in a line, code and long texts as blocks."""
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
    """An argument as text: JSON, unless it is one."""
    return value if isinstance(value, str) else _json(value)


def python(text: str) -> Markup:
    """Python with its words told apart."""
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
