"""Promises about values that a dialect writes without quotes: the schema decides what a text means."""

from __future__ import annotations

import json
from datetime import date, datetime
from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel, TypeAdapter

from toolrl import ConfigError, Message, ToolCall
from toolrl.chat.dialects import DIALECTS
from toolrl.chat.dialects.values import typed_value

WITH_TEXT_VALUES = ["qwen3-coder", "glm4", "seed-oss", "minimax-m2", "step3", "atem"]


class Place(BaseModel):
    """A place on a map."""

    name: str
    zoom: int = 3


class Color(Enum):
    """Two colours."""

    RED = "red"
    BLUE = "blue"


def decode(kind: Any, text: str) -> Any:
    """The schema as an argument of a tool: pydantic puts definitions at the top of the tool's schema."""
    schema = TypeAdapter(kind).json_schema(ref_template="#/$defs/{model}")
    return typed_value(text, schema, {"$defs": schema.pop("$defs", {}), "properties": {"x": schema}})


TEXT_STAYS = [
    (str, "12345"),
    (str, "null"),
    (str, '"quoted"'),
    (str, '{"a": 1}'),
    (str, " 7 "),
    (str | None, "12345"),
    (str | None, "true"),
    (str | None, "[1]"),
    (str | None, '"quoted"'),
    (str | None, "1e5"),
    (Literal["1", "2"], "1"),
    (Literal["true", "false"], "true"),
    (Literal["1", "2"] | None, "2"),
    (Literal["1"] | bool, "1"),
    (list[int] | str, '["a"]'),
    (Place | str, '{"zoom": 1}'),
    (dict[str, int] | str, '{"a": "b"}'),
    (bool | str, "1"),
    (date, "2026-01-02"),
    (datetime, "2026-01-02T03:04:05"),
    (Color, "red"),
    (Color | None, "7"),
    (int | str, "007"),
    (int | str, "3.0"),
    (int | str | None, "1e3"),
    (int | str, "NaN"),
    (float | str, "1e999"),
    (float | str, "Infinity"),
]
BECOMES = [
    (int, "7", 7),
    (int, " 7\n", 7),
    (int, "1" + "0" * 40, 10**40),
    (float, "7", 7),
    (float, "-1.5e3", -1500.0),
    (bool, "true", True),
    (bool, "False", False),
    (int | None, "7", 7),
    (int | None, "null", None),
    (int | None, "None", None),
    (str | None, "null", None),
    (str | None, "None", None),
    (bool | None, "True", True),
    (Literal["1", "2"] | None, "null", None),
    (int | str, "12345", 12345),
    (int | str, "abc", "abc"),
    (int | None | str, "x", "x"),
    (bool | str, "true", True),
    (Literal[1, 2], "1", 1),
    (Literal["1", 2], "2", 2),
    (dict, '{"a": [1, "2"]}', {"a": [1, "2"]}),
    (dict[str, str], '{"a": "7"}', {"a": "7"}),
    (list[str], '["7", "x"]', ["7", "x"]),
    (list[int], "[]", []),
    (Place, '{"name": "7"}', {"name": "7"}),
    (Place | None, '{"name": "x", "zoom": 1}', {"name": "x", "zoom": 1}),
    (list[Place], '[{"name": "x"}]', [{"name": "x"}]),
    (Place | str, '{"name": "x"}', {"name": "x"}),
    (list[int] | str, "[1, 2]", [1, 2]),
    (Any, "7", 7),
    (Any, "seven", "seven"),
]


@pytest.mark.parametrize(("kind", "text"), TEXT_STAYS, ids=str)
def test_a_text_stays_a_text_where_the_schema_accepts_only_text(kind: Any, text: str) -> None:
    assert decode(kind, text) == text


