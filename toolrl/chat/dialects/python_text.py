"""Reads and writes lists of calls in Python syntax, with named arguments. Nothing is evaluated."""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any

from toolrl.chat.dialects.scanning import PYTHON_STRING, Scanner
from toolrl.support.python_source import parse_python
from toolrl.types import ToolCall


def read_python_calls(text: str, raw: str) -> list[ToolCall]:
    """Read the calls of a Python list, or of lines without brackets.

    Everything before a parenthesis or an equals sign is a name, so that `from="x"` and `my-tool()`, which models write,
    are read. Values are literals, or JSON's `true`, `false` and `null`. One wrong call makes all of them one error.
    """
    try:
        return _Reader(text).calls(raw)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        return [ToolCall("", error=f"the tool call is not valid Python: {reason}", raw=raw)]


class _Reader:
    """Parses the text of a list of calls."""

    _name = re.compile(r"\s*([^\s\[\](){},='\";]+)\s*\(")
    _key = re.compile(r"\s*((?:[^\s\[\](){},='\";]++ ?)++)\s*=(?!=)")

    def __init__(self, text: str):
        self._text = text.strip()
        self._scanner = Scanner(self._text, PYTHON_STRING)

    def calls(self, raw: str) -> list[ToolCall]:
        """Read all calls.

        Raises:
            ValueError: The text is not a list of calls.
            SyntaxError: A value is not valid Python.
        """
        text = self._text
        bracketed = text.startswith("[")
        at, end = (1, len(text) - 1) if bracketed else (0, len(text))
        if bracketed and not text.endswith("]"):
            raise ValueError("the list of calls is not closed with ]")
        calls = list[ToolCall]()
        while at < end:
            if match := re.compile(r"\s+").match(text, at, end):
                at = match.end()
                continue
            name = self._name.match(text, at, end)
            if name is None:
                raise ValueError(f"{text[at : at + 40]!r} is not a call with named arguments")
            arguments, at = self._arguments(name.group(1), name.end(), end)
            calls.append(ToolCall(name.group(1), arguments, raw=raw))
            separator = re.compile(r"[ \t]*(?:,|;|\n|\Z)" if not bracketed else r"\s*(?:,|\Z)").match(text, at, end)
            if separator is None:
                raise ValueError(f"{text[at : at + 40]!r} follows a call")
            at = separator.end()
        if not calls:
            raise ValueError("the list of calls is empty")
        return calls

    def _arguments(self, name: str, at: int, end: int) -> tuple[dict[str, Any], int]:
        arguments: dict[str, Any] = {}
        while True:
            closing = re.compile(r"\s*\)").match(self._text, at, end)
            if closing:
                return arguments, closing.end()
            key = self._key.match(self._text, at, end)
            if key is None:
                raise ValueError(f"the arguments of {name} must be named")
            if (parameter := key.group(1).rstrip()) in arguments:
                raise ValueError(f"the parameter {parameter} of {name} is given twice")
            stop = self._end_of_value(key.end(), end)
            arguments[parameter] = _value(self._text[key.end() : stop])
            at = stop + (self._text[stop] == ",")

    def _end_of_value(self, at: int, end: int) -> int:
        """The position of the comma or parenthesis after a value."""
        depth = 0
        while found := self._scanner.find(at, ("(", "[", "{", ")", "]", "}", ",")):
            place, mark = found
            if place >= end:
                break
            if not depth and mark in ",)":
                return place
            if not depth and mark in "]}":
                break
            depth += 1 if mark in "([{" else -1 if mark in ")]}" else 0
            at = place + 1
        raise ValueError("a call is not closed with )")


_STRING = re.compile(PYTHON_STRING, re.DOTALL)
_ESCAPED = {"\n": "\\n", "\r": "\\r", "\0": "\\x00"}
_ESCAPE_OR_BREAK = re.compile(r"\\.|[\n\r\0]", re.DOTALL)


def _value(text: str) -> Any:
    text = _STRING.sub(lambda found: _on_one_line(found.group()), text.strip())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # about escapes that Python does not know
        return _literal(parse_python(text, mode="eval").body)


def _on_one_line(string: str) -> str:
    """Escape line breaks and NUL in a string: models write them, where Python needs three quotes or an escape."""
    if string[:3] in ('"""', "'''"):
        return string
    return _ESCAPE_OR_BREAK.sub(lambda found: _ESCAPED.get(found.group(), found.group()), string)


_NAMES = {"true": True, "false": False, "null": None}


def _literal(node: ast.expr) -> Any:
    """The JSON value of a literal expression.

    Raises:
        ValueError: It is not a literal.
    """
    match node:
        case ast.Constant(value=None | bool() | int() | str() as value):
            return value
        case ast.Constant(value=float() as value) if abs(value) < float("inf"):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value) as operand):
            if not isinstance(value, bool):
                return -_literal(operand)
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            names = [_literal(key) if key is not None else None for key in keys]
            if all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
                return dict(zip(names, map(_literal, values), strict=True))
    raise ValueError(f"{ast.unparse(node)[:80]} is not a literal")


# ---- writing


def write_python_call(call: ToolCall, marks: tuple[str, ...]) -> str:
    """Write `name(key=value)`, with marks inside strings escaped."""
    text = f"{call.name}({', '.join(f'{key}={value!r}' for key, value in call.arguments.items())})"
    for mark in marks:
        text = text.replace(mark, f"\\x{ord(mark[0]):02x}{mark[1:]}")
    return text
