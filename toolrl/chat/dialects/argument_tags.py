"""Calls with a tag for each argument, whose text stands there as it is: one form, and a table of the families.

Strings have no quotes, so that only a tool's schema tells `7` from `"7"` (see `values.typed_value`). A value ends at
the first closing tag of an argument. Other marks of the dialect inside of it are text, but not the opening of an
argument: then a closing tag was left out, and the call is malformed. The writer writes the `<` of marks as `&lt;`.
"""

from __future__ import annotations

import re

from toolrl.chat.dialects.base import BlockDialect
from toolrl.chat.dialects.json_text import load_json
from toolrl.chat.dialects.scanning import Scanner, skip_space
from toolrl.chat.dialects.values import Parameters, Schemas, hide, show, write_value
from toolrl.types import ToolCall


class Broken(ValueError):
    """A call that cannot be read on: of which tool, why, and from where on a closing mark ends it."""

    def __init__(self, name: str, reason: str, at: int):
        super().__init__(reason)
        self.name = name
        self.reason = reason
        self.at = at


class TagForm:
    """How a family writes a call: what opens it, each of its arguments, and what closes it.

    Openings hold `{}` where a name stands; an argument's may hold `{string}`, DeepSeek's word for whether it is a text.
    """

    def __init__(self, invoke: tuple[str, str], parameter: tuple[str, str], hidden: tuple[str, ...], line: str = ""):
        """Describe the form.

        Args:
            invoke: What opens and closes a call.
            parameter: What opens and closes an argument.
            hidden: Marks that are no part of a value as they are.
            line: What is written around a value; one line break on each side is then no part of it.
        """
        self._invoke, self._parameter, self._hidden, self._line = invoke, parameter, hidden, line
        self._head, self._opening = _pattern(invoke[0]), _pattern(parameter[0])
        self._any_opening = _tag_of(parameter[0])
        self._close = re.compile(r"\s*".join(map(re.escape, re.findall(r"<[^<]*", invoke[1])))) if invoke[1] else None

    def read(self, text: str, position: int, tools: Schemas) -> tuple[ToolCall, int]:
        """The call that begins at a position, and where it ends.

        Raises:
            Broken: It cannot be read.
        """
        head = self._head.match(text, position)
        if head is None:
            raise Broken("", f"the tool call does not begin with {self._invoke[0].format('TOOL')}", position)
        name, at = head["name"].strip(), skip_space(text, head.end())
        parameters, arguments = Parameters(tools, name), {}
        closing = self._parameter[1]
        while opened := self._opening.match(text, at):
            key, end = opened["name"].strip(), text.find(closing, opened.end())
            value = text[opened.end() : max(end, 0)]
            if end < 0 or self._any_opening in value:
                raise Broken(name, f"the parameter {key} is not closed with {closing}", opened.end())
            if key in arguments:
                raise Broken(name, f"the parameter {key} is given twice", opened.end())
            arguments[key] = self._value(name, key, value, opened.groupdict().get("string"), parameters, end)
            at = skip_space(text, end + len(closing))
        closed = self._close.match(text, at) if self._close else None
        if self._close is not None and closed is None:
            outside = text[at:].lstrip()[:80].partition("\n")[0]
            here = f"{outside!r} stands" if outside else "the text ends"
            raise Broken(name, f"{here} where {self._invoke[1]} or another parameter should", at)
        end = closed.end() if closed else at
        return ToolCall(name, arguments, raw=text[position:end]), end

    def _value(self, name: str, key: str, value: str, string: str | None, parameters: Parameters, end: int) -> object:
        if self._line:
            value = value.removeprefix("\n").removesuffix("\n")
        value = show(value, self._hidden)
        if string is None:
            return parameters.value(key, value)
        if string == "true":
            return value
        try:
            return load_json(value)
        except (ValueError, RecursionError) as error:
            raise Broken(name, f"the parameter {key} is not valid JSON: {error}", end) from error

    def write(self, call: ToolCall) -> str:
        """A call, a line for each tag."""
        parameters = "".join(f"{self._write(key, value)}\n" for key, value in call.arguments.items())
        return f"{self._invoke[0].format(call.name)}\n{parameters}{self._invoke[1]}"

    def _write(self, key: str, value: object) -> str:
        string = "true" if isinstance(value, str) else "false"
        text = hide(write_value(value), self._hidden)
        line = self._line if self._line == "\n" or (self._line and text.strip("\n") != text) else ""
        line = line and "\n"
        return f"{self._parameter[0].format(key, string=string)}{line}{text}{line}{self._parameter[1]}"


