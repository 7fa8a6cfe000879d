"""Calls as bare JSON, without marks: Llama 3.x, xLAM."""

from __future__ import annotations

import re
from dataclasses import replace

from toolrl.chat.dialects.base import Dialect
from toolrl.chat.dialects.foreign import json_at_end
from toolrl.chat.dialects.json_text import json_call, json_calls, load_json_at, write_json
from toolrl.chat.dialects.values import Parameters, Schemas
from toolrl.types import Message, ToolCall


class LlamaJsonDialect(Dialect):
    """A bare JSON object with `"name"` and `"parameters"`; several are separated by semicolons.

    An object counts as a call if it names a tool, or if it has both keys and the turn starts or ends with it. A broken
    object counts if it names a tool, or if the turn starts like a call. Source: trl/chat_templates/llama3_1.jinja.
    """

    name = "llama3-json"
    form = '{"name": "TOOL", "parameters": {"PARAMETER": VALUE}}'
    marks = ("<|python_tag|>",)
    ends = ("<|eot_id|>", "<|eom_id|>")
    joint = "; "
    _start = re.compile(r'\{\s*"(?:name|type|parameters)"\s*:')
    _name = re.compile(r'"name"\s*:\s*"([^"]*)"')

    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """Take JSON objects that look like calls out of the text."""
        tagged = text.lstrip().startswith("<|python_tag|>")
        text = text.lstrip().removeprefix("<|python_tag|>") if tagged else text
        calls: list[ToolCall] = []
        outside: list[str] = []
        position = 0
        while match := self._start.search(text, position):
            try:
                value, end = load_json_at(text, match.start())
            except (ValueError, RecursionError) as error:
                if tagged or calls or not text[: match.start()].strip() or self._names_tool(text, match, tools):
                    outside.append(text[position : match.start()])
                    reason = f"the tool call is not valid JSON: {error}"
                    calls.append(ToolCall("", error=reason, raw=text[match.start() :]))
                    position = len(text)
                break
            key = "arguments" if "arguments" in value else "parameters"
            alone = not text[: match.start()].strip() or not text[end:].strip(" ;\n")
            complete = "name" in value and key in value and (alone or bool(calls) or not tools)
            if tagged or complete or Parameters(tools, str(value.get("name"))).known:
                outside.append(text[position : match.start()])
                calls.append(json_call(value, text[match.start() : end], ("name", key)))
            else:
                outside.append(text[position:end])
            position = end
        outside.append(text[position:])
        if tagged and not calls:
            calls, outside = [ToolCall("", error="<|python_tag|> is not followed by JSON", raw=text)], []
        # Semicolons and line breaks between calls separate them.
        parts = [part.strip().strip(";") if calls else part for part in outside]
        return "".join(part for part in parts if part.strip()), calls

    def _names_tool(self, text: str, start: re.Match[str], tools: Schemas) -> bool:
        name = self._name.search(text, start.start(), start.end() + 200)
        return name is not None and Parameters(tools, name.group(1)).known

    def write(self, message: Message, tools: Schemas = ()) -> str:
        """Write the text, then the calls on a line of their own."""
        calls = super().write(replace(message, content=""), tools)
        return "\n".join([message.content] * bool(message.content) + [calls] * bool(message.tool_calls))

    def write_calls(self, calls: list[ToolCall], tools: Schemas) -> str:
        """Write one call."""
        return write_json({"name": calls[0].name, "parameters": dict(calls[0].arguments)}, self.hidden)


class XlamDialect(Dialect):
    """A bare JSON list of calls at the end of a turn, possibly in a code fence.

    A list counts as calls if each of its objects has a name and arguments, or names a tool. A broken list counts if the
    turn starts like a call. Source: vLLM's examples/tool_chat_template_xlam_qwen.jinja and xlam_tool_parser.py.
    """

    name = "xlam"
    form = '[{"name": "TOOL", "arguments": {"PARAMETER": VALUE}}]'
    ends = ("<|im_end|>", "<|eot_id|>")
    listed = True
    joint = "\n"
    _start = re.compile(r'\s*\[\s*\{\s*"name"\s*:.*"arguments"\s*:', re.DOTALL)

    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """Read the list at the end, and the text before it."""
        found = json_at_end(text)
        if found is not None:
            start, value = found
            objects = value if isinstance(value, list) else []
            meant = [
                isinstance(one, dict)
                and ({"name", "arguments"} <= one.keys() or Parameters(tools, str(one.get("name"))).known)
                for one in objects
            ]
            if objects and all(meant):
                return text[:start], json_calls(value, text[start:].strip())
        elif self._start.match(text):
            error = "the tool call is not valid JSON, or text follows it"
            return "", [ToolCall("", error=error, raw=text.strip())]
        return text, []

    def write_calls(self, calls: list[ToolCall], tools: Schemas) -> str:
        """Write all calls in one list."""
        return write_json([{"name": call.name, "arguments": dict(call.arguments)} for call in calls], self.hidden)
