"""Calls in Python syntax, with named arguments: Llama 3.2 and 4, LFM2, OLMo 3."""

from __future__ import annotations

import re
from dataclasses import replace

from toolrl.chat.dialects.base import BlockDialect, Dialect
from toolrl.chat.dialects.python_text import read_python_calls, write_python_call
from toolrl.chat.dialects.scanning import PYTHON_STRING
from toolrl.chat.dialects.values import Parameters, Schemas
from toolrl.types import Message, ToolCall


class PythonicDialect(Dialect):
    """A Python list of calls that makes up the whole turn: `[search(query="x"), now()]`.

    A turn with marks around it always counts as calls. Source: Meta's prompt format for Llama 3.2 and 4.
    """

    name = "llama3-pythonic"
    form = "[TOOL(PARAMETER=VALUE)]"
    marks = ("<|python_start|>", "<|python_end|>")
    ends = ("<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|eom|>")
    listed = True
    _bare = re.compile(r"\[\s*([^\s\[\](){},='\"]+)\(")

    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """A turn that starts with a call in brackets, or with the opening mark, is only calls; any other is text."""
        body = text.strip()
        marked, begun = body.startswith(self.marks[0]), self._bare.match(body)
        if not marked and not begun:
            return text, []
        calls = read_python_calls(body.removeprefix(self.marks[0]).removesuffix(self.marks[1]), body)
        meant = marked or not tools or calls[0].error is None or (begun and Parameters(tools, begun.group(1)).known)
        return ("", calls) if meant else (text, [])

    def write(self, message: Message, tools: Schemas = ()) -> str:
        """Write the calls if there are any, else the text; the form has no room for both."""
        return super().write(replace(message, content=""), tools) or message.content

    def write_calls(self, calls: list[ToolCall], tools: Schemas) -> str:
        """Write all calls in one list."""
        return f"[{', '.join(write_python_call(call, self.hidden) for call in calls)}]"


class LfmDialect(BlockDialect):
    """The same list between `<|tool_call_start|>` and `<|tool_call_end|>`, with text around it.

    Source: trl/chat_templates/lfm2_2_5.jinja.
    """

    name = "lfm2"
    form = "<|tool_call_start|>[TOOL(PARAMETER=VALUE)]<|tool_call_end|>"
    block = marks = ("<|tool_call_start|>", "<|tool_call_end|>")
    strings = PYTHON_STRING
    thought_form = "{0}{2}{1}"
    listed = True
    _between = ("[", ", ", "]")

    def read_block(self, body: str, raw: str, tools: Schemas) -> list[ToolCall]:
        """Read a list of calls."""
        return read_python_calls(body, raw)

    def write_calls(self, calls: list[ToolCall], tools: Schemas) -> str:
        """Write all calls in one block."""
        opening, between, closing = self._between
        written = between.join(write_python_call(call, self.hidden) for call in calls)
        return f"{self.block[0]}{opening}{written}{closing}{self.block[1]}"


class OlmoDialect(LfmDialect):
    """One call per line between `<function_calls>` tags.

    Source: vLLM's examples/tool_chat_template_olmo3.jinja and olmo3_tool_parser.py.
    """

    name = "olmo3"
    form = "<function_calls>\nTOOL(PARAMETER=VALUE)\n</function_calls>"
    block = marks = ("<function_calls>", "</function_calls>")
    ends = ("<|im_end|>",)
    _between = ("\n", "\n", "\n")