def _tag_of(mark: str) -> str:
    """The tag that an opening has a name in, up to that name; the first tag of a closing."""
    before, named, _ = mark.partition("{}")
    return before[before.rindex("<") :].rstrip('"') if named else re.findall(r"<[^<]*", mark)[0]


def _pattern(opening: str) -> re.Pattern[str]:
    """An opening with a name in it; white space between its tags does not matter."""
    characters = r'[^"\n]+' if '"{}"' in opening else r"[^<>\n]+" if opening != "{}" else r"[^<>\s{}\"']+"
    pattern = re.escape(opening).replace(r"\{string\}", "(?P<string>true|false)")
    pattern = pattern.replace(r"\{\}", f"(?P<name>{characters})")
    return re.compile(re.sub(r">(?:\\\n)*(?=<)", r">\\s*", pattern))


class ValueTagDialect(BlockDialect):
    """Calls in tags between an opening and a closing mark: one call, or several."""

    def __init__(
        self,
        name: str,
        block: tuple[str, str],
        invoke: tuple[str, str],
        parameter: tuple[str, str],
        *,
        several: bool = False,
        line: str = "",
        ends: tuple[str, ...] = (),
        thinking: tuple[str, str] = ("<think>", "</think>"),
        thought_form: str = "{0}\n{2}\n{1}\n\n",
        joint: str = "\n",
        also_marks: tuple[str, ...] = (),
    ):
        """Describe a family; see `TagForm` and `Dialect`.

        Args:
            name: Of the dialect.
            block: The marks around calls.
            invoke: What opens and closes a call.
            parameter: What opens and closes an argument.
            several: Whether all calls of a turn stand in one block.
            line: What is written around values.
            ends: Tokens that end a turn.
            thinking: What opens and closes thoughts.
            thought_form: How they are written: the marks, then the thought.
            joint: What stands between the text and the blocks.
            also_marks: Further tokens that a call is written with.
        """
        tags = [_tag_of(mark) for mark in (*invoke, *parameter) if mark.startswith("<")]
        self.name, self.block, self.joint, self.ends, self.thinking = name, block, joint, ends, thinking
        self.marks = tuple(dict.fromkeys([*block, *tags, *also_marks]))
        self.listed, self.thought_form = several, thought_form
        self._tags = TagForm(invoke, parameter, self.hidden, line)
        self.form = self._wrap([self._tags.write(ToolCall("TOOL", {"PARAMETER": "VALUE"}))])

    def read_at(
        self, text: str, opening: re.Match[str], closing: str, scanner: Scanner, tools: Schemas
    ) -> tuple[list[ToolCall], int]:
        """The calls of a block. Of one that holds a single call nothing runs unless it is closed."""
        calls, at = list[ToolCall](), opening.end()
        try:
            while not (closed := text.startswith(closing, (next_at := skip_space(text, at)))) or not calls:
                if calls and not self.listed:
                    raise Broken(calls[0].name, f"the tool call is not closed with {closing}", at)
                if next_at == len(text):
                    raise Broken(calls[-1].name if calls else "", f"{opening.group()} is not closed with {closing}", at)
                call, at = self._tags.read(text, next_at, tools)
                calls.append(call)
        except Broken as broken:
            kept = calls if self.listed else []
            start = at if kept else opening.start()
            following = re.compile(f"{re.escape(closing)}|(?={re.escape(opening.group())})").search(text, broken.at)
            end = following.end() if following else len(text)
            return [*kept, ToolCall(broken.name, error=broken.reason, raw=text[start:end])], end
        assert closed
        end = next_at + len(closing)
        if len(calls) == 1:
            calls = [ToolCall(calls[0].name, calls[0].arguments, raw=text[opening.start() : end])]
        return calls, end

    def write_calls(self, calls: list[ToolCall], tools: Schemas) -> str:
        """Calls between the marks."""
        return self._wrap([self._tags.write(call) for call in calls])

    def _wrap(self, calls: list[str]) -> str:
        return "\n".join([self.block[0], *calls, self.block[1]])


