"""Calls in a section at the end of a turn, with the name outside the JSON: Mistral, DeepSeek V3, Kimi K2."""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import replace

from toolrl.chat.dialects.base import BlockDialect, Dialect
from toolrl.chat.dialects.json_text import json_calls, load_json_at, named_call, write_json
from toolrl.chat.dialects.scanning import Scanner
from toolrl.chat.dialects.values import Schemas
from toolrl.types import Message, ToolCall


class MistralDialect(Dialect):
    """`[TOOL_CALLS]` and a JSON list. The form since tokenizer version 11, `[TOOL_CALLS]name[ARGS]{...}`, is read too.

    Source: mistral_common/tokens/tokenizers/instruct.py.
    """

    name = "mistral"
    form = '[TOOL_CALLS][{"name": "TOOL", "arguments": {"PARAMETER": VALUE}}]'
    marks = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")
    ends = ("</s>",)
    thinking = ("[THINK]", "[/THINK]")  # Magistral's
    thought_form = "{0}{2}{1}"
    listed = True
    _named = re.compile(r"\s*([^\s\[\]{}]+)(?:\[CALL_ID\](\w*))?\[ARGS\](.*)", re.DOTALL)

    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """The text is before the first mark; the part after each mark is calls."""
        scanner, start = Scanner(text), text.find("[TOOL_CALLS]")
        content, calls = text[: start if start >= 0 else None], list[ToolCall]()
        while start >= 0:
            start += len("[TOOL_CALLS]")
            following = scanner.find(start, ("[TOOL_CALLS]",))
            end = following[0] if following else len(text)
            calls += self._read(text[start:end])
            start = end if following else -1
        return content, calls

    def _read(self, part: str) -> list[ToolCall]:
        raw = f"[TOOL_CALLS]{part}"
        if named := self._named.fullmatch(part):
            name, call_id, arguments = named.groups()
            return [replace(named_call(name, arguments, raw), id=call_id or "")]
        try:
            values, end = load_json_at(part, 0)
        except (ValueError, RecursionError) as error:
            return [ToolCall("", error=f"the tool call is not valid JSON: {error}", raw=raw)]
        if part[end:].strip():
            return [ToolCall("", error="text follows the tool calls", raw=raw)]
        return json_calls(values, raw)

    def write_calls(self, calls: list[ToolCall], tools: Schemas) -> str:
        """Write all calls in one list."""
        values = [{"name": call.name, "arguments": dict(call.arguments)} for call in calls]
        return f"[TOOL_CALLS]{write_json(values, self.hidden)}"


class MistralNamedDialect(MistralDialect):
    """Mistral's form since tokenizer version 11: a name, then the arguments."""

    name = "mistral-v11"
    form = '[TOOL_CALLS]TOOL[ARGS]{"PARAMETER": VALUE}'
    listed = False

    def write_calls(self, calls: list[ToolCall], tools: Schemas) -> str:
        """One call."""
        return f"[TOOL_CALLS]{calls[0].name}[ARGS]{write_json(dict(calls[0].arguments), self.hidden)}"


class SectionDialect(BlockDialect):
    """A section of calls, each between its own marks, with a mark between the name and the arguments."""

    section: tuple[str, str]
    separator: str

    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """The text is everything outside the calls and the section's marks."""
        content, calls = super().read(text, tools)
        if not calls and self.section[0] in content:
            calls = [ToolCall("", error=f"{self.section[0]} holds no call", raw=self.section[0])]
        for mark in self.section:
            content = content.replace(mark, "")
        return content, calls

    def read_block(self, body: str, raw: str, tools: Schemas) -> list[ToolCall]:
        """One call."""
        head, separated, arguments = body.partition(self.separator)
        if not separated:
            return [ToolCall("", error=f"there is no {self.separator} after the tool's name", raw=raw)]
        return [self.read_call(head.strip(), arguments.strip(), raw)]

    def write(self, message: Message, tools: Schemas = ()) -> str:
        """Write the text, then the section."""
        calls = super().write(replace(message, content=""), tools)
        return message.content + (self.section[0] + calls + self.section[1] if message.tool_calls else "")

    @abstractmethod
    def read_call(self, head: str, arguments: str, raw: str) -> ToolCall:
        """Read a call from the texts before and after the separator."""


