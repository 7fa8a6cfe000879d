"""JSON of tool calls: strict reading, the shape of a call, and writing without marks inside."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from toolrl.types import ToolCall

# Keys that a call may have besides its name and its arguments.
_BESIDE = {"name", "type", "id", "index", "tool_call_id"}


def load_json(text: str) -> Any:
    """Decode JSON strictly by its standard.

    Raises:
        ValueError: The text is not JSON, has a duplicate name, or a number that JSON does not allow.
        RecursionError: It is nested too deeply.
    """
    return _STRICT.decode(text)


def load_json_at(text: str, start: int) -> tuple[Any, int]:
    """Decode the JSON value that starts at a position; returns it and where it ends.

    Raises:
        ValueError: The text there is not JSON; see `load_json`.
        RecursionError: It is nested too deeply.
    """
    while start < len(text) and text[start] in " \t\r\n":
        start += 1
    return _STRICT.raw_decode(text, start)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


_STRICT = json.JSONDecoder(object_pairs_hook=_pairs, parse_float=_number, parse_constant=_no_number)


def json_call(value: Any, raw: str, keys: tuple[str, str] = ("name", "arguments")) -> ToolCall:
    """Turn a decoded `{"name": str, "arguments": object}` into a call; another shape is an error of the call."""
    name_key, arguments_key = keys
    if not isinstance(value, dict):
        return ToolCall("", error=f'a tool call must be a JSON object with "{name_key}" and "{arguments_key}"', raw=raw)
    name = value.get(name_key)
    if not isinstance(name, str) or not name:
        return ToolCall("", error=f'the tool call has no "{name_key}"', raw=raw)
    if arguments_key not in value and (others := value.keys() - _BESIDE - {name_key}):
        return ToolCall(name, error=f'the tool call has {_quoted(others)} but no "{arguments_key}"', raw=raw)
    arguments = value.get(arguments_key, {})
    if not isinstance(arguments, dict):
        return ToolCall(name, error=f'"{arguments_key}" must be a JSON object', raw=raw)
    return ToolCall(name, arguments, raw=raw)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name[:40]}"' for name in sorted(names)[:3])


def json_calls(
    values: Any, raw: str, keys: tuple[str, str] = ("name", "arguments"), id_key: str = "id"
) -> list[ToolCall]:
    """Read the calls, with their ids, from a decoded list or a single object."""
    values = values if isinstance(values, list) else [values]
    if not values:
        return [ToolCall("", error="the list of tool calls is empty", raw=raw)]
    ids = [value.get(id_key) if isinstance(value, dict) else None for value in values]
    calls = [json_call(value, raw, keys) for value in values]
    return [replace(call, id=id if isinstance(id, str) else "") for call, id in zip(calls, ids, strict=True)]


def named_call(name: str, arguments_text: str, raw: str) -> ToolCall:
    """Read a call whose name is outside the JSON of its arguments."""
    if not name:
        return ToolCall("", error="the tool call has no name", raw=raw)
    try:
        arguments = load_json(arguments_text)
    except (ValueError, RecursionError) as error:
        return ToolCall(name, error=f"the arguments of {name} are not valid JSON: {error}", raw=raw)
    if not isinstance(arguments, dict):
        return ToolCall(name, error=f"the arguments of {name} must be a JSON object", raw=raw)
    return ToolCall(name, arguments, raw=raw)


def write_json_text(value: Any) -> str:
    """JSON on one line, with letters unescaped.

    Raises:
        ValueError: JSON cannot represent the value.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def write_json(value: Any, marks: Sequence[str]) -> str:
    """JSON without marks: their first character is written as an escape of the same meaning.

    Raises:
        ValueError: JSON cannot represent the value.
    """
    text = write_json_text(value)
    for mark in marks:
        text = text.replace(mark, f"\\u{ord(mark[0]):04x}{mark[1:]}")
    return text
