"""Comparisons of a program's results with the expected ones: plain values, compared outside of its process."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

_number = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.ASCII | re.IGNORECASE)
_NUMBERS = (int, float, complex, Fraction)  # bool is an int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rules for comparing values.

    Attributes:
        tolerance: Relative, and absolute below 1, if a float or a printed number with a decimal point is expected.
            0: floats must be equal. NaN equals only NaN.
        number_types: Whether equal values of different types differ. If not, Python's `==` decides: True is 1, a set
            equals a frozenset, and printed numbers are compared as exact decimals.
        sequence_types: Whether a list and a tuple of the same items differ.
    """

    tolerance: float = 0.0
    number_types: bool = True
    sequence_types: bool = True


def same_value(given: Any, expected: Any, how: Comparison | None = None) -> bool:
    """Whether two plain values are deeply equal.

    Args:
        given: The decoded result of the program.
        expected: The expected value. Sets and keys of dicts are compared without a tolerance.
        how: The rules; `Comparison()` by default.
    """
    how = how or Comparison()
    if isinstance(expected, (list, tuple)) and isinstance(given, (list, tuple)):
        if how.sequence_types and type(given) is not type(expected):
            return False
        return len(given) == len(expected) and all(map(lambda a, b: same_value(a, b, how), given, expected))
    alike = (_NUMBERS, (set, frozenset)) if not how.number_types else ()
    if type(given) is not type(expected) and not any(
        isinstance(given, kinds) and isinstance(expected, kinds) for kinds in alike
    ):
        return False
    if isinstance(expected, _NUMBERS):
        return _same_number(given, expected, how.tolerance)
    if isinstance(expected, (set, frozenset)):
        return _same_keys(given, expected, how)
    if isinstance(expected, dict):
        return _same_keys(given, expected, how) and all(same_value(given[k], expected[k], how) for k in expected)
    return bool(given == expected)


def near(given: Any, expected: Any, absolute: float, relative: float = 0.0) -> bool:
    """Whether a value is a number close to the expected one, as in `math.isclose`.

    Args:
        given: The decoded result of the program.
        expected: The expected number.
        absolute: Maximum absolute distance.
        relative: Maximum distance as a share of the larger number; the larger of the two bounds counts.
    """
    if not any(isinstance(given, kind) for kind in _NUMBERS):
        return False
    try:
        distance: float = abs(given - expected)
        return distance <= max(absolute, relative * max(abs(given), abs(expected))) and math.isfinite(distance)
    except OverflowError:  # an integer too large for a float
        return False


def _same_keys(given: Any, expected: Any, how: Comparison) -> bool:
    """Whether keys are equal as sets, and in type if types count: to Python, 1, 1.0 and True are one key."""
    if len(given) != len(expected):
        return False
    exact = Comparison(0.0, how.number_types, how.sequence_types)
    own = {key: key for key in given}
    return all(key in own and same_value(own[key], key, exact) for key in expected)


def _same_number(given: Any, expected: Any, tolerance: float) -> bool:
    if given == expected or (given != given and expected != expected):
        return True
    if isinstance(expected, complex) and isinstance(given, complex):
        return all(_same_number(getattr(given, p), getattr(expected, p), tolerance) for p in ("real", "imag"))
    if not tolerance or not isinstance(expected, float) or isinstance(given, complex):
        return False
    try:
        return math.isfinite(given) and abs(given - expected) <= tolerance * max(1.0, abs(expected))
    except OverflowError:  # an integer too large for a float
        return False


def same_output(given: str, expected: str, how: Comparison | None = None) -> bool:
    """Whether two printed texts have the same lines, apart from surrounding white space.

    If types do not count, lines of numbers are compared as exact decimals, as in LiveCodeBench (`20.0` equals `20`;
    `1000000001.0` does not equal `1000000000`). With a tolerance, lines are compared word by word.

    Args:
        given: The output of the program.
        expected: The expected output.
        how: The rules; `Comparison()` by default.
    """
    how = how or Comparison()
    ours, theirs = ([line.strip() for line in text.strip().split("\n")] for text in (given, expected))
    return len(ours) == len(theirs) and all(_same_line(*pair, how) for pair in zip(ours, theirs, strict=True))


def _same_line(given: str, expected: str, how: Comparison) -> bool:
    if given == expected:
        return True
    words = given.split(), expected.split()
    if len(words[0]) != len(words[1]) or (how.number_types and not how.tolerance):
        return False
    if not (how.tolerance or all(map(_number.fullmatch, (*words[0], *words[1])))):
        return False
    return all(_same_word(*pair, how) for pair in zip(*words, strict=True))


def _same_word(given: str, expected: str, how: Comparison) -> bool:
    if given == expected:
        return True
    if not (_number.fullmatch(given) and _number.fullmatch(expected)):
        return False
    try:
        if not how.number_types and Decimal(given) == Decimal(expected):
            return True
    except ArithmeticError:  # an exponent too large for a decimal
        return False
    return "." in expected and _same_number(float(given), float(expected), how.tolerance)
