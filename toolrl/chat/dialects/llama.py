"""Llama 3.x's JSON, and calls written as Python does: Llama 3.2 and 4, LFM2."""

from __future__ import annotations

import ast
import json
import re
import warnings
from dataclasses import replace
from typing import Any

from toolrl.chat.dialects.base import Dialect, Schemas, json_call, properties_of, write_json
from toolrl.chat.dialects.blocks import BlockDialect, write_together
from toolrl.types import Message, ToolCall


class LlamaJsonDialect(Dialect):
    """A bare JSON object with `"name"` and `"parameters"`; several are separated by semicolons.

    Nothing marks a call. An object counts as one if it has both keys, or names a tool; a broken one if the turn
    begins as a call does. Source: trl/chat_templates/llama3_1.jinja.
    """

    name = "llama3-json"
    form = '{"name": "TOOL", "parameters": {"PARAMETER": VALUE}}'
    marks = ("<|python_tag|>",)
    ends = ("<|eot_id|>", "<|eom_id|>")
    _start = re.compile(r'\{\s*"(?:name|type|parameters)"\s*:')

    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """JSON objects that look like calls are taken out of the text."""
        tagged = text.lstrip().startswith("<|python_tag|>")
        text = text.lstrip().removeprefix("<|python_tag|>") if tagged else text
        calls: list[ToolCall] = []
        outside: list[str] = []
        position = 0
        while match := self._start.search(text, position):
            try:
                value, end = json.JSONDecoder().raw_decode(text, match.start())
            except (ValueError, RecursionError) as error:
                if tagged or calls or not text[: match.start()].strip():
                    outside.append(text[position : match.start()])
                    reason = f"the tool call is not valid JSON: {error}"
                    calls.append(ToolCall("", error=reason, raw=text[match.start() :]))
                    position = len(text)
                break
            key = "arguments" if "arguments" in value else "parameters"
            if tagged or key in value or properties_of(tools, str(value.get("name"))):
                outside.append(text[position : match.start()])
                calls.append(json_call(value, text[match.start() : end], key))
            else:
                outside.append(text[position:end])
            position = end
        outside.append(text[position:])
        if tagged and not calls:
            calls, outside = [ToolCall("", error="<|python_tag|> is not followed by JSON", raw=text)], []
        # Semicolons and line breaks between calls separate them.
        parts = [part.strip().strip(";") if calls else part for part in outside]
        return "".join(part for part in parts if part.strip()), calls

    def write(self, message: Message) -> str:
        """The text, if any, then the calls."""
        calls = [
            call.raw
            if call.error is not None
            else write_json({"name": call.name, "parameters": dict(call.arguments)}, self.hidden)
            for call in message.tool_calls
        ]
        return "\n".join([message.content] * bool(message.content) + ["; ".join(calls)] * bool(calls))


class PythonicDialect(Dialect):
    """A Python list of calls with named arguments, which is the whole turn: `[search(query="x"), now()]`.

    Source: Meta's prompt format for Llama 3.2 and 4.
    """

    name = "llama3-pythonic"
    form = "[TOOL(PARAMETER=VALUE)]"
    marks = ("<|python_start|>", "<|python_end|>")
    ends = ("<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|eom|>")
    _bare = re.compile(
        r"\s*(?:<\|python_start\|>)?\s*(\[\s*[A-Za-z_][\w.]*\(.*?)\s*(?:<\|python_end\|>)?\s*", re.DOTALL
    )

    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """A turn that begins with a call in brackets is calls only; any other is text."""
        match = self._bare.fullmatch(text)
        return ("", read_python_calls(match.group(1), text.strip())) if match else (text, [])

    def write(self, message: Message) -> str:
        """The text if there are no calls, else the calls; the form has no room for both."""
        calls = replace(message, content="")
        return write_together(calls, lambda good: write_python_list(good, self.hidden)) or message.content


class LfmDialect(BlockDialect):
    """The same list between `<|tool_call_start|>` and `<|tool_call_end|>`, with text around it.

    Source: trl/chat_templates/lfm2_2_5.jinja.
    """

    name = "lfm2"
    form = "<|tool_call_start|>[TOOL(PARAMETER=VALUE)]<|tool_call_end|>"
    block = marks = ("<|tool_call_start|>", "<|tool_call_end|>")

    def read_block(self, body: str, raw: str, tools: Schemas) -> list[ToolCall]:
        """A list of calls."""
        return read_python_calls(body, raw)

    def write(self, message: Message) -> str:
        """The text, then all calls in one list."""
        return write_together(message, self._write_list)

    def write_block(self, call: ToolCall) -> str:
        """A list of one."""
        return self._write_list([call])

    def _write_list(self, calls: list[ToolCall]) -> str:
        return f"{self.block[0]}{write_python_list(calls, self.hidden)}{self.block[1]}"

    def write_thinking(self, thinking: str) -> str:
        """Without line breaks."""
        return f"<think>{thinking}</think>"


def read_python_calls(text: str, raw: str) -> list[ToolCall]:
    """The calls of a Python list; values are literals, or JSON's `true`, `false` and `null`. Nothing is evaluated."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of escapes that Python does not know
            tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return [ToolCall("", error=f"the tool call is not valid Python: {error}", raw=raw)]
    calls = tree.elts if isinstance(tree, ast.List) else [tree]
    return [_python_call(call, raw) for call in calls] or [ToolCall("", error="the list of calls is empty", raw=raw)]


def _python_call(node: ast.expr, raw: str) -> ToolCall:
    if not isinstance(node, ast.Call):
        return ToolCall("", error="the list holds something that is not a call", raw=raw)
    try:
        name = ast.unparse(node.func)
        if node.args or any(keyword.arg is None for keyword in node.keywords):
            return ToolCall(name, error=f"the arguments of {name} must be named", raw=raw)
        arguments = {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
    except (ValueError, RecursionError) as error:
        return ToolCall("", error=f"an argument is not a literal: {error}", raw=raw)
    return ToolCall(name, arguments, raw=raw)


_NAMES = {"true": True, "false": False, "null": None}


def _literal(node: ast.expr) -> Any:
    """The JSON value that an expression writes.

    Raises:
        ValueError: It is something else.
    """
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            names = [_literal(key) if key is not None else None for key in keys]
            if all(isinstance(name, str) for name in names):
                return dict(zip(names, map(_literal, values), strict=True))
    raise ValueError(ast.unparse(node)[:80])


def write_python_list(calls: list[ToolCall], marks: tuple[str, ...]) -> str:
    """`[name(key=value), ...]`."""
    return f"[{', '.join(write_python_call(call, marks) for call in calls)}]"


def write_python_call(call: ToolCall, marks: tuple[str, ...]) -> str:
    """`name(key=value)`, marks inside strings escaped."""
    text = f"{call.name}({', '.join(f'{key}={value!r}' for key, value in call.arguments.items())})"
    for mark in marks:
        text = text.replace(mark, f"\\x{ord(mark[0]):02x}{mark[1:]}")
    return text
