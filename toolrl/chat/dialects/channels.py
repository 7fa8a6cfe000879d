"""Turns of several messages, each with a header that names its recipient: gpt-oss (harmony), Muse (ATEM)."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace

from toolrl.chat.dialects.argument_tags import Broken, TagForm
from toolrl.chat.dialects.base import Dialect
from toolrl.chat.dialects.foreign import find_mark
from toolrl.chat.dialects.json_text import named_call, write_json
from toolrl.chat.dialects.scanning import Scanner, skip_space
from toolrl.chat.dialects.values import Schemas
from toolrl.types import Message, ToolCall


class ChannelDialect(Dialect):
    """The base of both. The prompt ends in `<|start|>assistant`; the model writes the rest of each header.

    `joint` is what is written between two messages of a turn.
    """

    def split(self, text: str, tools: Schemas) -> tuple[str, str, list[ToolCall]]:
        """Split a turn into thoughts, text and calls by the headers of its messages."""
        parts = [self.read_message(header, body, raw, tools) for header, body, raw in self._messages(text)]
        thoughts = "\n".join(thought for thought, _, _ in parts if thought)
        content = "\n".join(said for _, said, _ in parts if said)
        return thoughts, content, [call for _, _, calls in parts for call in calls]

    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """Read text and calls."""
        _, content, calls = self.split(text, tools)
        return content, calls

    def format(self, message: Message, tools: Schemas = ()) -> str:
        """Write thoughts, text and calls, each in a message of its own; see `Dialect.format`."""
        self.check_written(message, tools)
        thoughts = [self.write_thinking(message.thinking)] if message.thinking else []
        return self.joint.join([*thoughts, self.write(message)])

    def write(self, message: Message, tools: Schemas = ()) -> str:
        """Write text and calls, each in a message of its own."""
        if message.content or not message.tool_calls:
            message = replace(message, content=self.write_text(message.content, final=not message.tool_calls))
        return super().write(message, tools)

    @abstractmethod
    def read_message(self, header: str | None, body: str, raw: str, tools: Schemas) -> tuple[str, str, list[ToolCall]]:
        """Read one message: its thought, its text, its calls. `header` is None if the message has none."""

    @abstractmethod
    def write_text(self, text: str, *, final: bool) -> str:
        """Write a message to the user; `final` if no call follows."""

    def _messages(self, text: str) -> Iterator[tuple[str | None, str, str]]:
        end = self.joint.removesuffix("<|start|>assistant")
        scanner, position, start = Scanner(text), 0, text.find("<|message|>")
        while position < len(text):
            if 0 <= start < position:
                start = text.find("<|message|>", position)
            plain = text.find(end, position)
            if start >= 0 and (plain < 0 or start < plain) and self.is_call(text[position:start]):
                found = scanner.find(start, (end,))  # a mark inside a string of a call ends nothing
                plain = found[0] if found else -1
            stop = plain if plain >= 0 else len(text)
            raw = text[position:stop].strip()
            position = stop + len(end)
            part = raw.removeprefix("<|start|>assistant")
            if not part:
                continue
            header, found_message, body = part.partition("<|message|>")
            yield (header if found_message else None), (body if found_message else part), raw

    def is_call(self, header: str) -> bool:
        """Whether a header says that JSON follows."""
        return False


class HarmonyDialect(ChannelDialect):
    """OpenAI's harmony format: channels `analysis` (thoughts), `commentary` (calls, asides) and `final`.

    Source: github.com/openai/harmony, docs/format.md; the template writes the recipient before the channel, the
    models also after it.
    """

    name = "harmony"
    form = '<|start|>assistant<|channel|>commentary to=functions.TOOL <|constrain|>json<|message|>{"PARAMETER": VALUE}'
    marks = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>", "<|return|>")
    ends = ("<|return|>", "<|call|>")
    joint = "<|end|><|start|>assistant"
    thought_form = "<|channel|>analysis<|message|>{2}"
    _recipient = re.compile(r"to=([^\s<]+)")
    _channel = re.compile(r"<\|channel\|>\s*(\w+)")

    def is_call(self, header: str) -> bool:
        """Whether the recipient is a tool."""
        recipient = self._recipient.search(header)
        return recipient is not None and recipient.group(1) != "user"

    def read_message(self, header: str | None, body: str, raw: str, tools: Schemas) -> tuple[str, str, list[ToolCall]]:
        """The recipient makes it a call, the channel a thought; otherwise it is text."""
        recipient, channel = self._recipient.search(header or ""), self._channel.search(header or "")
        if recipient and recipient.group(1) != "user":
            return "", "", [named_call(recipient.group(1).removeprefix("functions."), body, raw)]
        if header is None and (self._recipient.search(body) or self._channel.search(body)):
            return "", "", [ToolCall("", error="a header is not followed by <|message|>", raw=raw)]
        return (body, "", []) if channel and channel.group(1) == "analysis" else ("", body, [])

    def write_text(self, text: str, *, final: bool) -> str:
        """Write a message on the channel `final`, or an aside."""
        return f"<|channel|>{'final' if final else 'commentary'}<|message|>{text}"

    def write_calls(self, calls: list[ToolCall], tools: Schemas) -> str:
        """Write a message on the channel `commentary`, as the template does."""
        arguments = write_json(dict(calls[0].arguments), self.hidden)
        return f" to=functions.{calls[0].name}<|channel|>commentary json<|message|>{arguments}"


class AtemDialect(ChannelDialect):
    """Muse's protocol: a recipient for each message, and XML for the arguments.

    Source: trl/chat_templates/muse_glimmer.jinja.
    """

    name = "atem"
    form = (
        "to=TOOL<|message|><atem:function_calls>\n"
        '<atem:invoke name="TOOL">\n<atem:parameter name="PARAMETER">VALUE</atem:parameter>\n</atem:invoke>\n'
        "</atem:function_calls>"
    )
    marks = ("<|start|>", "<|message|>", "<|eom|>", "<|eot|>")
    ends = ("<|eot|>",)
    joint = "<|eom|><|start|>assistant"
    thought_form = " to=self<|message|>{2}"
    _tags = ("<atem:invoke", "</atem:invoke>", "<atem:parameter", "</atem:parameter>", "</atem:function_calls>")

    @property
    def hidden(self) -> tuple[str, ...]:
        """The marks, and the tags of calls and parameters."""
        return (*self._tags, *self.marks)

    _recipient = re.compile(r"\s*to=([^\s<]+)\s*")
    _block = ("<atem:function_calls>", "</atem:function_calls>")

    def __init__(self) -> None:
        parameter = ('<atem:parameter name="{}">', "</atem:parameter>")
        self._calls = TagForm(('<atem:invoke name="{}">', "</atem:invoke>"), parameter, self.hidden)

    def read_message(self, header: str | None, body: str, raw: str, tools: Schemas) -> tuple[str, str, list[ToolCall]]:
        """The recipient makes it a thought, text, or calls."""
        recipient = self._recipient.fullmatch(header or "")
        if recipient is None and (mark := find_mark(header or "")):
            return "", "", [ToolCall("", error=f"{mark.group()} does not call a tool here", raw=raw)]
        to = recipient.group(1) if recipient else "user"
        if to == "self":
            return body, "", []
        if to == "user" and "<atem:invoke" not in body and not (header is None and self._recipient.match(body)):
            return "", body, []
        try:
            return "", "", self._read(body.strip(), tools, raw)
        except Broken as broken:
            return "", "", [ToolCall(broken.name or (to if recipient else ""), error=broken.reason, raw=raw)]

    def _read(self, body: str, tools: Schemas, raw: str) -> list[ToolCall]:
        opening, closing = self._block
        if body.startswith(opening):
            if not body.endswith(closing):
                raise Broken("", f"{opening} is not closed with {closing}", 0)
            body = body.removeprefix(opening).removesuffix(closing).strip()
        calls, at = list[ToolCall](), 0
        while at < len(body) or not calls:
            call, at = self._calls.read(body, at, tools)
            calls.append(ToolCall(call.name, call.arguments, raw=raw))
            at = skip_space(body, at)
        return calls

    def write_text(self, text: str, *, final: bool) -> str:
        """Write a message to the user."""
        return f" to=user<|message|>{text}"

    def write_calls(self, calls: list[ToolCall], tools: Schemas) -> str:
        """Write a message to the tool."""
        opening, closing = self._block
        return f" to={calls[0].name}<|message|>{opening}\n{self._calls.write(calls[0])}\n{closing}"
