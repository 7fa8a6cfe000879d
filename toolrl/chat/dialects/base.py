"""The base of all dialects: thinking, refusal of calls in another spelling, a writer that its reader checks."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from toolrl.chat.dialects.foreign import find_attempt, find_mark
from toolrl.chat.dialects.scanning import JSON_STRING, Scanner
from toolrl.chat.dialects.values import Schemas
from toolrl.errors import ConfigError
from toolrl.types import Message, ToolCall


class Dialect(ABC):
    """One model family's way of writing a turn: its thinking, its text and its tool calls.

    Attributes:
        name: Its name for `dialect_named`.
        form: A call in the right form, shown to models that got it wrong.
        marks: Texts with a meaning in a turn. The writer writes them as control tokens if the tokenizer has them.
        ends: Tokens that end a turn besides the tokenizer's EOS, if the vocabulary has them.
        thinking: What opens and closes a block of thoughts.
        thought_form: How a block of thoughts is written: the two marks, then the thought.
        listed: Whether one list or block holds all calls of a turn.
        joint: What is written between the text and the calls.
        result: What is written before and after a result, where the chat template does not show results.
    """

    name: str
    form: str
    marks: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    thinking: tuple[str, str] = ("<think>", "</think>")
    thought_form: str = "{0}\n{2}\n{1}\n\n"
    listed: bool = False
    joint: str = ""
    result: tuple[str, str] = ("<tool_response>\n", "\n</tool_response>")

    @property
    def instruction(self) -> str:
        """How a call is written, for a model whose chat template does not say so."""
        return f"To call a function, write it in this form:\n{self.form}"

    @property
    def hidden(self) -> tuple[str, ...]:
        """Texts that must not appear verbatim in an argument: the writer escapes them."""
        return self.marks + self.thinking

    def parse(self, text: str, tools: Schemas = ()) -> Message:
        """Read one assistant turn, without its end-of-turn token. Never raises, whatever the model wrote.

        Args:
            text: The turn, control tokens included.
            tools: JSON schemas. Dialects that write strings without quotes need them to tell `7` from `"7"`.
        """
        thinking, content, calls = self.split(text, tools)
        content, calls = self._refuse_foreign(content, calls, tools)
        if not calls and not content.strip() and (mark := find_mark(thinking)):
            error = "a tool call inside thinking does not run; end the thinking first"
            calls = [ToolCall("", error=error, raw=thinking[mark.start() :])]
        checked = tuple(
            call if call.error is None else replace(call, error=f"{call.error}; write {self.form}") for call in calls
        )
        return Message("assistant", content.strip(), checked, thinking=thinking.strip())

    def format(self, message: Message, tools: Schemas = ()) -> str:
        """Write an assistant message as the model would; `parse` inverts it, up to white space around the texts.

        A malformed call is written as it was sampled. The dialect's own marks in `message.content` and
        `message.thinking` are not escaped: they are read as marks again.

        Args:
            message: The assistant's message.
            tools: JSON schemas. Without them, a string counts as an argument of a parameter that takes only strings.

        Raises:
            ConfigError: The dialect cannot write a call: it would be read differently.
        """
        self.check_written(message, tools)
        return self.write_thinking(message.thinking) * bool(message.thinking) + self.write(message, tools)

    def check_written(self, message: Message, tools: Schemas) -> None:
        """Check that the written calls are read back the same; see `format`."""
        good = tuple(call for call in message.tool_calls if call.error is None)
        for calls in [good] if tools and good else [(call,) for call in good]:
            self._check(calls, tools or schemas_of(calls), tools)

    def _check(self, calls: tuple[ToolCall, ...], read_with: Schemas, tools: Schemas) -> None:
        try:
            written = self.write(Message("assistant", "", calls), tools)
            read = self.parse(written, read_with).tool_calls
        except (ValueError, RecursionError, TypeError) as error:
            raise ConfigError(
                f"the dialect {self.name!r} cannot write these calls ({error}): {_shown(calls)}"
            ) from error
        for wanted, got in zip(calls, read, strict=False):
            if got.error is not None or (got.name, _exact(got.arguments)) != (wanted.name, _exact(wanted.arguments)):
                raise ConfigError(
                    f"the dialect {self.name!r} cannot write the call {_shown([wanted])}: it would be read as "
                    f"{_shown([got])}; change the name or the value, or choose another dialect (dialect=)"
                )
        if len(read) != len(calls):
            raise ConfigError(
                f"the dialect {self.name!r} cannot write these calls: {_shown(calls)} would be read as {_shown(read)}"
            )

    def write_thinking(self, thinking: str) -> str:
        """Write a block of thoughts, up to where the turn continues."""
        return self.thought_form.format(*self.thinking, thinking)

    @property
    def end_of_thinking(self) -> str:
        """The text that ends thoughts anywhere; empty if the dialect has none."""
        return self.write_thinking("?").rpartition("?")[2]

    def split(self, text: str, tools: Schemas) -> tuple[str, str, list[ToolCall]]:
        """Split a turn into its thinking, its text and its calls, as written."""
        thinking, said = self._split_thinking(text)
        return thinking, *self.read(said, tools)

    @abstractmethod
    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """Split what follows the thinking into its text and its calls."""

    def write(self, message: Message, tools: Schemas = ()) -> str:
        """Write what follows the thinking: the text, then the calls, malformed ones as they were sampled."""
        good = [call for call in message.tool_calls if call.error is None]
        if self.listed:
            written = [self.write_calls(good, tools)] * bool(good)
            written += [call.raw for call in message.tool_calls if call.error is not None]
        else:
            written = [
                call.raw if call.error is not None else self.write_calls([call], tools) for call in message.tool_calls
            ]
        return self.joint.join([message.content] * bool(message.content) + written)

    @abstractmethod
    def write_calls(self, calls: list[ToolCall], tools: Schemas) -> str:
        """Write well-formed calls: all of a turn where they are `listed`, else one."""

    def _split_thinking(self, text: str) -> tuple[str, str]:
        """Thoughts, and what follows. The opening mark may be in the prompt, the closing mark missing."""
        opening, closing = self.thinking
        before, found, after = text.partition(closing)
        # A closing mark inside an argument closes nothing.
        if found and (before.lstrip().startswith(opening) or not self.is_in_call(before)):
            return before.strip().removeprefix(opening), after
        before, found, after = text.partition(opening)
        return (after, before) if found and not before.strip() else ("", text)

    def is_in_call(self, before: str) -> bool:
        """Whether a text ends inside an argument: after the beginning of a call, or in a turn that is JSON."""
        return before.lstrip()[:1] in ("{", "[") or find_mark(before) is not None

    def _refuse_foreign(self, content: str, calls: list[ToolCall], tools: Schemas) -> tuple[str, list[ToolCall]]:
        """Turn an attempt to call a tool in another spelling into a malformed call; see `find_attempt`."""
        attempt = find_attempt(content, tools, alone=not calls)
        if attempt is None:
            return content, calls
        start, reason = attempt
        if calls and all(call.error is not None for call in calls):
            return content[:start], calls  # it is part of these
        refused = ToolCall("", error=reason, raw=content[start:].strip())
        return content[:start], [*calls, refused]


class BlockDialect(Dialect):
    """Calls between an opening and a closing mark, with text around them. A block is one call, or a list of them.

    Attributes:
        block: The opening and the closing mark.
        openings: Patterns of the opening marks, each with its closing mark; by default those of `block`.
        strings: Pattern of quoted strings in a block; see `scanning`.
    """

    block: tuple[str, str]
    openings: tuple[tuple[str, str], ...] = ()
    strings: str = JSON_STRING

    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """Split the text at its blocks; a broken block is a call with `error` set."""
        pairs = self.openings or ((re.escape(self.block[0]), self.block[1]),)
        opening = re.compile("|".join(f"({pattern})" for pattern, _ in pairs))
        scanner, content, calls, position = Scanner(text, self.strings), "", list[ToolCall](), 0
        while match := opening.search(text, position):
            content += text[position : match.start()]
            assert match.lastindex is not None
            found, position = self.read_at(text, match, pairs[match.lastindex - 1][1], scanner, tools)
            calls += found
        content += text[position:]
        for closing in dict.fromkeys(closing for _, closing in pairs if closing in self.marks):
            if closing in content:
                calls.append(ToolCall("", error=f"{closing} without {self.block[0]} before it", raw=closing))
                content = content.replace(closing, "")
        return content, calls

    def read_at(
        self, text: str, opening: re.Match[str], closing: str, scanner: Scanner, tools: Schemas
    ) -> tuple[list[ToolCall], int]:
        """Read the calls in the block that starts with an opening mark; returns them and where it ends."""
        end, mark = scanner.find(opening.end(), (closing, opening.group())) or (len(text), "")
        end += len(closing) * (mark == closing)
        raw = text[opening.start() : end]
        if mark != closing:
            return [ToolCall("", error=f"{opening.group()} is not closed with {closing}", raw=raw)], end
        return self.read_block(text[opening.end() : end - len(closing)].strip(), raw, tools), end

    def read_block(self, body: str, raw: str, tools: Schemas) -> list[ToolCall]:
        """Read the calls in a block; unused where `read_at` is overridden."""
        raise NotImplementedError


def schemas_of(calls: tuple[ToolCall, ...]) -> list[dict[str, Any]]:
    """Schemas that distinguish string arguments of these calls from others."""
    merged: dict[str, dict[str, Any]] = {}
    for call in calls:
        properties = merged.setdefault(call.name, {})
        for key, value in call.arguments.items():
            # A parameter that is a string in one call and not in another accepts both.
            schema = {"type": "string"} if isinstance(value, str) else {}
            properties[key] = schema if properties.get(key, schema) == schema else {}
    return [
        {"name": name, "parameters": {"type": "object", "properties": properties}}
        for name, properties in merged.items()
    ]


def meaning(message: Message) -> tuple[Any, ...]:
    """A value that is equal for two messages with the same meaning."""
    calls = [(call.name, _exact(call.arguments), call.error) for call in message.tool_calls]
    return message.content.strip(), message.thinking.strip(), calls


def _exact(value: Any) -> Any:
    """A form of a value in which `1`, `True` and `1.0` differ."""
    if isinstance(value, Mapping):
        return {key: _exact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_exact(item) for item in value]
    return (type(value).__name__, value)


def _shown(calls: Any) -> str:
    try:
        shown = ", ".join(
            f"{call.name}({dict(call.arguments)!r})" + f" [{call.error}]" * bool(call.error) for call in calls
        )
    except (ValueError, RecursionError):  # a number or a nesting that Python cannot write either
        return ", ".join(f"{call.name}(...)" for call in calls)
    return shown if len(shown) <= 300 else f"{shown[:300]} ..."
