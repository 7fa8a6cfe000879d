"""What every dialect shares: thinking, calls in a foreign dialect, JSON, and values that a tag holds as they are."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from toolrl.types import Message, ToolCall

Schemas = Sequence[Mapping[str, Any]]

# By what a call of any dialect begins, where no ordinary text would have it. None of them is plain JSON, a code
# fence or a tag of research code: those stand in answers too.
CALL_BEGINNINGS = (
    "<tool_call>",
    "<function=",
    "<|tool_call>",
    "<start_function_call>",
    "<|tool_call|>",
    "<|tool_call_start|>",
    "<|python_tag|>",
    "[TOOL_CALLS]",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<|tool_calls_section_begin|>",
    "<|tool_call_begin|>",
    "<|channel|>commentary",
    "<atem:invoke",
)
_FOREIGN = re.compile("|".join(map(re.escape, CALL_BEGINNINGS)))


class Dialect(ABC):
    """One model family's way of writing a turn: its thinking, its text and its tool calls.

    Attributes:
        name: What `dialect_named` knows it by.
        form: A call in the right form, for models that got it wrong.
        marks: Texts with a meaning in a turn; the writer's are control tokens where the tokenizer has such.
        ends: Tokens that end a turn beside the tokenizer's EOS, where the vocabulary has them.
        thinking: What a block of thoughts is opened and closed with.
    """

    name: str
    form: str
    marks: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    thinking: ClassVar[tuple[str, str]] = ("<think>", "</think>")

    @property
    def hidden(self) -> tuple[str, ...]:
        """What an argument must not hold as it is: its writer escapes these."""
        return self.marks + self.thinking

    def parse(self, text: str, tools: Schemas = ()) -> Message:
        """Read one assistant turn, without its end-of-turn token. Never raises for what a model wrote.

        Args:
            text: The turn, control tokens included.
            tools: JSON schemas. Dialects that write strings without quotes tell `7` from `"7"` by them.
        """
        thinking, content, calls = self.split(text, tools)
        content, calls = self._refuse_foreign(content, calls)
        if not calls and not content.strip() and (mark := _FOREIGN.search(thinking)):
            error = "a tool call inside thinking does not run; end the thinking first"
            calls = [ToolCall("", error=error, raw=thinking[mark.start() :])]
        told = tuple(call if call.error is None else self._with_form(call) for call in calls)
        return Message("assistant", content.strip(), told, thinking=thinking.strip())

    def format(self, message: Message) -> str:
        """Write an assistant message as the model would; `parse` inverts it, up to white space around the texts.

        A malformed call is written as it was sampled. What cannot be told from the dialect's own marks in a text
        (`message.content`, `message.thinking`) is read as a mark again.
        """
        return self.write_thinking(message.thinking) * bool(message.thinking) + self.write(message)

    def write_thinking(self, thinking: str) -> str:
        """A block of thoughts, up to where the turn goes on."""
        return f"{self.thinking[0]}\n{thinking}\n{self.thinking[1]}\n\n"

    @property
    def end_of_thinking(self) -> str:
        """What ends thoughts wherever they are; nothing if a turn's form has no such place."""
        return self.write_thinking("?").rpartition("?")[2]

    def split(self, text: str, tools: Schemas) -> tuple[str, str, list[ToolCall]]:
        """A turn's thinking, its text and its calls, as they stand there."""
        thinking, said = self._split_thinking(text)
        return thinking, *self.read(said, tools)

    @abstractmethod
    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """Split what follows the thinking into its text and its calls."""

    @abstractmethod
    def write(self, message: Message) -> str:
        """Write what follows the thinking."""

    def _split_thinking(self, text: str) -> tuple[str, str]:
        """Thoughts, and what is said after them. The opening may have stood in the prompt, the closing be missing."""
        opening, closing = self.thinking
        before, found, after = text.partition(closing)
        # In an argument it closes nothing.
        if found and (before.lstrip().startswith(opening) or not _FOREIGN.search(before)):
            return before.strip().removeprefix(opening), after
        before, found, after = text.partition(opening)
        return (after, before) if found and not before.strip() else ("", text)

    def _refuse_foreign(self, content: str, calls: list[ToolCall]) -> tuple[str, list[ToolCall]]:
        mark = _FOREIGN.search(content)
        if mark is None:
            return content, calls
        error = f"{mark.group()} does not call a tool here"
        return content[: mark.start()], [*calls, ToolCall("", error=error, raw=content[mark.start() :].strip())]

    def _with_form(self, call: ToolCall) -> ToolCall:
        return replace(call, error=f"{call.error}; write {self.form}")


