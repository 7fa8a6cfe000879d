"""Calls between an opening and a closing mark, text around them: what most families have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from toolrl.chat.dialects.base import Dialect, Schemas
from toolrl.types import Message, ToolCall


class BlockDialect(Dialect):
    """Each block is one call, or a list of them.

    Attributes:
        block: The opening and the closing mark.
        joint: What stands between the text and the blocks.
    """

    block: tuple[str, str]
    joint: str = ""

    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """Split the text at its blocks; a broken one is a call with `error` set."""
        opening, closing = self.block
        content, *parts = text.split(opening)
        calls: list[ToolCall] = []
        for part in parts:
            body, closed, after = part.partition(closing)
            content += after
            raw = opening + body + closed
            if closed:
                calls += self.read_block(body.strip(), raw, tools)
            else:
                calls.append(ToolCall("", error=f"{opening} is not closed with {closing}", raw=raw))
        if closing in content:
            calls.append(ToolCall("", error=f"{closing} without {opening} before it", raw=closing))
            content = content.replace(closing, "")
        return content, calls

    def write(self, message: Message) -> str:
        """The text first, then each call in a block of its own; malformed ones as they were sampled."""
        blocks = [message.content] if message.content else []
        for call in message.tool_calls:
            blocks.append(call.raw if call.error is not None else self.write_block(call))
        return self.joint.join(blocks)

    @abstractmethod
    def read_block(self, body: str, raw: str, tools: Schemas) -> list[ToolCall]:
        """The calls in a block."""

    @abstractmethod
    def write_block(self, call: ToolCall) -> str:
        """A block with one call."""


def write_together(message: Message, write_list: Callable[[list[ToolCall]], str]) -> str:
    """The text, then all calls in one list; malformed ones as they were sampled."""
    good = [call for call in message.tool_calls if call.error is None]
    broken = [call.raw for call in message.tool_calls if call.error is not None]
    return "".join([message.content, *([write_list(good)] if good else []), *broken])


def as_json(calls: list[ToolCall]) -> list[dict[str, Any]]:
    """Calls in the form that most models write as JSON."""
    return [{"name": call.name, "arguments": dict(call.arguments)} for call in calls]
