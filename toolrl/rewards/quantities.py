"""Numbers with units: `5 cm` equals `0.05 m`, but not `5 m`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from toolrl.errors import ConfigError

# The factor to the first unit of the dimension. Temperatures are not converted between scales: that takes an offset,
# which differs between a temperature and a difference of temperatures.
UNITS: dict[str, dict[str, float]] = {
    "length": {
        "m": 1.0, "km": 1e3, "dm": 0.1, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "nm": 1e-9,
        "inch": 0.0254, "ft": 0.3048, "yd": 0.9144, "mi": 1609.344,
    },
    "mass": {"g": 1.0, "kg": 1e3, "mg": 1e-3, "t": 1e6, "lb": 453.59237, "oz": 28.349523125},
    "time": {"s": 1.0, "ms": 1e-3, "min": 60.0, "h": 3600.0, "day": 86400.0, "week": 604800.0},
    "celsius": {"°C": 1.0},
    "fahrenheit": {"°F": 1.0},
    "kelvin": {"K": 1.0, "mK": 1e-3},
    "angle": {"°": 1.0},
    "share": {"%": 1.0},
}  # fmt: skip

_WORDS = {
    "meter": "m", "metre": "m", "kilometer": "km", "kilometre": "km", "centimeter": "cm", "centimetre": "cm",
    "millimeter": "mm", "millimetre": "mm", "decimeter": "dm", "decimetre": "dm", "micrometer": "um", "µm": "um",
    "μm": "um", "nanometer": "nm", "in": "inch", "inches": "inch", "foot": "ft", "feet": "ft", "yard": "yd",
    "mile": "mi", "gram": "g", "kilogram": "kg", "milligram": "mg", "tonne": "t", "pound": "lb", "lbs": "lb",
    "ounce": "oz", "second": "s", "sec": "s", "millisecond": "ms", "minute": "min", "mins": "min", "hour": "h",
    "hr": "h", "hrs": "h", "degree": "°", "degrees celsius": "°C", "degrees fahrenheit": "°F", "kelvin": "K",
    "percent": "%", "per cent": "%", "pct": "%", "percentage": "%",
}  # fmt: skip

_DIMENSION = {unit: dimension for dimension, units in UNITS.items() for unit in units}
_POWERS = {"square": 2, "sq": 2, "sq.": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_power = re.compile(
    r"(?:(?P<before>square|sq\.?|cubic|cu\.?)\s+)?(?P<unit>.+?)(?:\s*\^\s*\{?\s*(?P<power>-?[1-4])\s*\}?|\s+(?P<after>squared|cubed))?",
    re.IGNORECASE,
)
_quantity = re.compile(
    r"([-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d{1,3})?)\s*(.*)", re.ASCII | re.DOTALL
)
_latex = (
    (re.compile(r"\\(?:text|mathrm|textrm|mbox)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree|\\circ"), "°"),
    (re.compile(r"\\[,;! ]|~"), " "),
    (re.compile(r"\\%"), "%"),
    (re.compile("−"), "-"),
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with a unit.

    Attributes:
        value: The number as written.
        unit: A name in `UNITS`; empty for a bare number.
    """

    value: float
    unit: str = ""

    @property
    def dimension(self) -> str:
        """The dimension of the unit; empty for a bare number."""
        return _DIMENSION.get(self.unit, "")

    @property
    def in_base_unit(self) -> float:
        """The value in the first unit of its dimension."""
        return self.value * UNITS[self.dimension][self.unit] if self.unit else self.value


def parse_quantity(text: str) -> Quantity | None:
    r"""Read a number and its unit, in plain text or LaTeX (`5\text{ cm}`); None for any other text."""
    text = " ".join(text.split())  # keeps the patterns below linear
    for pattern, plain in _latex:
        text = pattern.sub(plain, text)
    match = _quantity.fullmatch(text.strip())
    if match is None or not any(character.isdigit() for character in match[1]):
        return None
    unit = _unit(" ".join(match[2].split()))
    value = float(match[1].replace(",", ""))
    return None if unit is None or not math.isfinite(value) else Quantity(value, unit)


def quantities_equal(answer: str, expected: Any, tolerance: float = 1e-6, *, unit_needed: bool = False) -> bool:
    """Whether a number with a unit equals the expected one, in any unit of the same dimension.

    Args:
        answer: The answer as text. A bare number is taken to be in the expected unit, unless `unit_needed`.
        expected: A number, or its text, with or without a unit. Without one, an answer that has a unit is wrong.
        tolerance: Relative.
        unit_needed: Whether an answer without a unit is wrong.
    """
    given, wanted = parse_quantity(answer), parse_quantity(str(expected))
    if given is None or wanted is None:
        return False
    if not given.unit and wanted.unit and not unit_needed:
        given = Quantity(given.value, wanted.unit)
    if given.dimension != wanted.dimension:
        return False
    return math.isclose(given.in_base_unit, wanted.in_base_unit, rel_tol=tolerance)


def unit_of(text: str) -> tuple[str, Fraction] | None:
    """The dimension of a unit, and its factor to base units; also for compounds such as `m/s^2` or `square cm`.

    Returns:
        None if the unit is unknown.
    """
    text = re.sub(r"\\[,;! ]|~", " ", text.strip())
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree|\\circ", "°", text).replace("²", "^2").replace("³", "^3")
    text = re.sub(r"\b(mph|kmph|kph)\b", lambda match: {"mph": "mi/h"}.get(match[1], "km/h"), text)
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for index, part in enumerate(re.split(r"\s*/\s*|\s+per\s+", text)):
        sign = -1 if index else 1
        for piece in re.split(r"\s*[*·]\s*", part):
            match = _power.fullmatch(piece.strip())
            unit = _unit(match["unit"].strip()) if match else None
            if not match or not unit:
                return None
            power = (
                int(match["power"] or _POWERS.get((match["before"] or match["after"] or "").strip().lower(), 1)) * sign
            )
            dimension = _DIMENSION[unit]
            powers[dimension] = powers.get(dimension, 0) + power
            factor *= Fraction(str(UNITS[dimension][unit])) ** power
    return " ".join(f"{name}^{power}" for name, power in sorted(powers.items()) if power), factor


def within(tolerance: float, *, unit_needed: bool = False) -> Callable[[str, Any], bool]:
    """Make a `quantities_equal` with this tolerance, for `answer_reward`.

    Raises:
        ConfigError: `tolerance` is not within [0, 1).
    """
    if not 0 <= tolerance < 1:
        raise ConfigError(f"tolerance must be within [0, 1), got {tolerance}")
    return lambda answer, expected: quantities_equal(answer, expected, tolerance, unit_needed=unit_needed)


def any_of(equal: Callable[[str, Any], bool]) -> Callable[[str, Any], bool]:
    """Make a comparison accept a list of right answers, of which one must match."""

    def equal_to_one(answer: str, expected: Any) -> bool:
        is_list = isinstance(expected, Iterable) and not isinstance(expected, str)
        return any(equal(answer, one) for one in (expected if is_list else [expected]))

    return equal_to_one


def _unit(text: str) -> str | None:
    """The name of a unit in `UNITS`; empty for an empty text, None if the unit is unknown."""
    if text in ("", *_DIMENSION):
        return text
    text = text.replace("° ", "°").rstrip(".")
    if text in _DIMENSION:
        return text
    text = text.lower()
    for name in (text, text.removesuffix("s")):
        if name in _WORDS:
            return _WORDS[name]
        if len(name) > 2 and name in _DIMENSION:  # days, weeks
            return name
    return None
