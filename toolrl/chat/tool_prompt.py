"""Tells a model of its tools in the system message, for chat templates that leave the tools out.

Most templates of small and of base models know neither tools nor calls nor results. Then the system message holds the
schemas and the form of a call, a turn holds its calls as text, and results come as a user's message, each in the form
that the dialect has for them. The template sees nothing but system, user and assistant.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from toolrl.errors import ConfigError
from toolrl.types import Message, ToolCall

if TYPE_CHECKING:
    from toolrl.chat.dialects.base import Dialect
    from toolrl.chat.encoding import Encoder

# The words of the Hermes and Qwen families.
_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function "
    "signatures within <tools></tools> XML tags:\n<tools>\n{}\n</tools>"
)
_TYPICAL: dict[str, Any] = {"integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}, "null": None}


class ToolPrompt:
    """Rewrites conversations for a template without tools."""

    def __init__(self, dialect: Dialect, encoder: Encoder, *, has_system: bool = True, turns: bool = True):
        """Prepare the rewriting.

        Args:
            dialect: How the model writes calls, and how it is shown their results.
            encoder: Protects contents: only the dialect's own marks become control tokens.
            has_system: Whether the template shows a system message; otherwise it is put before the first user message.
            turns: Whether calls and results are rewritten too: the template does not show them.
        """
        self._dialect, self._protect = dialect, encoder.protect
        self._has_system, self._turns = has_system, turns

    def rewrite(
        self, messages: Sequence[Message], rows: Sequence[dict[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """The rows of messages, as the template would get them, with the tools in the first one.

        Args:
            messages: A conversation.
            rows: The same, protected, for the template.
            tools: JSON schemas.
        """
        rows = list(self._as_text(messages)) if self._turns else list(rows)
        system = [rows.pop(0)["content"]] if rows and rows[0]["role"] == "system" else []
        text = "\n\n".join(part for part in (*system, self.describe(tools)) if part)
        if not text:
            return rows
        if not self._has_system and rows and rows[0]["role"] == "user":
            return [{**rows[0], "content": f"{text}\n\n{rows[0]['content']}"}, *rows[1:]]
        return [{"role": "system", "content": text}, *rows]

    def _as_text(self, messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
        """Protected rows without calls and results."""
        for is_result, group in groupby(messages, lambda message: message.role == "tool"):
            if is_result:
                results = (self._protect(message.content).join(self._dialect.result) for message in group)
                yield {"role": "user", "content": "\n".join(results)}
                continue
            for message in group:
                if message.role == "assistant":
                    # As it is, also a call that the dialect would refuse to write: it may have been sampled so.
                    thoughts = self._dialect.write_thinking(message.thinking) * bool(message.thinking)
                    said = self._protect(thoughts + self._dialect.write(message), keep=self._dialect.hidden)
                else:
                    said = self._protect(message.content)
                yield {"role": message.role, "content": said}

    def describe(self, tools: Sequence[Mapping[str, Any]]) -> str:
        """What the system message says of the tools, protected: schemas, the form of a call, a call; empty without."""
        if not tools:
            return ""
        schemas = "\n".join(self._protect(json.dumps(tool, ensure_ascii=False)) for tool in tools)
        parts = [_TOOLS.format(schemas), self._dialect.instruction]
        call = example_call(tools[0])
        try:
            written = self._dialect.format(Message("assistant", "", (call,)), list(tools))
        except ConfigError:  # the dialect cannot write this one
            return "\n\n".join(parts)
        example = self._protect(written, keep=self._dialect.hidden)
        return "\n\n".join([*parts, f"For example, a call of {self._protect(call.name)}:\n{example}"])


def example_call(tool: Mapping[str, Any]) -> ToolCall:
    """A call of a tool with its required parameters, or with its first one."""
    function = tool.get("function", tool)
    parameters = function.get("parameters") or {}
    properties = parameters.get("properties") or {}
    required = [name for name in parameters.get("required") or () if name in properties] or list(properties)[:1]
    return ToolCall(str(function["name"]), {name: _typical(properties[name]) for name in required})


def _typical(schema: Any) -> Any:
    """A value that a schema allows, as far as its type goes."""
    if not isinstance(schema, Mapping):
        return "..."
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if branches := next((schema[key] for key in ("anyOf", "oneOf", "allOf") if schema.get(key)), None):
        return _typical(branches[0])
    kind = schema.get("type")
    return _TYPICAL.get(str(kind[0] if isinstance(kind, list) and kind else kind), "...")
