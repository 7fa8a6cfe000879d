"""The forms of research code, for base models and fixed prompts: a tag named like the tool, or a fenced code block.

No template writes them; choose them by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from toolrl.chat.dialects.base import Dialect, Schemas, hide, properties_of, show
from toolrl.types import Message, ToolCall

# What a call's text is given to where no schema names the parameter.
USUAL_PARAMETERS = {"search": "query", "python": "code", "code": "code"}


class TagDialect(Dialect):
    """`<search>words</search>`, `<python>code</python>`: a tag for each tool, as Search-R1 and its kin write them.

    A tool of one parameter is given the text as it is; one of several a JSON object. Source: the prompt in
    github.com/PeterGriffinJin/Search-R1.
    """

    name = "tags"
    form = "<TOOL>TEXT</TOOL>, TEXT being a JSON object if the tool has several parameters"

    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """Tags that name a tool (without schemas: a usual one) are calls, all others are text."""
        names = [str(tool.get("function", tool)["name"]) for tool in tools] or list(USUAL_PARAMETERS)
        pattern = re.compile(f"<({'|'.join(map(re.escape, names))})>(.*?)(</\\1>|\\Z)", re.DOTALL)
        calls = [self._read(match, tools) for match in pattern.finditer(text)]
        return pattern.sub("", text), calls

    def _read(self, match: re.Match[str], tools: Schemas) -> ToolCall:
        raw, name, body, closing = match.group(0), match.group(1), match.group(2), match.group(3)
        if not closing:
            return ToolCall(name, error=f"<{name}> is not closed with </{name}>", raw=raw)
        return text_call(name, show(body, (f"</{name}>", *self.thinking)), raw, tools)

    def write(self, message: Message) -> str:
        """The text first, then each call in a tag of its own."""
        blocks = [message.content] if message.content else []
        for call in message.tool_calls:
            text = f"<{call.name}>{hide(call_text(call), (f'</{call.name}>', *self.thinking))}</{call.name}>"
            blocks.append(call.raw if call.error is not None else text)
        return "\n".join(blocks)


class FencedDialect(Dialect):
    """A code block is a call of the tool that its fence names: ```` ```python ````, as ToRL and its kin write it.

    Source: the prompt in github.com/GAIR-NLP/ToRL.
    """

    name = "fenced"
    form = "```TOOL\nTEXT\n```"
    _block = re.compile(r"^```(\w+)[ \t]*\n(.*?)(^```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)

    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """Blocks whose fence names a tool (without schemas: a usual one) are calls, all others are text."""
        names = {str(tool.get("function", tool)["name"]) for tool in tools} or set(USUAL_PARAMETERS)
        calls = []
        for match in self._block.finditer(text):
            name, body, closing = match.groups()
            if name not in names:
                continue
            if closing:
                body = re.sub(r"^\\(\\*```)", r"\1", body.removesuffix("\n"), flags=re.MULTILINE)
                calls.append(text_call(name, body, match.group(), tools))
            else:
                calls.append(ToolCall(name, error=f"```{name} is not closed with ```", raw=match.group()))
        return self._block.sub(lambda match: "" if match.group(1) in names else match.group(), text), calls

    def write(self, message: Message) -> str:
        """The text first, then each block. A line that begins with a fence is given a backslash."""
        blocks = [message.content] if message.content else []
        for call in message.tool_calls:
            text = re.sub(r"^(\\*```)", r"\\\1", call_text(call), flags=re.MULTILINE)
            blocks.append(call.raw if call.error is not None else f"```{call.name}\n{text}\n```")
        return "\n".join(blocks)


def text_call(name: str, text: str, raw: str, tools: Schemas) -> ToolCall:
    """A call from a bare text."""
    properties = properties_of(tools, name)
    if len(properties) == 1 or not tools:
        parameter = next(iter(properties), USUAL_PARAMETERS.get(name, "text"))
        return ToolCall(name, {parameter: text}, raw=raw)
    try:
        arguments: Any = json.loads(text) if text.strip() or properties else {}
    except (ValueError, RecursionError) as error:
        return ToolCall(name, error=f"the arguments of {name} are not valid JSON: {error}", raw=raw)
    if not isinstance(arguments, Mapping):
        return ToolCall(name, error=f"the arguments of {name} must be a JSON object", raw=raw)
    return ToolCall(name, arguments, raw=raw)


def call_text(call: ToolCall) -> str:
    """The bare text of a call with one argument that is a text, else its arguments as JSON."""
    values = list(call.arguments.values())
    if len(values) == 1 and isinstance(values[0], str):
        return values[0]
    return json.dumps(dict(call.arguments), ensure_ascii=False) if values else ""
