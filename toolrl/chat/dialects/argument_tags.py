"""Calls with a tag for each argument, around its raw text: one class, and a table of the families that write this form.

Strings have no quotes, so only the tool's schema tells `7` from `"7"` (see `values.typed_value`). A value ends at the
first closing tag of an argument. Other marks of the dialect inside a value are text. An opening tag of an argument is
not: it shows that a closing tag is missing, so the call is malformed. The writer writes the `<` of marks as `&lt;`.
"""

from __future__ import annotations

import re

from toolrl.chat.dialects.base import BlockDialect
from toolrl.chat.dialects.json_text import load_json
from toolrl.chat.dialects.scanning import Scanner, skip_space
from toolrl.chat.dialects.values import Parameters, Schemas, hide, show, write_value
from toolrl.types import ToolCall


class Broken(ValueError):
    """A call that cannot be read: its tool, the reason, and where to look for the mark that closes it."""

    def __init__(self, name: str, reason: str, at: int):
        super().__init__(reason)
        self.name = name
        self.reason = reason
        self.at = at


class TagForm:
    """How a family writes a call: its opening, its arguments and its closing.

    Openings contain `{}` for a name. That of an argument may contain `{string}`, DeepSeek's flag for strings.
    """

    def __init__(self, invoke: tuple[str, str], parameter: tuple[str, str], hidden: tuple[str, ...], line: str = ""):
        """Describe the form.

        Args:
            invoke: What opens and closes a call.
            parameter: What opens and closes an argument.
            hidden: Marks that are escaped inside a value.
            line: What is written around a value. If it is set, one line break on each side is not part of the value.
        """
        self._invoke, self._parameter, self._hidden, self._line = invoke, parameter, hidden, line
        self._head, self._opening = _pattern(invoke[0]), _pattern(parameter[0])
        self._any_opening = _tag_of(parameter[0])
        self._close = re.compile(r"\s*".join(map(re.escape, re.findall(r"<[^<]*", invoke[1])))) if invoke[1] else None

    def read(self, text: str, position: int, tools: Schemas) -> tuple[ToolCall, int]:
        """Read the call that starts at a position; returns it and where it ends.

        Raises:
            Broken: The call cannot be read.
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
        """Write a call, with a line for each tag."""
        parameters = "".join(f"{self._write(key, value)}\n" for key, value in call.arguments.items())
        return f"{self._invoke[0].format(call.name)}\n{parameters}{self._invoke[1]}"

    def _write(self, key: str, value: object) -> str:
        string = "true" if isinstance(value, str) else "false"
        text = hide(write_value(value), self._hidden)
        line = self._line if self._line == "\n" or (self._line and text.strip("\n") != text) else ""
        line = line and "\n"
        return f"{self._parameter[0].format(key, string=string)}{line}{text}{line}{self._parameter[1]}"


def _tag_of(mark: str) -> str:
    """Of an opening: the tag that contains the name, up to the name. Of a closing: its first tag."""
    before, named, _ = mark.partition("{}")
    return before[before.rindex("<") :].rstrip('"') if named else re.findall(r"<[^<]*", mark)[0]


def _pattern(opening: str) -> re.Pattern[str]:
    """The pattern of an opening with a name in it; white space between its tags does not matter."""
    characters = r'[^"\n]+' if '"{}"' in opening else r"[^<>\n]+" if opening != "{}" else r"[^<>\s{}\"']+"
    pattern = re.escape(opening).replace(r"\{string\}", "(?P<string>true|false)")
    pattern = pattern.replace(r"\{\}", f"(?P<name>{characters})")
    return re.compile(re.sub(r">(?:\\\n)*(?=<)", r">\\s*", pattern))


class ArgumentTagDialect(BlockDialect):
    """Calls in tags between an opening and a closing mark: one per block, or several."""

    def __init__(
        self,
        name: str,
        block: tuple[str, str],
        invoke: tuple[str, str],
        parameter: tuple[str, str],
        *,
        listed: bool = False,
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
            listed: Whether one block holds all calls of a turn.
            line: What is written around values.
            also_marks: Further tokens that a call is written with.
        """
        tags = [_tag_of(mark) for mark in (*invoke, *parameter) if mark.startswith("<")]
        self.name, self.block, self.joint, self.ends, self.thinking = name, block, joint, ends, thinking
        self.marks = tuple(dict.fromkeys([*block, *tags, *also_marks]))
        self.listed, self.thought_form = listed, thought_form
        self._tags = TagForm(invoke, parameter, self.hidden, line)
        self.form = self._wrap([self._tags.write(ToolCall("TOOL", {"PARAMETER": "VALUE"}))])

    def read_at(
        self, text: str, opening: re.Match[str], closing: str, scanner: Scanner, tools: Schemas
    ) -> tuple[list[ToolCall], int]:
        """Read the calls of a block. If it may hold only one call, that call runs only if the block is closed."""
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
        """Write calls between the marks."""
        return self._wrap([self._tags.write(call) for call in calls])

    def _wrap(self, calls: list[str]) -> str:
        return "\n".join([self.block[0], *calls, self.block[1]])


class GlmDialect(ArgumentTagDialect):
    """The tool's name, then alternately `<arg_key>` and `<arg_value>`, as GLM-4.5 and later write calls.

    Source: the tool section of trl/chat_templates/glm4moe.jinja.
    """

    def __init__(self) -> None:
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
    "listed": True,
    "joint": "\n\n",
    "ends": ("<｜end▁of▁sentence｜>",),
    "thought_form": "{0}{2}{1}",
}

# Sources: what vLLM 0.32 (vllm/parser, vllm/tool_parsers) and SGLang 0.5 (srt/function_call) read.
ARGUMENT_TAG_DIALECTS = (
    # The tool section of trl/chat_templates/qwen3_5_think.jinja; Qwen3.5, Nemotron 3 and Step 3.5 write this form too.
    ArgumentTagDialect(
        "qwen3-coder",
        ("<tool_call>", "</tool_call>"),
        _FUNCTION,
        ("<parameter={}>", "</parameter>"),
        line="\n",
    ),
    GlmDialect(),
    # vllm/parser/seed_oss.py: like Qwen3-Coder, with values on the same line as their tags.
    ArgumentTagDialect(
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
    ArgumentTagDialect(
        "minimax-m2",
        ("<minimax:tool_call>", "</minimax:tool_call>"),
        ('<invoke name="{}">', "</invoke>"),
        ('<parameter name="{}">', "</parameter>"),
        listed=True,
        ends=("[e~[",),
    ),
    # encoding/encoding_dsv32.py of deepseek-ai/DeepSeek-V3.2, copied in vllm/tokenizers; V4 has another outer tag.
    ArgumentTagDialect("deepseek-v3.2", ("<｜DSML｜function_calls>", "</｜DSML｜function_calls>"), **_DSML),  # type: ignore[arg-type]
    ArgumentTagDialect("deepseek-v4", ("<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>"), **_DSML),  # type: ignore[arg-type]
    # step3_tool_parser.py, step3_detector.py.
    ArgumentTagDialect(
        "step3",
        ("<｜tool_calls_begin｜>", "<｜tool_calls_end｜>"),
        (
            '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="{}">',
            "</steptml:invoke><｜tool_call_end｜>",
        ),
        ('<steptml:parameter name="{}">', "</steptml:parameter>"),
        listed=True,
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