class GlmDialect(ValueTagDialect):
    """The tool's name, then `<arg_key>` and `<arg_value>` in turn, as GLM-4.5 and later write it.

    Source: the tool section of trl/chat_templates/glm4moe.jinja.
    """

    def __init__(self) -> None:
        """Describe it."""
        super().__init__(
            "glm4",
            ("<tool_call>", "</tool_call>"),
            ("{}", ""),
            ("<arg_key>{}</arg_key>\n<arg_value>", "</arg_value>"),
            ends=("<|user|>", "<|observation|>", "<|endoftext|>"),
            thought_form="\n{0}{2}{1}\n",
            also_marks=("</arg_key>", "<arg_value>"),
        )

    def _wrap(self, calls: list[str]) -> str:
        return f"{self.block[0]}{calls[0]}{self.block[1]}"


_FUNCTION = ("<function={}>", "</function>")
_DSML = {
    "invoke": ('<｜DSML｜invoke name="{}">', "</｜DSML｜invoke>"),
    "parameter": ('<｜DSML｜parameter name="{}" string="{string}">', "</｜DSML｜parameter>"),
    "several": True,
    "joint": "\n\n",
    "ends": ("<｜end▁of▁sentence｜>",),
    "thought_form": "{0}{2}{1}",
}

# Sources: what vLLM 0.32 (vllm/parser, vllm/tool_parsers) and SGLang 0.5 (srt/function_call) read.
VALUE_TAG_DIALECTS = (
    # The tool section of trl/chat_templates/qwen3_5_think.jinja; Qwen3.5, Nemotron 3 and Step 3.5 write it too.
    ValueTagDialect(
        "qwen3-coder",
        ("<tool_call>", "</tool_call>"),
        _FUNCTION,
        ("<parameter={}>", "</parameter>"),
        line="\n",
    ),
    GlmDialect(),
    # vllm/parser/seed_oss.py: as Qwen3-Coder, with values on the line of their tags.
    ValueTagDialect(
        "seed-oss",
        ("<seed:tool_call>", "</seed:tool_call>"),
        _FUNCTION,
        ("<parameter={}>", "</parameter>"),
        line="as needed",
        ends=("<seed:eos>",),
        thinking=("<seed:think>", "</seed:think>"),
        thought_form="{0}{2}{1}",
    ),
    # vllm/parser/minimax_m2.py.
    ValueTagDialect(
        "minimax-m2",
        ("<minimax:tool_call>", "</minimax:tool_call>"),
        ('<invoke name="{}">', "</invoke>"),
        ('<parameter name="{}">', "</parameter>"),
        several=True,
        ends=("[e~[",),
    ),
    # encoding/encoding_dsv32.py of deepseek-ai/DeepSeek-V3.2, as vllm/tokenizers has it; V4 has another outer tag.
    ValueTagDialect("deepseek-v3.2", ("<｜DSML｜function_calls>", "</｜DSML｜function_calls>"), **_DSML),  # type: ignore[arg-type]
    ValueTagDialect("deepseek-v4", ("<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>"), **_DSML),  # type: ignore[arg-type]
    # step3_tool_parser.py, step3_detector.py.
    ValueTagDialect(
        "step3",
        ("<｜tool_calls_begin｜>", "<｜tool_calls_end｜>"),
        (
            '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="{}">',
            "</steptml:invoke><｜tool_call_end｜>",
        ),
        ('<steptml:parameter name="{}">', "</steptml:parameter>"),
        several=True,
        ends=("<|EOT|>",),
        also_marks=(
            "<｜tool_call_begin｜>",
            "<｜tool_sep｜>",
            "<｜tool_call_end｜>",
            "<steptml:invoke",
            "</steptml:invoke>",
        ),
    ),
)
