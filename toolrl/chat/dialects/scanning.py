"""Finds where a call ends: marks inside quoted strings are text. Always takes time linear in the text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

# Patterns of strings. An unclosed string extends to the end of the text, and its group `close...` is empty.
JSON_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?P<close>"?)'
PYTHON_STRING = (
    r'"""(?:[^"\\]|\\.|"(?!""))*+(?P<close1>(?:""")?)'
    r"|'''(?:[^'\\]|\\.|'(?!''))*+(?P<close2>(?:''')?)"
    rf"|{JSON_STRING}"
    r"|'[^'\\]*+(?:\\.[^'\\]*+)*+(?P<close3>'?)"
)


class Scanner:
    """Finds marks outside strings in one text."""

    def __init__(self, text: str, strings: str = JSON_STRING):
        self._text = text
        self._strings = strings
        # Once a string is unclosed, strings are ignored; otherwise each mark could cost a pass over the text.
        self._unbalanced = False

    def find(self, start: int, marks: Sequence[str]) -> tuple[int, str] | None:
        """The first mark outside strings from a position on; the first mark anywhere if a string is not closed."""
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
