"""Calls as JSON between tags: Hermes, Qwen2.5 and Qwen3; Phi-4-mini, which puts a list between its own."""

from __future__ import annotations

import json
import re

from toolrl.chat.dialects.base import Dialect, Schemas, json_call, read_json_call, write_json
from toolrl.types import Message, ToolCall


class HermesDialect(Dialect):
    """JSON between `<tool_call>` tags, as Hermes, Qwen2.5 and Qwen3 write it.

    Source: the tool section of the Qwen3 chat template (trl/chat_templates/qwen3.jinja).
    """

    name = "hermes"
    form = '<tool_call>\n{"name": "TOOL", "arguments": {"PARAMETER": VALUE}}\n</tool_call>'
    marks = ("<tool_call>", "</tool_call>")
    _call = re.compile(r"<tool_call>(.*?)(</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)

    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """Each block is one call; a broken one has `error` set."""
        calls = [self._read(match) for match in self._call.finditer(text)]
        content = self._call.sub("", text)
        if "</tool_call>" in content:
            calls.append(ToolCall("", error="</tool_call> without <tool_call> before it", raw="</tool_call>"))
            content = content.replace("</tool_call>", "")
        return content, calls

    def write(self, message: Message) -> str:
        """The text first, then each call in tags of its own."""
        blocks = [message.content] if message.content else []
        for call in message.tool_calls:
            body = write_json({"name": call.name, "arguments": dict(call.arguments)}, self.hidden)
            blocks.append(call.raw if call.error is not None else f"<tool_call>\n{body}\n</tool_call>")
        return "\n".join(blocks)

    def _read(self, match: re.Match[str]) -> ToolCall:
        raw, body, closing = match.group(0), match.group(1).strip(), match.group(2)
        if closing != "</tool_call>":
            return ToolCall("", error="<tool_call> is not closed with </tool_call>", raw=raw)
        return read_json_call(body, raw)


class PhiDialect(Dialect):
    """A JSON list between `<|tool_call|>` and `<|/tool_call|>`.

    Source: the model card of microsoft/Phi-4-mini-instruct.
    """

    name = "phi4"
    form = '<|tool_call|>[{"name": "TOOL", "arguments": {"PARAMETER": VALUE}}]<|/tool_call|>'
    marks = ("<|tool_call|>", "<|/tool_call|>")
    ends = ("<|end|>",)
    _block = re.compile(r"<\|tool_call\|>(.*?)(<\|/tool_call\|>|\Z)", re.DOTALL)

    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """The list's items are the calls; a broken list is one broken call."""
        calls = [call for match in self._block.finditer(text) for call in self._read(match)]
        return self._block.sub("", text), calls

    def write(self, message: Message) -> str:
        """The text, then all calls in one list; malformed ones as they were sampled."""
        good = [{"name": c.name, "arguments": dict(c.arguments)} for c in message.tool_calls if c.error is None]
        blocks = [f"<|tool_call|>{write_json(good, self.hidden)}<|/tool_call|>"] if good else []
        return "".join([message.content, *blocks, *(c.raw for c in message.tool_calls if c.error is not None)])

    def _read(self, match: re.Match[str]) -> list[ToolCall]:
        raw = match.group(0)
        if not match.group(2):
            return [ToolCall("", error="<|tool_call|> is not closed with <|/tool_call|>", raw=raw)]
        return read_json_list(match.group(1), raw)


def read_json_list(text: str, raw: str) -> list[ToolCall]:
    """The calls of a JSON list, or of a single object; text that is neither is one broken call."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return [ToolCall("", error=f"the tool call is not valid JSON: {error}", raw=raw)]
    values = values if isinstance(values, list) else [values]
    if not values:
        return [ToolCall("", error="the list of tool calls is empty", raw=raw)]
    return [json_call(value, raw) for value in values]
