"""Calls between an opening and a closing mark, text around them: what most families have in common."""

from __future__ import annotations

import re
from abc import abstractmethod

from toolrl.chat.dialects.base import Dialect
from toolrl.chat.dialects.scanning import JSON_STRING, Scanner
from toolrl.chat.dialects.values import Schemas
from toolrl.types import Message, ToolCall


class BlockDialect(Dialect):
    """Each block is one call, or a list of them.

    Attributes:
        block: The opening and the closing mark.
        openings: Patterns of the openings that are read, each with its closing mark; by default those of `block`.
        joint: What stands between the text and the blocks.
        strings: Pattern of the strings in a block; see `scanning`.
    """

    block: tuple[str, str]
    openings: tuple[tuple[str, str], ...] = ()
    joint: str = ""
    strings: str = JSON_STRING

    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """Split the text at its blocks; a broken one is a call with `error` set."""
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
        """The calls in the block that begins with an opening mark, and where it ends."""
        end, closed = self.end_of(scanner, opening.end(), opening.group(), closing, len(text))
        raw = text[opening.start() : end]
        if not closed:
            return [ToolCall("", error=f"{opening.group()} is not closed with {closing}", raw=raw)], end
        return self.read_block(text[opening.end() : end - len(closing)].strip(), raw, tools), end

    def end_of(self, scanner: Scanner, start: int, opening: str, closing: str, length: int) -> tuple[int, bool]:
        """Where a block ends, and whether it is closed there: a mark inside of a quoted string does not end it."""
        found = scanner.find(start, (closing, opening))
        if found is None:
            return length, False
        return (found[0] + len(closing), True) if found[1] == closing else (found[0], False)

    def write(self, message: Message) -> str:
        """The text first, then each call in a block of its own; malformed ones as they were sampled."""
        blocks = [message.content] if message.content else []
        for call in message.tool_calls:
            blocks.append(call.raw if call.error is not None else self.write_block([call]))
        return self.joint.join(blocks)

    @abstractmethod
    def read_block(self, body: str, raw: str, tools: Schemas) -> list[ToolCall]:
        """The calls in a block."""

    @abstractmethod
    def write_block(self, calls: list[ToolCall]) -> str:
        """A block with one call, or with several where the form has room for them."""