# ---- JSON


def read_json_call(text: str, raw: str, arguments_key: str = "arguments") -> ToolCall:
    """Read `{"name": str, "arguments": object}`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return ToolCall("", error=f"the tool call is not valid JSON: {error}", raw=raw)
    return json_call(value, raw, arguments_key)


def json_call(value: Any, raw: str, arguments_key: str = "arguments") -> ToolCall:
    """Check the shape `{"name": str, "arguments": object}` of a decoded call."""
    if not isinstance(value, dict):
        return ToolCall("", error=f'a tool call must be a JSON object with "name" and "{arguments_key}"', raw=raw)
    name = value.get("name")
    if not isinstance(name, str) or not name:
        return ToolCall("", error='the tool call has no "name"', raw=raw)
    arguments = value.get(arguments_key, {})
    if not isinstance(arguments, dict):
        return ToolCall(name, error=f'"{arguments_key}" must be a JSON object', raw=raw)
    return ToolCall(name, arguments, raw=raw)


def named_call(name: str, arguments_text: str, raw: str) -> ToolCall:
    """A call whose name stands outside of the JSON of its arguments."""
    if not name:
        return ToolCall("", error="the tool call has no name", raw=raw)
    try:
        arguments = json.loads(arguments_text)
    except (ValueError, RecursionError) as error:
        return ToolCall(name, error=f"the arguments of {name} are not valid JSON: {error}", raw=raw)
    if not isinstance(arguments, dict):
        return ToolCall(name, error=f"the arguments of {name} must be a JSON object", raw=raw)
    return ToolCall(name, arguments, raw=raw)


def write_json(value: Any, marks: Sequence[str]) -> str:
    """JSON in which no mark can be found: its first character is escaped, which in a JSON string means the same."""
    text = json.dumps(value, ensure_ascii=False)
    for mark in marks:
        text = text.replace(mark, f"\\u{ord(mark[0]):04x}{mark[1:]}")
    return text


# ---- values that stand between tags as they are


def hide(text: str, marks: Sequence[str]) -> str:
    """Write the first character of marks inside a value as HTML does, `<` as `&lt;`; `show` inverts it for any text."""
    return re.sub(_with_ampersands(marks), lambda found: _hide_once(found.group()), text)


def show(text: str, marks: Sequence[str]) -> str:
    """Undo `hide`: `&lt;/parameter>` is `</parameter>`, `&amp;lt;/parameter>` is `&lt;/parameter>`; all else stays."""
    return re.sub(_with_ampersands(marks), lambda found: _show_once(found.group()), text)


def _hide_once(mark: str) -> str:
    return "&lt;" + mark[1:] if mark.startswith("<") else "&amp;" + mark[1:]


def _show_once(mark: str) -> str:
    if mark.startswith("&amp;"):
        return "&" + mark[len("&amp;") :]
    return "<" + mark[len("&lt;") :] if mark.startswith("&lt;") else mark


def _with_ampersands(marks: Sequence[str]) -> str:
    """A mark as it is or hidden any number of times. All marks begin with `<`."""
    return "(?:<|&(?:amp;)*lt;)(?:" + "|".join(re.escape(mark[1:]) for mark in marks) + ")"


def typed_value(text: str, schema: Mapping[str, Any] | None) -> Any:
    """The value of an argument that was written without quotes.

    With a schema that asks for a string it is the text itself. Otherwise it is read as JSON, or as Python's
    `True`, `False` and `None`, and stays text if it is neither.
    """
    if schema is not None and schema.get("type") == "string":
        return text
    if text in _PYTHON_CONSTANTS:
        return _PYTHON_CONSTANTS[text]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


_PYTHON_CONSTANTS = {"True": True, "False": False, "None": None}


def write_value(value: Any) -> str:
    """An argument without quotes: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def properties_of(tools: Schemas, name: str) -> Mapping[str, Mapping[str, Any]]:
    """The parameters of a tool by name; empty if it is unknown."""
    for tool in tools:
        function = tool.get("function", tool)
        if function.get("name") == name:
            return dict(function.get("parameters", {}).get("properties", {}))
    return {}
