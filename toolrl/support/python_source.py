"""Parsing Python on several threads."""

from __future__ import annotations

import ast
from typing import Any

_ATTEMPTS = 10


def parse_python(text: str, mode: str = "exec") -> Any:
    """`ast.parse`, again if another thread interfered.

    CPython 3.11 keeps the depth of a parse where all threads change it, and raises SystemError if two of them overlap
    (https://github.com/python/cpython/issues/106905).

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: As `ast.parse` does.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return ast.parse(text, mode=mode)
        except SystemError:
            continue
    return ast.parse(text, mode=mode)
