"""Calls with a tag for each argument, whose text stands there as it is: Qwen3-Coder and Qwen3.5; GLM-4.x.

Strings have no quotes, so that only a tool's schema tells `7` from `"7"`. A value that holds one of the dialect's
own tags writes its `<` as `&lt;`.
"""

from __future__ import annotations

import re

from toolrl.chat.dialects.base import Schemas, hide, properties_of, show, typed_value, write_value
from toolrl.chat.dialects.blocks import BlockDialect
from toolrl.types import ToolCall


class ValueTagDialect(BlockDialect):
    """What the two families share: `<tool_call>`, a head with the tool's name, an argument after the other."""

    block = ("<tool_call>", "</tool_call>")
    joint = "\n"
    _head: re.Pattern[str]
    _argument: re.Pattern[str]
    _tail: str = ""

    def read_block(self, body: str, raw: str, tools: Schemas) -> list[ToolCall]:
        """One call."""
        return [self._read(body, raw, tools)]

    def _read(self, body: str, raw: str, tools: Schemas) -> ToolCall:
        head = self._head.match(body)
        if head is None:
            return ToolCall("", error="the tool call does not begin with the tool's name", raw=raw)
        name, rest = head.group(1), body[head.end() :].strip()
        if self._tail:
            if not rest.endswith(self._tail):
                return ToolCall(name, error=f"the call is not closed with {self._tail}", raw=raw)
            rest = rest.removesuffix(self._tail)
        properties, arguments = properties_of(tools, name), {}
        for argument in self._argument.finditer(rest):
            key, value = argument.group(1).strip(), show(argument.group(2), self.hidden)
            if key in arguments:
                return ToolCall(name, error=f"the parameter {key} is given twice", raw=raw)
            arguments[key] = typed_value(value, properties.get(key))
        if outside := self._argument.sub("", rest).strip():
            return ToolCall(name, error=f"{outside[:80]!r} stands outside of the arguments' tags", raw=raw)
        return ToolCall(name, arguments, raw=raw)


class Qwen3CoderDialect(ValueTagDialect):
    """`<function=...>` with `<parameter=...>` inside, as Qwen3-Coder, Qwen3.5 and Nemotron 3 write it.

    Source: the tool section of trl/chat_templates/qwen3_5_think.jinja.
    """

    name = "qwen3-coder"
    form = "<tool_call>\n<function=TOOL>\n<parameter=PARAMETER>\nVALUE\n</parameter>\n</function>\n</tool_call>"
    marks = ("<tool_call>", "</tool_call>", "<function=", "</function>", "<parameter=", "</parameter>")
    _head = re.compile(r"<function=([^<>\s]+)>")
    _argument = re.compile(r"<parameter=([^<>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
    _tail = "</function>"

    def write_block(self, call: ToolCall) -> str:
        """A line for each tag."""
        parameters = "".join(
            f"<parameter={key}>\n{hide(write_value(value), self.hidden)}\n</parameter>\n"
            for key, value in call.arguments.items()
        )
        return f"<tool_call>\n<function={call.name}>\n{parameters}</function>\n</tool_call>"


class GlmDialect(ValueTagDialect):
    """The tool's name, then `<arg_key>` and `<arg_value>` in turn, as GLM-4.5 and later write it.

    Source: the tool section of trl/chat_templates/glm4moe.jinja.
    """

    name = "glm4"
    form = "<tool_call>TOOL\n<arg_key>PARAMETER</arg_key>\n<arg_value>VALUE</arg_value>\n</tool_call>"
    marks = ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    ends = ("<|user|>", "<|observation|>", "<|endoftext|>")
    _head = re.compile(r"([^<>\s]+)(?=\s|<|\Z)")
    _argument = re.compile(r"<arg_key>([^<>]+)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)

    def write_thinking(self, thinking: str) -> str:
        """One line break on each side, none inside."""
        return f"\n<think>{thinking}</think>\n"

    def write_block(self, call: ToolCall) -> str:
        """A line for each argument."""
        pairs = "".join(
            f"<arg_key>{key}</arg_key>\n<arg_value>{hide(write_value(value), self.hidden)}</arg_value>\n"
            for key, value in call.arguments.items()
        )
        return f"<tool_call>{call.name}\n{pairs}</tool_call>"