@pytest.mark.parametrize(("kind", "text", "value"), BECOMES, ids=str)
def test_a_text_is_read_as_json_where_the_schema_accepts_the_value(kind: Any, text: str, value: Any) -> None:
    got = decode(kind, text)
    assert (type(got), got) == (type(value), value)


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": ["string", "null"]}, "12", "12"),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["integer", "string"]}, "12", 12),
        ({"type": "string", "nullable": True}, "12", "12"),
        ({"type": "string", "nullable": True}, "null", None),
        ({"type": "integer", "nullable": True}, "null", None),
        ({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}, '["a"]', ["a"]),
        ({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}, "[1]", "[1]"),
        ({"allOf": [{"$ref": "#/$defs/Id"}], "description": "An id."}, "12", "12"),
        ({"$ref": "#/definitions/Size"}, "12", 12),
        ({"enum": ["1", 2, None]}, "1", "1"),
        ({"enum": ["1", 2, None]}, "2", 2),
        ({"enum": ["1", 2, None]}, "null", None),
        ({"enum": ["a", "b"]}, "3", "3"),
        ({"const": "5"}, "5", "5"),
        ({"const": 5}, "5", 5),
        ({"const": 1}, "true", True),
        ({"type": "string", "pattern": "^[a-z]+$"}, "12", "12"),
        ({"type": "string", "maxLength": 1}, "12", "12"),
        ({"type": "integer", "minimum": 10}, "7", 7),
        ({"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, '["a", 1]', ["a", 1]),
        ({"anyOf": [{"type": "object", "required": ["a"]}, {"type": "string"}]}, '{"b": 1}', '{"b": 1}'),
        ({"anyOf": [{"type": "object", "additionalProperties": False}, {"type": "string"}]}, '{"b": 1}', '{"b": 1}'),
        ({"$ref": "#/$defs/Missing"}, "12", 12),
        ({"$ref": "https://example.com/schema"}, "12", 12),
        ({"$ref": "#/$defs/Loop"}, "12", 12),
        ({"type": "sting"}, "12", 12),
        ({"type": "str"}, "12", "12"),
        ({"type": "any"}, "12", 12),
        ({"type": ["dict", "str"]}, '{"a": 1}', {"a": 1}),
        ({"type": 5, "enum": "ab", "anyOf": {}}, "12", 12),
        (True, "12", 12),
        ({}, '"12"', "12"),
        (None, "x", "x"),
    ],
    ids=str,
)
def test_any_json_schema_is_understood_or_accepts_everything(schema: Any, text: str, value: Any) -> None:
    root = {
        "$defs": {"Id": {"type": "string"}, "Loop": {"$ref": "#/$defs/Loop"}},
        "definitions": {"Size": {"type": "integer"}},
    }
    got = typed_value(text, schema, root)
    assert (type(got), got) == (type(value), value)


@pytest.mark.parametrize("name", WITH_TEXT_VALUES)
def test_all_dialects_of_this_kind_read_values_alike(name: str) -> None:
    parameters = {
        "type": "object",
        "properties": {
            "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "place": {"$ref": "#/$defs/Place"},
            "choice": {"enum": ["1", "2"]},
        },
        "$defs": {"Place": Place.model_json_schema()},
    }
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    call = ToolCall("f", {"maybe": "12345", "place": {"name": "7", "zoom": 2}, "choice": "2"})
    read = DIALECTS[name].parse(DIALECTS[name].format(Message("assistant", "", (call,)), tools), tools)
    assert [(c.name, c.arguments, c.error) for c in read.tool_calls] == [("f", call.arguments, None)]


@pytest.mark.parametrize("name", WITH_TEXT_VALUES)
@pytest.mark.parametrize("value", ["null", "None"])
def test_a_text_that_would_be_read_as_null_is_refused_and_not_changed(name: str, value: str) -> None:
    tools = [{"name": "f", "parameters": {"properties": {"x": {"type": ["string", "null"]}}}}]
    call = Message("assistant", "", (ToolCall("f", {"x": value}),))
    with pytest.raises(ConfigError, match=f"{name!r} cannot write the call"):
        DIALECTS[name].format(call, tools)


def test_other_names_for_types_are_understood() -> None:
    for name in ("str", "STRING", "String", "text", "char", "varchar", "enum"):
        assert typed_value("7", {"type": name}) == "7"
    for name, value in (("dict", {}), ("list", []), ("INTEGER", 7), ("long", 7), ("float", 7), ("Boolean", True)):
        assert typed_value(json.dumps(value), {"type": name}) == value
