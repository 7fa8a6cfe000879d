"""Forms of research code, for base models and fixed prompts: a tag named after the tool, or a fenced code block.

No template writes them; choose them by name. The text of a call is a JSON object of its arguments. For a tool with only
one parameter, or one required parameter, it may also be that argument's raw text; the writer writes strings so.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence

from toolrl.chat.dialects.base import Dialect
from toolrl.chat.dialects.json_text import load_json, write_json_text
from toolrl.chat.dialects.values import Parameters, Schemas, hide, show
from toolrl.types import ToolCall

# The parameter that a call's text belongs to if no schema is known.
USUAL_PARAMETERS = {"search": "query", "python": "code", "code": "code"}


class TextDialect(Dialect):
    """The base of both forms: a bare text for each call."""

    joint = "\n"

    def write_calls(self, calls: list[ToolCall], tools: Schemas) -> str:
        """Write one call."""
        return self.wrap(calls[0].name, call_text(calls[0], tools))

    @abstractmethod
    def wrap(self, name: str, text: str) -> str:
        """Write a call with this text."""


class TagDialect(TextDialect):
    """`<search>words</search>`, `<python>code</python>`: a tag for each tool, as in Search-R1 and similar code.

    Source: the prompt in github.com/PeterGriffinJin/Search-R1.
    """

    name = "tags"
    form = "<TOOL>TEXT</TOOL>, TEXT being a JSON object if the tool has several parameters"
    result = ("<information>", "</information>")

    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """Tags named after a tool (without schemas: after a usual one) are calls; all others are text."""
        names = "|".join(map(re.escape, sorted(_names(tools), key=len, reverse=True)))
        pattern = re.compile(f"<({names})>(.*?)(</\\1>|\\Z)", re.DOTALL)
        calls = [self._read(match, tools) for match in pattern.finditer(text)]
        return pattern.sub("", text), calls

    def _read(self, match: re.Match[str], tools: Schemas) -> ToolCall:
        raw, name, body, closing = match.group(0), match.group(1), match.group(2), match.group(3)
        if not closing or f"<{name}>" in body:
            return ToolCall(name, error=f"<{name}> is not closed with </{name}>", raw=raw)
        return text_call(name, show(body, self._marks(name)), raw, tools)

    def wrap(self, name: str, text: str) -> str:
        """Put the text between tags of its name."""
        return f"<{name}>{hide(text, self._marks(name))}</{name}>"

    def _marks(self, name: str) -> tuple[str, ...]:
        return (f"<{name}>", f"</{name}>", *self.thinking)


class FencedDialect(TextDialect):
    """A code block is a call of the tool that its fence names: ```` ```python ````, as in ToRL and similar code.

    Source: the prompt in github.com/GAIR-NLP/ToRL.
    """

    name = "fenced"
    form = "```TOOL\nTEXT\n```"
    result = ("```output\n", "\n```")
    _block = re.compile(r"^```([^\s`]+)[ \t]*\n(.*?)(^```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)

    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """Blocks whose fence names a tool (without schemas: a usual one) are calls; all others are text."""
        names = _names(tools)
        calls = [self._read(match, tools) for match in self._block.finditer(text) if match.group(1) in names]
        return self._block.sub(lambda match: "" if match.group(1) in names else match.group(), text), calls

    def _read(self, match: re.Match[str], tools: Schemas) -> ToolCall:
        name, body, closing = match.groups()
        if not closing or re.search(rf"^```{re.escape(name)}[ \t]*$", body, re.MULTILINE):
            return ToolCall(name, error=f"```{name} is not closed with ```", raw=match.group())
        body = re.sub(r"^\\(\\*```)", r"\1", body.removesuffix("\n"), flags=re.MULTILINE)
        return text_call(name, body, match.group(), tools)

    def wrap(self, name: str, text: str) -> str:
        """Put the text in a fence; lines that start with a fence get a backslash."""
        fenced = re.sub(r"^(\\*```)", r"\\\1", text, flags=re.MULTILINE)
        return f"```{name}\n{fenced}\n```"

    def is_in_call(self, before: str) -> bool:
        """Whether a text ends inside an argument: also after a fence."""
        return super().is_in_call(before) or self._block.search(before) is not None


def text_call(name: str, text: str, raw: str, tools: Schemas) -> ToolCall:
    """Read a call from its bare text."""
    parameters = Parameters(tools, name)
    bare = _bare_parameter(name, parameters)
    reason = "must be a JSON object of its parameters"
    try:
        value = load_json(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        value, reason = None, f"are not valid JSON: {error}"
    if isinstance(value, dict) and (not bare or value):
        known = parameters.schemas.keys() if parameters.known else {bare}
        if not bare or value.keys() <= known:
            return ToolCall(name, value, raw=raw)
    if not bare:
        return ToolCall(name, error=f"the arguments of {name} {reason}", raw=raw)
    return ToolCall(name, {bare: parameters.value(bare, text) if parameters.known else text}, raw=raw)


def call_text(call: ToolCall, tools: Schemas) -> str:
    """The raw text of a call's only argument, if it is a string that is read back the same; otherwise JSON."""
    if not call.arguments and not Parameters(tools, call.name).schemas:
        return ""
    if len(call.arguments) == 1:
        ((parameter, text),) = call.arguments.items()
        bare = _bare_parameter(call.name, Parameters(tools, call.name))
        if parameter == bare and isinstance(text, str):
            assumed: Sequence[dict[str, object]] = [
                {"name": call.name, "parameters": {"properties": {parameter: {"type": "string"}}}}
            ]
            if text_call(call.name, text, "", tools or assumed).arguments == {parameter: text}:
                return text
    return write_json_text(dict(call.arguments))


def _names(tools: Schemas) -> set[str]:
    return {str(tool.get("function", tool)["name"]) for tool in tools} - {""} or set(USUAL_PARAMETERS)


def _bare_parameter(name: str, parameters: Parameters) -> str:
    """The parameter that a bare text belongs to: the only one, or the only required one; otherwise ""."""
    if not parameters.known:
        return USUAL_PARAMETERS.get(name, "text")
    if len(parameters.schemas) == 1:
        return next(iter(parameters.schemas))
    return parameters.required[0] if len(parameters.required) == 1 else ""
