"""Untrusted text of models, tools and web pages as HTML, all of it visible, none of it active; tool calls as code.

Markup is escaped. Characters that are invisible, or change how the text around them reads, are made visible: control
characters, ANSI escapes, bidirectional controls, zero-width characters, lone surrogates. The joiners U+200C and U+200D
stay as they are, since scripts and emoji need them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape
from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String

from toolrl.types import ToolCall

# ANSI: ECMA-48, 5.4 (control sequences) and 8.3.89 (operating system commands).
_SPECIAL = re.compile(
    r"(?P<ansi>\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]{0,400}(?:\x07|\x1b\\))"
    "|(?P<one>[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f])"
)
_NAMES = {
    0x00AD: "SHY", 0x061C: "ALM", 0x200B: "ZWSP", 0x200E: "LRM", 0x200F: "RLM", 0x2028: "LS", 0x2029: "PS",
    0x202A: "LRE", 0x202B: "RLE", 0x202C: "PDF", 0x202D: "LRO", 0x202E: "RLO", 0x2060: "WJ", 0x2066: "LRI",
    0x2067: "RLI", 0x2068: "FSI", 0x2069: "PDI", 0xFEFF: "BOM",
}  # fmt: skip


def plain(text: str) -> str:
    """The text with stand-ins for invisible characters; not yet escaped."""
    return _SPECIAL.sub(lambda match: "".join(map(_stand_in, match[0])), text)


def marked(text: str) -> Markup:
    """The text as HTML; the stand-ins of `plain` are marked up."""
    pieces, end = [], 0
    for match in _SPECIAL.finditer(text):
        pieces.append(escape(text[end : match.start()]))
        end = match.end()
        title = "terminal escape" if match["ansi"] else f"U+{ord(match[0]):04X}"
        shown = escape("".join(map(_stand_in, match[0])))
        pieces.append(Markup('<span class="control" title="{}">{}</span>').format(title, shown))
    pieces.append(escape(text[end:]))
    return Markup("").join(pieces)


def _stand_in(character: str) -> str:
    code = ord(character)
    if not _SPECIAL.fullmatch(character):
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return f"\u27e8{_NAMES.get(code, f'U+{code:04X}')}\u27e9"


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
