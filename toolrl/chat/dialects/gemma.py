"""Gemma 4 and FunctionGemma: `call:name{key:value}`, with strings between special marks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from toolrl.chat.dialects.base import BlockDialect, Dialect
from toolrl.chat.dialects.json_text import write_json_text
from toolrl.chat.dialects.scanning import JSON_STRING, skip_space
from toolrl.chat.dialects.values import Schemas, hide, show, typed_value
from toolrl.types import ToolCall

_BARE = re.compile(r'\s*("[^"\\]*+(?:\\.[^"\\]*+)*+"|[^,\[\]{}]+)', re.DOTALL)
_KEY = re.compile(r"([^:{}\[\],]*+)(?=:)")


class GemmaDialect(BlockDialect):
    """Gemma 4's calls. Inside a string, the `<` of a mark is written as `&lt;`.

    Source: trl/chat_templates/gemma4_v5.jinja.
    """

    name = "gemma4"
    form = '<|tool_call>call:TOOL{PARAMETER:<|"|>TEXT<|"|>}<tool_call|>'
    block = ("<|tool_call>", "<tool_call|>")
    quote = '<|"|>'
    strings = rf"{re.escape(quote)}.*?(?P<quoted>{re.escape(quote)}|\Z)|{JSON_STRING}"
    marks: tuple[str, ...] = ("<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>")
    ends: tuple[str, ...] = ("<turn|>", "<|tool_response>", "<eos>")
    thinking = ("<|channel>thought", "<channel|>")
    thought_form = "{0}\n{2}\n{1}"
    _head = re.compile(r"\s*call:([^\s{]+)\s*(?=\{)")

    def read_block(self, body: str, raw: str, tools: Schemas) -> list[ToolCall]:
        """Read one call."""
        return [self._read(body, raw)]

    def write_calls(self, calls: list[ToolCall], tools: Schemas) -> str:
        """Write one call, with arguments sorted by name as in the template."""
        return f"{self.block[0]}call:{calls[0].name}{self._write(dict(calls[0].arguments))}{self.block[1]}"

    def _read(self, body: str, raw: str) -> ToolCall:
        head = self._head.match(body)
        if head is None:
            return ToolCall("", error="the tool call does not begin with call:TOOL{", raw=raw)
        try:
            arguments, end = self._value(body, head.end())
        except (ValueError, RecursionError) as error:
            return ToolCall(head.group(1), error=f"the arguments cannot be read: {error}", raw=raw)
        if body[end:].strip():
            return ToolCall(head.group(1), error=f"{body[end:].strip()[:80]!r} follows the arguments", raw=raw)
        return ToolCall(head.group(1), arguments, raw=raw)

    def _value(self, text: str, position: int) -> tuple[Any, int]:
        """Read the value that starts at a position; returns it and where it ends.

        Raises:
            ValueError: The text there is not a value.
        """
        position = skip_space(text, position)
        if text.startswith(self.quote, position):
            start = position + len(self.quote)
            end = text.find(self.quote, start)
            if end < 0:
                raise ValueError(f"a string is not closed with {self.quote}")
            return show(text[start:end], self.hidden), end + len(self.quote)
        if text[position : position + 1] in ("{", "["):
            return self._container(text, position)
        match = _BARE.match(text, position)
        if match is None or self.quote in match.group():
            raise ValueError(f"there is no value at {text[position : position + 20]!r}")
        return typed_value(match.group(1).strip(), None), match.end()  # models leave out the quotes of short strings

    def _container(self, text: str, position: int) -> tuple[Any, int]:
        closing = "}" if text[position] == "{" else "]"
        values: list[Any] = []
        keys: list[str] = []
        named: set[str] = set()
        position += 1
        while True:
            position = skip_space(text, position)
            if text.startswith(closing, position):
                return (dict(zip(keys, values, strict=True)) if closing == "}" else values), position + 1
            if values:
                if not text.startswith(",", position):
                    raise ValueError(f"there is no comma or {closing} at {text[position : position + 20]!r}")
                position += 1
            if closing == "}":
                key, position = self._key(text, position)
                if key in named:
                    raise ValueError(f"{key} is given twice")
                named.add(key)
                keys.append(key)
            value, position = self._value(text, position)
            values.append(value)

    def _key(self, text: str, position: int) -> tuple[str, int]:
        position = skip_space(text, position)
        if text.startswith(self.quote, position):
            key, end = self._value(text, position)
        else:
            match = _KEY.match(text, position)
            if match is None:
                raise ValueError(f"there is no name before a colon at {text[position : position + 20]!r}")
            key, end = match.group(1).strip().strip('"'), match.end()
        if not text.startswith(":", end):
            raise ValueError(f"there is no colon after {key!r}")
        return str(key), end + 1

    def _write(self, value: Any) -> str:
        if isinstance(value, str):
            return self.quote + hide(value, self.hidden) + self.quote
        if isinstance(value, Mapping):
            pairs = (f"{self._write_key(key)}:{self._write(item)}" for key, item in sorted(value.items()))
            return "{" + ",".join(pairs) + "}"
        if isinstance(value, list | tuple):
            return "[" + ",".join(map(self._write, value)) + "]"
        return write_json_text(value)

    def _write_key(self, key: str) -> str:
        return key if re.fullmatch(r"\w+", key) else self._write(key)


class FunctionGemmaDialect(GemmaDialect):
    """Gemma's form with other marks.

    Source: ai.google.dev/gemma/docs/functiongemma/formatting-and-best-practices.
    """

    name = "functiongemma"
    form = "<start_function_call>call:TOOL{PARAMETER:<escape>TEXT<escape>}<end_function_call>"
    block = ("<start_function_call>", "<end_function_call>")
    quote = "<escape>"
    strings = rf"{quote}.*?(?P<quoted>{quote}|\Z)|{JSON_STRING}"
    marks = ("<start_function_call>", "<end_function_call>", "<escape>")
    ends = ("<end_of_turn>", "<start_function_response>", "<eos>")
    thinking, thought_form = Dialect.thinking, Dialect.thought_form  # it does not think; these are the defaults
