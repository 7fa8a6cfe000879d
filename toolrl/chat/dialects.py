"""How a model writes tool calls: text to `Message`, and back."""

from __future__ import annotations

import json
import re
from typing import Any, Protocol

from toolrl.types import Message, ToolCall


class Dialect(Protocol):
    """One model family's way of writing tool calls."""

    name: str

    def parse(self, text: str) -> Message:
        """Read one assistant turn, without its end-of-turn token. Never raises for what a model wrote."""

    def format(self, message: Message) -> str:
        """Write an assistant message as the model would; `parse` inverts it, up to white space around the text."""


class HermesDialect:
    """JSON between `<tool_call>` tags, as Hermes, Qwen2.5 and Qwen3 write it.

    Source: the tool section of the Qwen3 chat template (trl/chat_templates/qwen3.jinja).
    """

    name = "hermes"
    _call = re.compile(r"<tool_call>(.*?)(</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)

    def parse(self, text: str) -> Message:
        """Split a turn into its calls and the text around them; a broken call has `error` set."""
        calls = tuple(self._read(match) for match in self._call.finditer(text))
        content = self._call.sub("", text)
        if "</tool_call>" in content:
            stray = ToolCall("", error="</tool_call> without <tool_call> before it", raw="</tool_call>")
            calls, content = (*calls, stray), content.replace("</tool_call>", "")
        return Message("assistant", content.strip(), calls)

    def format(self, message: Message) -> str:
        """Write the text first, then each call in tags of its own; a malformed call as it was sampled."""
        blocks = [message.content] if message.content else []
        for call in message.tool_calls:
            if call.error is not None:
                blocks.append(call.raw)
                continue
            body = json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)
            # "<" can only stand inside a JSON string, where its escape means the same.
            body = body.replace("<tool_call>", "\\u003ctool_call>").replace("</tool_call>", "\\u003c/tool_call>")
            blocks.append(f"<tool_call>\n{body}\n</tool_call>")
        return "\n".join(blocks)

    def _read(self, match: re.Match[str]) -> ToolCall:
        raw, body, closing = match.group(0), match.group(1).strip(), match.group(2)
        if closing != "</tool_call>":
            return ToolCall("", error="<tool_call> is not closed with </tool_call>", raw=raw)
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as error:
            return ToolCall("", error=f"the tool call is not valid JSON: {error}", raw=raw)
        return _from_json(value, raw)


def _from_json(value: Any, raw: str) -> ToolCall:
    """Check the shape `{"name": str, "arguments": object}`."""
    if not isinstance(value, dict):
        return ToolCall("", error='a tool call must be a JSON object with "name" and "arguments"', raw=raw)
    name = value.get("name")
    if not isinstance(name, str) or not name:
        return ToolCall("", error='the tool call has no "name"', raw=raw)
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        return ToolCall(name, error='"arguments" must be a JSON object', raw=raw)
    return ToolCall(name, arguments, raw=raw)
