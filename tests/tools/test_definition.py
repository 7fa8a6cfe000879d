"""Promises about `@tool`: the schema a function gives, the functions it refuses, the arguments it takes."""

from collections.abc import Callable
from typing import Any, Literal, Optional

import pytest

from toolrl import Tool, ToolError, per_episode, per_run, tool
from toolrl.errors import ToolDefinitionError


class Database:
    """A type that JSON cannot express."""


@tool
def look_up(
    name: str,
    count: int = 3,
    ratio: float = 0.5,
    exact: bool = False,
    order: Literal["up", "down"] = "up",
    language: Optional[str] = None,  # noqa: UP045 - the old spelling is a promise too
    tags: list[str] | None = None,
    database: Database = per_episode(Database),
    cache: Database = per_run(Database),
) -> str:
    """Look a name up.

    Use it when the name is known.

    Args:
        name: What to look for.
        count: How many to return.
        ratio: How close.
        exact: Whether case counts.
        order: Which first.
        language: In which language.
        tags: With which tags.
    """
    return name


def properties(entry: Tool) -> dict[str, Any]:
    return dict(entry.schema["function"]["parameters"]["properties"])


# ---- the schema


def test_the_schema_says_what_the_signature_and_the_docstring_say() -> None:
    function = look_up.schema["function"]
    assert look_up.schema["type"] == "function"
    assert function["name"] == "look_up"
    assert function["description"] == "Look a name up.\nUse it when the name is known."
    assert function["parameters"]["type"] == "object"
    assert function["parameters"]["required"] == ["name"]
    assert properties(look_up) == {
        "name": {"type": "string", "description": "What to look for."},
        "count": {"type": "integer", "default": 3, "description": "How many to return."},
        "ratio": {"type": "number", "default": 0.5, "description": "How close."},
        "exact": {"type": "boolean", "default": False, "description": "Whether case counts."},
        "order": {"type": "string", "enum": ["up", "down"], "default": "up", "description": "Which first."},
        "language": {
            "anyOf": [{"type": "string"}, {"type": "null"}],
            "default": None,
            "description": "In which language.",
        },
        "tags": {
            "anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}],
            "default": None,
            "description": "With which tags.",
        },
    }


def test_injected_resources_are_not_in_the_schema_and_cannot_be_passed() -> None:
    assert set(look_up.resources) == {"database", "cache"}
    assert "database" not in str(look_up.schema)
    with pytest.raises(ToolError, match="database: Extra inputs are not permitted"):
        look_up.validate({"name": "x", "database": "mine"})


def test_a_tool_without_parameters_takes_none() -> None:
    @tool
    def now() -> str:
        """Tell the time."""
        return "noon"

    assert now.schema["function"]["parameters"] == {"type": "object", "properties": {}}
    assert now.validate({}) == {}


def test_the_decorator_takes_a_name_and_limits() -> None:
    @tool(name="clock", timeout_seconds=2.0, max_output_characters=10)
    def now() -> str:
        """Tell the time."""
        return "noon"

    assert (now.name, now.timeout_seconds, now.max_output_characters) == ("clock", 2.0, 10)
    assert now.schema["function"]["name"] == "clock"


def test_parameters_may_have_any_name_and_default() -> None:
    """Those of pydantic's own attributes, a leading underscore, and what JSON schema itself uses."""

    @tool
    def odd(json: str, _copy: int = 1, model_config: str = "m", title: str = "t", default: dict[str, str] = {"title": "a"}) -> str:  # noqa: B006, E501  # fmt: skip
        """Do.

        Args:
            json: a
            _copy: b
            model_config: c
            title: d
            default: e
        """
        return json

    assert set(properties(odd)) == {"json", "_copy", "model_config", "title", "default"}
    assert properties(odd)["default"]["default"] == {"title": "a"}
    arguments = {"json": "j", "_copy": 2, "model_config": "c", "title": "x", "default": {}}
    assert odd.validate(arguments) == arguments