class DeepSeekDialect(SectionDialect):
    """DeepSeek V3 and R1: `function`, the name, and JSON in a code fence. V3.1's shorter form is read too.

    Source: trl/chat_templates/deepseekv3.jinja.
    """

    name = "deepseek-v3"
    section = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
    block = ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>")
    separator = "<｜tool▁sep｜>"
    marks = (*section, *block, separator)
    form = (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>TOOL\n"
        '```json\n{"PARAMETER": VALUE}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
    )
    ends = ("<｜end▁of▁sentence｜>",)
    joint = "\n"

    def read_call(self, head: str, arguments: str, raw: str) -> ToolCall:
        """In V3's form the head is `function`, and the name comes before the fence."""
        name, fence, fenced = arguments.removesuffix("```").partition("```")
        if fence and arguments.endswith("```"):
            return named_call(name.strip(), fenced.strip().removeprefix("json"), raw)
        return named_call(head, arguments, raw)

    def write_calls(self, calls: list[ToolCall], tools: Schemas) -> str:
        """Write one call, with the fence."""
        arguments = write_json(dict(calls[0].arguments), self.hidden)
        return f"{self.block[0]}function{self.separator}{calls[0].name}\n```json\n{arguments}\n```{self.block[1]}"


class DeepSeek31Dialect(DeepSeekDialect):
    """DeepSeek V3.1 and later: the name, then JSON.

    Source: the chat template of deepseek-ai/DeepSeek-V3.1.
    """

    name = "deepseek-v3.1"
    form = (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>TOOL<｜tool▁sep｜>"
        '{"PARAMETER": VALUE}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
    )
    joint = ""

    def write_calls(self, calls: list[ToolCall], tools: Schemas) -> str:
        """Write one call, without a fence."""
        arguments = write_json(dict(calls[0].arguments), self.hidden)
        return f"{self.block[0]}{calls[0].name}{self.separator}{arguments}{self.block[1]}"


class KimiDialect(SectionDialect):
    """Kimi K2: `functions.NAME:INDEX`, then JSON. That head is the call's id, which the tool message repeats.

    Source: docs/tool_call_guidance.md of moonshotai/Kimi-K2-Instruct.
    """

    name = "kimi-k2"
    section = ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")
    block = ("<|tool_call_begin|>", "<|tool_call_end|>")
    separator = "<|tool_call_argument_begin|>"
    marks = (*section, *block, separator)
    form = (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.TOOL:0<|tool_call_argument_begin|>"
        '{"PARAMETER": VALUE}<|tool_call_end|><|tool_calls_section_end|>'
    )
    ends = ("<|im_end|>",)
    _head = re.compile(r"(?:functions\.)?(.+?)(?::\d+)?", re.DOTALL)

    def read_call(self, head: str, arguments: str, raw: str) -> ToolCall:
        """The head gives both the name and the id."""
        name = self._head.fullmatch(head)
        return replace(named_call(name.group(1) if name else "", arguments, raw), id=head)

    def write(self, message: Message, tools: Schemas = ()) -> str:
        """Write the text, then the section; calls without an id in Kimi's form get one."""
        calls = tuple(
            call
            if re.fullmatch(rf"functions\.{re.escape(call.name)}:\d+", call.id)
            else replace(call, id=f"functions.{call.name}:{index}")
            for index, call in enumerate(message.tool_calls)
        )
        return super().write(replace(message, tool_calls=calls), tools)

    def write_calls(self, calls: list[ToolCall], tools: Schemas) -> str:
        """Write one call, headed by its id."""
        arguments = write_json(dict(calls[0].arguments), self.hidden)
        return f"{self.block[0]}{calls[0].id}{self.separator}{arguments}{self.block[1]}"
