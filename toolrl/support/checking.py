"""Checks of values that users pass: numbers as plain floats, and how a wrong value is shown in an error."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any


def plain_scalar(value: Any) -> Any:
    """Convert a NumPy scalar or zero-dimensional array to a Python number; return anything else unchanged."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


_FACT_CHARACTERS = 200
_FACT_NUMBER = 2**53  # queries compare floats, which are exact up to here


def plain_fact(value: Any) -> bool | int | float | str | None:
    """A value that is recorded as a fact, as a plain one: a short text, a number, a boolean; None for anything else."""
    value = plain_scalar(value)
    value = value.value if isinstance(value, Enum) else value
    if isinstance(value, str):
        return value if len(value) <= _FACT_CHARACTERS else None
    return value if isinstance(value, (bool, int, float)) and -_FACT_NUMBER <= value <= _FACT_NUMBER else None


def finite(name: str, number: Any) -> float:
    """Convert a number to a float; anything with `__float__` will do, but not text.

    Raises:
        TypeError: It is not a number.
        ValueError: It is not finite.
    """
    try:
        if isinstance(number, (str, bytes)):
            raise TypeError
        value = float(number)
    except OverflowError:
        value = math.inf
    except (TypeError, ValueError):
        if number is None:
            raise ValueError(f"{name} must be finite, got None") from None
        raise TypeError(f"{name} must be a number, got {shown(number)}") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {shown(number)}")
    return value


def shown(value: Any) -> str:
    """Show a value of the wrong type in an error: its beginning and its type."""
    if value is None:
        return "None"
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than Python prints
        text = "a huge number"
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"
