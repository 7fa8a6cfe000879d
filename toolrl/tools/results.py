"""A tool's return value as text for the model: text unchanged, anything else as JSON.

Plain values, containers, records (dataclasses, models, named tuples, rows), NumPy numbers and arrays, frames, enums,
dates, paths and anything else with a readable `str` are converted. Anything without one (a generator, a function, a
picture, an object that Python shows by its address) is a bug in the tool: the model could not read it, and the run
would not be reproducible.
"""

from __future__ import annotations

import array
import dataclasses
import datetime
import decimal
import enum
import inspect
import json
import math
import re
import types
from collections import UserString
from collections.abc import Iterable, Iterator, Mapping, MappingView, Sequence, Set
from typing import Any

MAX_DEPTH = 100  # deeper values become "..."
MAX_VALUES = 100_000
_MAX_ROWS = 1000  # of a frame
_MAX_INTEGER_BITS = 400_000  # about 120,000 digits
_JSON_INTEGER_BITS = 10_000  # below the 4,300 digits that Python converts
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{4,}")
_PICTURES = ("_repr_png_", "_repr_jpeg_", "savefig", "get_figure", "write_image")
_NOT_DATA = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.CodeType)


def as_text(output: Any, tool: str = "") -> str:
    """A tool's return value as the model sees it.

    Lone surrogates, which no tokenizer can encode, become visible escapes.

    Raises:
        TypeError: It has no readable text; the message names the tool.
    """
    what = f"tool {tool!r} returned" if tool else "a tool returned"
    value = _Plain(what).of(output)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()


class _Plain:
    """Converts values to the types of JSON, with NaN and infinities as Python writes them."""

    def __init__(self, what: str):
        self._what = what
        self._count = 0
        self._above: set[int] = set()  # ids of the containers of the current value

    def of(self, value: Any) -> Any:
        self._count += 1
        if self._is_full:
            return "..."
        if isinstance(value, enum.Enum):
            value = value.value
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            return _integer(int(value))
        if isinstance(value, float):
            return float(value)
        if id(value) in self._above:
            raise TypeError(f"{self._what} a {_name(value)} that contains itself; return the part that the model needs")
        if len(self._above) >= MAX_DEPTH:
            return "..."
        self._above.add(id(value))
        try:
            return self._compound(value)
        finally:
            self._above.discard(id(value))

    @property
    def _is_full(self) -> bool:
        """Whether the limit is reached. This is not an error: the model may have chosen how much there is."""
        return self._count > MAX_VALUES

    def _items(self, values: Iterable[Any]) -> list[Any]:
        items = []
        for value in values:
            items.append(self.of(value))
            if self._is_full:
                break
        return items

    def _compound(self, value: Any) -> Any:
        # Ask the class, not the object: some objects have every attribute.
        kind = type(value)
        self._refuse_non_data(value)
        if hasattr(kind, "to_string") and hasattr(kind, "to_dict"):  # a frame or a series
            return str(value.to_string(max_rows=_MAX_ROWS))
        if hasattr(kind, "dtype") and hasattr(kind, "tolist"):  # NumPy and PyTorch
            if math.prod(value.shape) > MAX_VALUES:
                return str(value)
            if getattr(value.dtype, "kind", "") in ("M", "m"):  # times, which `tolist` would turn into nanoseconds
                value = value.astype(str)
            plain = value.tolist()
            return str(value) if type(plain) is kind else self.of(plain)
        if hasattr(kind, "model_dump"):  # a pydantic model
            return self.of(value.model_dump())
        if dataclasses.is_dataclass(value):
            return self._mapping({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
        if hasattr(kind, "__attrs_attrs__"):
            return self._mapping({one.name: getattr(value, one.name) for one in kind.__attrs_attrs__})
        if isinstance(value, tuple) and hasattr(kind, "_asdict"):
            return self._mapping(value._asdict())  # type: ignore[attr-defined] # a named tuple
        if isinstance(value, types.SimpleNamespace):
            return self._mapping(vars(value))
        if isinstance(value, Mapping):
            return self._mapping(value)
        if hasattr(kind, "keys") and hasattr(kind, "__getitem__"):  # an SQLite row
            return self._mapping({key: value[key] for key in value.keys()})  # noqa: SIM118 - not a mapping
        if isinstance(value, (bytes, bytearray, memoryview)):
            return _bytes(bytes(value))
        if isinstance(value, Set) and not isinstance(value, MappingView):
            # Their order differs between runs.
            return sorted(self._items(value), key=lambda item: (str(type(item)), json.dumps(item)))
        if isinstance(value, (Sequence, MappingView, array.array)) and not isinstance(value, UserString):
            return self._items(value)  # type: ignore[arg-type] # all views are iterable
        if kind.__name__ == "NAType":  # pandas.NA
            return None
        if isinstance(value, (datetime.date, datetime.time)):
            return value.isoformat()
        return self._words(value)

    def _mapping(self, mapping: Mapping[Any, Any]) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key, item in mapping.items():
            name = self.of(key)
            name = name if isinstance(name, str) else json.dumps(name, ensure_ascii=False)
            if name in plain:
                raise TypeError(f"{self._what} a {_name(mapping)} with two keys that are both written {name!r}")
            plain[name] = self.of(item)
            if self._is_full:
                break
        return plain

    def _refuse_non_data(self, value: Any) -> None:
        if isinstance(value, (Iterator, types.AsyncGeneratorType)) or hasattr(type(value), "__anext__"):
            raise TypeError(f"{self._what} a {_name(value)}, which has not been read; return a list or text")
        if inspect.isawaitable(value):
            raise TypeError(f"{self._what} a {_name(value)} inside its result; await it, and return what it gives")
        if isinstance(value, _NOT_DATA):
            raise TypeError(f"{self._what} {value!r}, which is not data; return text or plain values")
        if any(hasattr(type(value), name) for name in _PICTURES):
            raise TypeError(
                f"{self._what} a picture ({_name(value)}), which the model cannot see; return text about it"
            )

    def _words(self, value: Any) -> str:
        """The `str` of an object, if it says something about its value."""
        kind: Any = type(value)
        text = str(value)
        # By convention, a repr in angle brackets describes the object rather than its value.
        silent = kind.__str__ is object.__str__ and text.startswith("<") and text.endswith(">")
        if silent or _ADDRESS.search(text):
            raise TypeError(
                f"{self._what} a {_name(value)}, which has no readable text; return text or plain values, or give "
                "the class a __str__"
            )
        return text


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _integer(value: int) -> int | str:
    """Keep an integer, or write it as text if Python would refuse to convert it."""
    bits = value.bit_length()
    if bits <= _JSON_INTEGER_BITS:
        return value
    if bits > _MAX_INTEGER_BITS:
        return f"(an integer of some {int(bits * math.log10(2)):,} digits)"
    return format(decimal.Decimal(value), "f")


def _bytes(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"({len(value)} bytes that are not text)"