# ---- functions that are refused


def no_docstring(x: int) -> str:
    return str(x)


def no_hint(x) -> str:  # type: ignore[no-untyped-def]
    """Do.

    Args:
        x: A number.
    """
    return str(x)


def no_description(x: int, y: int) -> str:
    """Do.

    Args:
        x: A number.
    """
    return str(x + y)


def stars(*x: int) -> str:
    """Do.

    Args:
        x: Numbers.
    """
    return str(x)


def two_stars(**x: int) -> str:
    """Do.

    Args:
        x: Numbers.
    """
    return str(x)


def slash(x: int, /) -> str:
    """Do.

    Args:
        x: A number.
    """
    return str(x)


def slash_resource(x: Database = per_episode(Database), /) -> str:
    """Do."""
    return str(x)


def forgotten_resource(x: Database) -> str:
    """Do.

    Args:
        x: A database that should have been injected.
    """
    return str(x)


def function_argument(x: Callable[[int], int]) -> str:
    """Do.

    Args:
        x: What no JSON can hold.
    """
    return str(x)


def unknown_type(x: "Undefined") -> str:  # type: ignore[name-defined]  # noqa: F821
    """Do.

    Args:
        x: A number.
    """
    return str(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_docstring, "'no_docstring' has no docstring: say in one line what it does"),
        (no_hint, "'no_hint': parameter 'x' has no type hint; add one"),
        (no_description, "'no_description': parameter 'y' is not described; add it to the docstring's Args"),
        (stars, r"'stars': parameter 'x' must be named; remove \* and /"),
        (two_stars, r"'two_stars': parameter 'x' must be named; remove \* and /"),
        (slash, r"'slash': parameter 'x' must be named; remove \* and /"),
        (slash_resource, r"'slash_resource': parameter 'x' must be named; remove \* and /"),
        (forgotten_resource, r"'forgotten_resource': parameter 'x' has a type .*Database.*inject it with per_episode"),
        (function_argument, "'function_argument': parameter 'x' has a type that JSON cannot express"),
        (unknown_type, "'unknown_type': name 'Undefined' is not defined where its type hints are read; import it"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_function_that_cannot_become_a_tool_is_refused_with_what_to_do(function: Any, message: str) -> None:
    with pytest.raises(ToolDefinitionError, match=message):
        tool(function)


# ---- arguments


def test_arguments_are_converted_and_defaults_filled_in() -> None:
    assert look_up.validate({"name": "x", "ratio": 1, "tags": ["a"]}) == {
        "name": "x",
        "count": 3,
        "ratio": 1.0,
        "exact": False,
        "order": "up",
        "language": None,
        "tags": ["a"],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "invalid arguments for look_up: name: Field required"),
        ({"name": 5}, "invalid arguments for look_up: name: Input should be a valid string"),
        ({"name": None}, "name: Input should be a valid string"),
        ({"name": "x", "count": "3"}, "count: Input should be a valid integer"),
        ({"name": "x", "count": 3.5}, "count: Input should be a valid integer"),
        ({"name": "x", "count": True}, "count: Input should be a valid integer"),
        ({"name": "x", "exact": "yes"}, "exact: Input should be a valid boolean"),
        ({"name": "x", "order": "left"}, "order: Input should be 'up' or 'down'"),
        ({"name": "x", "tags": ["a", 1]}, "tags.1: Input should be a valid string"),
        ({"name": "x", "limit": 3}, "limit: Extra inputs are not permitted"),
        ({"count": "3", "ratio": "r"}, "name: Field required; count: Input should be .*; ratio: Input should be"),
        ({"name": "\ud800"}, "arguments: Invalid JSON"),
        (["x"], "arguments: Input should be an object"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_by_name_and_reason(arguments: Any, message: str) -> None:
    with pytest.raises(ToolError, match=message):
        look_up.validate(arguments)
