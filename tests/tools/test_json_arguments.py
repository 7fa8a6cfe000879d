"""Arguments that a JSON schema describes: shown as they are, checked before the tool is called."""

from __future__ import annotations

from typing import Any

import pytest

from toolrl import ToolError
from toolrl.audit.schemas import dummy_arguments, text_arguments
from toolrl.errors import ToolDefinitionError
from toolrl.tools.definition import Tool
from toolrl.tools.json_arguments import json_arguments

TREE = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "title": "Tree",
    "properties": {
        "kind": {"type": "string", "title": "Kind", "pattern": r"^\p{L}+$"},
        "height": {"type": ["number", "null"], "exclusiveMinimum": 0},
        "branch": {"$ref": "#/definitions/branch"},
        "anything": True,
    },
    "required": ["kind", "branch", "unlisted"],
    "additionalProperties": {"type": "integer"},
    "definitions": {"branch": {"type": "object", "properties": {"branch": {"$ref": "#/definitions/branch"}}}},
}


def make(schema: dict[str, Any]) -> Tool:
    return Tool("plant", "Plant.", lambda arguments: arguments, json_arguments("plant", schema), {})


def test_the_schema_is_shown_without_what_costs_tokens_and_says_nothing() -> None:
    shown = make(TREE).schema["function"]["parameters"]
    assert shown["properties"]["kind"] == {"type": "string", "pattern": r"^\p{L}+$"}
    assert not {"$schema", "title"} & shown.keys()
    assert shown["definitions"] == TREE["definitions"]


def test_arguments_that_fit_are_passed_on_as_they_are() -> None:
    arguments = {"kind": "Öl", "height": None, "branch": {"branch": {}}, "anything": [1], "unlisted": 3, "self": 4}
    assert make(TREE).validate(arguments) == {"arguments": arguments}


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({}, "arguments: 'kind' is a required property; arguments: 'branch' is"),
        ({"kind": "a1"}, r"kind: 'a1' does not match '\^"),
        ({"height": 0}, "height: 0 is less than or equal to the minimum of 0"),
        ({"branch": {"branch": {"branch": "leaf"}}}, r"branch\.branch\.branch: 'leaf' is not of type 'object'"),
        ({"leaves": "many"}, "leaves: 'many' is not of type 'integer'"),
        ({"height": float("nan")}, "a number is not finite"),
        ({"kind": "\ud800"}, "half a surrogate pair"),
    ],
)
def test_each_problem_is_named(wrong: dict[str, Any], problem: str) -> None:
    good = {"kind": "oak", "branch": {}, "unlisted": 1}
    with pytest.raises(ToolError, match=f"invalid arguments for plant: .*{problem}"):
        make(TREE).validate({**good, **wrong} if wrong else {})


def test_arguments_cannot_make_a_bad_pattern_run_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolrl.tools.json_arguments._PATTERN_SECONDS", 0.01)
    bad = make({"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a|aa)+$"}}})
    with pytest.raises(ToolError, match="takes too long to compare with"):
        bad.validate({"a": "a" * 60 + "b"})


def test_what_cannot_be_checked_is_left_to_the_server() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "https://example.com/a"}, "b": {"pattern": "("}}}
    assert make(schema).validate({"a": 1, "b": "x"}) == {"arguments": {"a": 1, "b": "x"}}


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "array"}, "must be that of an object, got 'array'"),
        ({"type": "object", "required": "all"}, "is invalid: 'all' is not of type 'array'"),
        ({"type": "object", "default": float("nan")}, "is not JSON"),
        ({"type": "object", "anyOf": [{"$ref": "#"}]}, "refers to itself without end"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema: dict[str, Any], problem: str) -> None:
    with pytest.raises(ToolDefinitionError, match=f"tool 'plant': its schema {problem}"):
        make(schema)


def test_the_audit_can_call_a_tool_whatever_its_schema() -> None:
    schema = make(TREE).schema
    assert dummy_arguments(schema) == {"kind": "1", "branch": {}, "unlisted": "1"}
    assert [arguments["kind"] for arguments in text_arguments(schema, "birch")] == ["birch"]
    endless = make({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}}).schema
    assert dummy_arguments(endless).keys() == {"a"}
