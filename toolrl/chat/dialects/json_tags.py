"""Calls as JSON between tags: Hermes, Qwen2.5 and Qwen3; Phi-4-mini, which puts a list between its own."""

from __future__ import annotations

import json

from toolrl.chat.dialects.base import Schemas, json_call, read_json_call, write_json
from toolrl.chat.dialects.blocks import BlockDialect, as_json, write_together
from toolrl.types import Message, ToolCall


class HermesDialect(BlockDialect):
    """JSON between `<tool_call>` tags, as Hermes, Qwen2.5 and Qwen3 write it.

    Source: the tool section of the Qwen3 chat template (trl/chat_templates/qwen3.jinja).
    """

    name = "hermes"
    form = '<tool_call>\n{"name": "TOOL", "arguments": {"PARAMETER": VALUE}}\n</tool_call>'
    block = marks = ("<tool_call>", "</tool_call>")
    joint = "\n"

    def read_block(self, body: str, raw: str, tools: Schemas) -> list[ToolCall]:
        """One JSON object."""
        return [read_json_call(body, raw)]

    def write_block(self, call: ToolCall) -> str:
        """One JSON object, on a line of its own."""
        return f"<tool_call>\n{write_json(as_json([call])[0], self.hidden)}\n</tool_call>"


class PhiDialect(BlockDialect):
    """A JSON list between `<|tool_call|>` and `<|/tool_call|>`.

    Source: the model card of microsoft/Phi-4-mini-instruct.
    """

    name = "phi4"
    form = '<|tool_call|>[{"name": "TOOL", "arguments": {"PARAMETER": VALUE}}]<|/tool_call|>'
    block = marks = ("<|tool_call|>", "<|/tool_call|>")
    ends = ("<|end|>",)

    def read_block(self, body: str, raw: str, tools: Schemas) -> list[ToolCall]:
        """A JSON list of calls; a broken one is one broken call."""
        return read_json_list(body, raw)

    def write(self, message: Message) -> str:
        """The text, then all calls in one list."""
        return write_together(message, self._write_list)

    def write_block(self, call: ToolCall) -> str:
        """A list of one."""
        return self._write_list([call])

    def _write_list(self, calls: list[ToolCall]) -> str:
        return f"<|tool_call|>{write_json(as_json(calls), self.hidden)}<|/tool_call|>"


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
