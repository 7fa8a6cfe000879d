"""Fenced blocks of Markdown, as models write them.

Source: https://spec.commonmark.org/0.31.2/#fenced-code-blocks, but that a fence may be indented as deeply as it likes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_opening = re.compile(
    r"(?:[^`]*:[ \t]*(?=```[ \t]*\w+[ \t]*$))?"  # `Code: ```python`
    r"([ \t]*(?:(?:[-*+]|\d+[.)])[ \t]+)?)(`{3,}(?=[^`]*$)|~{3,})[ \t]*[{.]*([\w+#-]*)"
)


class Block(NamedTuple):
    """One block: its label in lower case, empty if it has none; its content; where both begin and end in the text."""

    label: str
    content: str
    start: int
    end: int


def fenced_blocks(text: str) -> list[Block]:
    """All fenced blocks of a text, in their order. One that nothing closes goes on to the end."""
    blocks: list[Block] = []
    lines: list[str] = []
    opened: re.Match[str] | None = None
    start = position = 0
    for line in text.splitlines(keepends=True):
        if opened is None:
            opened, lines, start = _opening.match(line.rstrip()), [], position
        elif _closes(line, opened[2]):
            blocks.append(_block(opened, lines, start, position + len(line)))
            opened = None
        else:
            lines.append(line)
        position += len(line)
    if opened is not None:
        if lines and lines[-1].rstrip().endswith(opened[2]):
            lines[-1] = lines[-1].rstrip().removesuffix(opened[2])
        blocks.append(_block(opened, lines, start, position))
    return blocks


def _closes(line: str, fence: str) -> bool:
    line = line.strip()
    return len(line) >= len(fence) and not line.strip(fence[0])


def _block(opened: re.Match[str], lines: list[str], start: int, end: int) -> Block:
    width = len(opened[1])
    indented = (line[min(width, len(line) - len(line.lstrip(" \t"))) :] for line in lines)
    return Block(opened[3].lower(), "".join(indented), start, end)
