"""Comparing what a program gave with what is right: plain values, on our side, with our own rules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Comparison:
    """How values are compared; a bool is never a number.

    Attributes:
        tolerance: Relative, and absolute below 1, of floats. 0: equal floats only. NaN equals NaN alone.
        number_types: Whether an int and a float of the same value differ.
        sequence_types: Whether a list and a tuple of the same items differ.
    """

    tolerance: float = 0.0
    number_types: bool = True
    sequence_types: bool = True


def same_value(given: Any, expected: Any, how: Comparison | None = None) -> bool:
    """Whether two plain values are equal in type and value, all through.

    Args:
        given: What the program returned, decoded.
        expected: What is right. Sets and the keys of dicts are compared without a tolerance.
        how: The rules; `Comparison()` if None.
    """
    how = how or Comparison()
    if isinstance(expected, (list, tuple)) and isinstance(given, (list, tuple)):
        if how.sequence_types and type(given) is not type(expected):
            return False
        return len(given) == len(expected) and all(map(lambda a, b: same_value(a, b, how), given, expected))
    if type(given) in (int, float) and type(expected) in (int, float):
        if how.number_types and type(given) is not type(expected):
            return False
        return _same_number(given, expected, how.tolerance)
    if type(given) is not type(expected):
        return False
    if isinstance(expected, complex):
        return all(_same_number(getattr(given, p), getattr(expected, p), how.tolerance) for p in ("real", "imag"))
    if isinstance(expected, (set, frozenset)):
        return _same_keys(given, expected, how)
    if isinstance(expected, dict):
        return _same_keys(given, expected, how) and all(same_value(given[k], expected[k], how) for k in expected)
    return bool(given == expected)


def _same_keys(given: Any, expected: Any, how: Comparison) -> bool:
    """Equal as sets, and each pair of equals of one type: 1, 1.0 and True are one key to Python."""
    if len(given) != len(expected):
        return False
    exact = Comparison(0.0, how.number_types, how.sequence_types)
    own = {key: key for key in given}
    return all(key in own and same_value(own[key], key, exact) for key in expected)


def _same_number(given: float, expected: float, tolerance: float) -> bool:
    if given == expected or (given != given and expected != expected):
        return True
    if not tolerance or (type(given) is int and type(expected) is int):
        return False
    try:
        return math.isfinite(given) and abs(given - expected) <= tolerance * max(1.0, abs(expected))
    except OverflowError:  # an integer that no float can hold
        return False


def same_output(given: str, expected: str, tolerance: float = 0.0) -> bool:
    """Whether two printed texts are equal but for white space at the ends of lines and empty lines at the end.

    Args:
        given: What the program printed.
        expected: What is right.
        tolerance: As in `Comparison`, for words that are numbers with a decimal point.
    """
    lines = [[line.rstrip() for line in text.rstrip().splitlines()] for text in (given, expected)]
    if lines[0] == lines[1]:
        return True
    if not tolerance or len(lines[0]) != len(lines[1]):
        return False
    words = [[line.split() for line in text] for text in lines]
    return all(
        len(ours) == len(theirs) and all(_same_word(*pair, tolerance) for pair in zip(ours, theirs, strict=True))
        for ours, theirs in zip(*words, strict=True)
    )


def _same_word(given: str, expected: str, tolerance: float) -> bool:
    if given == expected:
        return True
    try:
        return (
            "." in expected and math.isfinite(float(given)) and _same_number(float(given), float(expected), tolerance)
        )
    except ValueError:
        return False
