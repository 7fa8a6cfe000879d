"""Where a call ends: marks inside of quoted strings are text. Takes time linear in the text, whatever is in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

# Patterns of strings. A string that is not closed goes to the end of the text, and its group `close...` is empty.
JSON_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?P<close>"?)'
PYTHON_STRING = (
    r'"""(?:[^"\\]|\\.|"(?!""))*+(?P<close1>(?:""")?)'
    r"|'''(?:[^'\\]|\\.|'(?!''))*+(?P<close2>(?:''')?)"
    rf"|{JSON_STRING}"
    r"|'[^'\\]*+(?:\\.[^'\\]*+)*+(?P<close3>'?)"
)


class Scanner:
    """Finds marks outside of strings in one text."""

    def __init__(self, text: str, strings: str = JSON_STRING):
        """Take the text and the pattern of strings."""
        self._text = text
        self._strings = strings
        self._unbalanced = False  # if strings are, once, only marks are looked for: else each mark could cost the text

    def find(self, start: int, marks: Sequence[str]) -> tuple[int, str] | None:
        """The first mark after a position that stands outside of strings; the first at all if these do not close."""
        if not self._unbalanced:
            for match in _pattern(tuple(marks), self._strings).finditer(self._text, start):
                if match.lastgroup == "mark":
                    return match.start(), match.group()
                if not match[match.lastgroup or 0]:
                    self._unbalanced = True
                    break
            else:
                return None
        plain = re.compile("|".join(map(re.escape, marks))).search(self._text, start)
        return (plain.start(), plain.group()) if plain else None


@lru_cache(256)
def _pattern(marks: tuple[str, ...], strings: str) -> re.Pattern[str]:
    longest_first = sorted(marks, key=len, reverse=True)
    return re.compile(f"(?P<mark>{'|'.join(map(re.escape, longest_first))})|{strings}", re.DOTALL)


def skip_space(text: str, position: int) -> int:
    """The position of the next character that is not white space, or the text's length."""
    while position < len(text) and text[position].isspace():
        position += 1
    return position
