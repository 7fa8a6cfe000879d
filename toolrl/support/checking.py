"""Checks of values that users pass: numbers as plain floats, and how a wrong value is shown in an error."""

from __future__ import annotations

import math
from typing import Any


def plain_scalar(value: Any) -> Any:
    """Convert a NumPy scalar or zero-dimensional array to a Python number; return anything else unchanged."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


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
