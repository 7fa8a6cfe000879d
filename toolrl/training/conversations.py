"""A row of demonstrations as messages and tools, without the nulls that Arrow fills in.

Arrow has one type for a column: in a Parquet file, a data set on the hub or a `datasets.Dataset`, the arguments of
every call have the keys of all calls, and every schema those of all schemas, with null where a row had nothing. Learnt
from, they teach `{"code": "1+1", "query": null}`. What a tool's schema does not allow was never an argument and is left
out; rows of `toolrl demos` hold the arguments and schemas as JSON text too, which is exact.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from toolrl.chat.wire import from_wire
from toolrl.types import Message

Json = Mapping[str, Any]

# A key of these holds what an author chose, null included.
_VALUES = ("default", "const")
_DEPTH = 20  # of references that lead to each other


def read_conversation(row: Json, *, filled: bool = False) -> tuple[list[Message], list[dict[str, Any]]]:
    """Read a row's messages and its tools' schemas.

    Args:
        row: `messages`, and perhaps `tools`: a list of schemas, or of their JSON texts, or the JSON text of the list.
            Arguments may be objects or JSON text, which is taken as it is.
        filled: Whether the row comes from Arrow, so that a null for a parameter that may be left out was most likely
            filled in. Elsewhere it is kept where the schema allows it.

    Raises:
        KeyError, TypeError, ValueError: It is no conversation.
    """
    tools = [_tool(tool) for tool in _decoded(row.get("tools_json") or row.get("tools")) or ()]
    parameters = {tool["function"].get("name"): tool["function"].get("parameters") or {} for tool in tools}
    messages = [_wire(message) for message in _decoded(row["messages"])]
    calls = [call["function"] for message in messages for call in message.get("tool_calls") or ()]
    exact = row.get("arguments_json") or ()
    for number, function in enumerate(calls):
        if len(exact) == len(calls):
            function["arguments"] = exact[number]
        elif isinstance(function.get("arguments"), Mapping):
            schema = parameters.get(function.get("name"))
            known = schema if schema is not None else {}
            function["arguments"] = _Arguments(known, filled).of(function["arguments"], known)
    return [from_wire(message) for message in messages], tools


def _decoded(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _wire(message: Any) -> dict[str, Any]:
    """A message of its own, with its calls as objects."""
    message = dict(_decoded(message))
    calls = []
    for call in _decoded(message.get("tool_calls")) or ():
        call = _decoded(call)
        function = _decoded(call.get("function")) or {key: call.get(key) for key in ("name", "arguments")}
        calls.append({**call, "function": dict(function)})
    return {**message, "tool_calls": calls}


def _tool(tool: Any) -> dict[str, Any]:
    """A schema in the form that chat templates expect, without nulls."""
    tool = {key: value for key, value in _decoded(tool).items() if value is not None}
    if "function" not in tool:
        tool = {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
    function = {key: value for key, value in _decoded(tool["function"]).items() if value is not None}
    if "parameters" in function:
        function["parameters"] = without_nulls(_decoded(function["parameters"]))
    return {**tool, "function": function}


def without_nulls(schema: Any, *, required: bool = False) -> Any:
    """A schema without the keys that are null, but for a default of null where null is allowed and may be left out."""
    if isinstance(schema, Mapping):
        needed = schema.get("required") or ()
        plain: dict[str, Any] = {}
        for key, value in schema.items():
            if value is None:
                if key in _VALUES and _allows_null(schema, schema) and not (key == "default" and required):
                    plain[key] = None
            elif key in ("properties", "$defs", "definitions", "patternProperties") and isinstance(value, Mapping):
                plain[key] = {
                    name: without_nulls(item, required=name in needed)
                    for name, item in value.items()
                    if item is not None
                }
            else:
                plain[key] = value if key in (*_VALUES, "enum", "examples") else without_nulls(value)
        return plain
    return [without_nulls(item) for item in schema] if isinstance(schema, list) else schema


class _Arguments:
    """Leaves nulls out of the arguments of one call."""

    def __init__(self, root: Json, filled: bool):
        self._root = root
        self._filled = filled

    def of(self, value: Any, schema: Any) -> Any:
        if isinstance(value, list):
            return [self.of(item, self._first(schema, "items")) for item in value]
        if not isinstance(value, Mapping):
            return value
        known = self._object(value, schema)
        properties, needed = known.get("properties") or {}, known.get("required") or ()
        others = known.get("additionalProperties", {} if not properties else False)
        kept = {}
        for key, item in value.items():
            inner = properties.get(key, others)
            if item is None:
                fits = inner is not False and _allows_null(inner, self._root)
                if not fits or (self._filled and key not in needed):
                    continue
            kept[key] = self.of(item, inner)
        return kept

    def _first(self, schema: Any, key: str) -> Any:
        return next((option[key] for option in _options(schema, self._root) if option.get(key) is not None), {})

    def _object(self, value: Json, schema: Any) -> Json:
        """Which of a schema's options an object was written by: that which knows most of its keys."""
        options = [o for o in _options(schema, self._root) if "properties" in o or "additionalProperties" in o]
        given = {key for key, item in value.items() if item is not None}
        return max(options, key=lambda option: len(given & set(option.get("properties") or ())), default={})


def _options(schema: Any, root: Json, depth: int = 0) -> Iterator[Json]:
    """A schema, and what its references and unions lead to."""
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return
    yield schema
    if isinstance(reference := schema.get("$ref"), str):
        target: Any = root
        for part in reference.removeprefix("#/").split("/"):
            target = target.get(part, {}) if isinstance(target, Mapping) else {}
        yield from _options(target, root, depth + 1)
    for union in ("anyOf", "oneOf", "allOf"):
        for option in schema.get(union) or ():
            yield from _options(option, root, depth + 1)


def _allows_null(schema: Any, root: Json) -> bool:
    if not isinstance(schema, Mapping):
        return schema is not False
    options = list(_options(schema, root))
    if all(not (set(option) - {"description", "title", "default", "examples"}) for option in options):
        return True  # anything
    return any(_names_null(option) for option in options)


def _names_null(schema: Json) -> bool:
    types: Sequence[Any] = schema["type"] if isinstance(schema.get("type"), list) else [schema.get("type")]
    in_enum = isinstance(schema.get("enum"), list) and None in schema["enum"]
    return "null" in types or in_enum or bool(schema.get("nullable"))
