"""Arguments for tools of which only the schemas are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

CODE_NAMES = ("code", "source", "program", "script", "python")
COMMAND_NAMES = ("command", "cmd", "commands", "bash", "shell", "keystrokes", "line")
_MAX_DEPTH = 16
_QUERY_NAMES = ("query", "q", "search", "question", "keywords", "text")


def dummy_arguments(schema: Mapping[str, Any], text: str = "1", number: float = 1) -> dict[str, Any]:
    """The required arguments of a tool, as plain as its schema allows.

    Args:
        schema: A `Tool.schema`.
        text: The value of text parameters without an enum.
        number: The value of numeric parameters.
    """
    parameters = schema["function"]["parameters"]
    return {name: _value(one, parameters, text, number) for name, one in _required(parameters)}


def text_arguments(schema: Mapping[str, Any], text: str) -> list[dict[str, Any]]:
    """The required arguments of a tool, once for each text parameter, with `text` as its value."""
    properties = schema["function"]["parameters"]["properties"]
    texts = [name for name, one in properties.items() if _is_text(one)]
    return [{**dummy_arguments(schema), name: text} for name in texts]


def find_parameter(
    schemas: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> tuple[str, Callable[[str], Any]] | None:
    """The first tool with a text parameter of one of these names, and a function from text to its arguments."""
    for schema in schemas:
        function = schema["function"]
        for name, parameter in function["parameters"]["properties"].items():
            if name.lower() in names and _is_text(parameter):
                others = dummy_arguments(schema)
                return function["name"], lambda text, name=name, others=others: {**others, name: text}
    return None


def find_code_tool(schemas: Sequence[Mapping[str, Any]]) -> tuple[str, Callable[[str], Any]] | None:
    """A tool that runs Python, recognised by the name of its parameter; else a shell, which is told to run Python."""
    if (found := find_parameter(schemas, CODE_NAMES)) is not None:
        return found
    if (shell := find_parameter(schemas, COMMAND_NAMES)) is None:
        return None
    name, arguments = shell
    return name, lambda code: arguments(f"python3 - <<'END-OF-CODE'\n{code}\nEND-OF-CODE")


def find_search_tool(schemas: Sequence[Mapping[str, Any]]) -> tuple[str, Callable[[str], Any]] | None:
    """A tool that searches, recognised by the name of its parameter."""
    return find_parameter(schemas, _QUERY_NAMES)


def _is_text(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "string" and "enum" not in schema


def _required(schema: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The required properties with their schemas."""
    properties = schema.get("properties", {})
    return [(name, properties.get(name, {})) for name in schema.get("required", [])]


def _value(schema: Any, root: Mapping[str, Any], text: str, number: float, depth: int = 0) -> Any:
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:  # schemas of other authors may refer to themselves
        return text

    def inner(one: Any) -> Any:
        return _value(one, root, text, number, depth + 1)

    if "$ref" in schema:
        found: Any = root
        for part in schema["$ref"].removeprefix("#").strip("/").split("/"):
            found = found.get(part) if isinstance(found, Mapping) else None
        return inner(found)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return inner(schema[key][0])
    match schema.get("type"):
        case "string":
            return text
        case "integer":
            return int(number)
        case "number":
            return number
        case "boolean":
            return True
        case "array":
            return [inner(schema.get("items", {}))] if schema.get("minItems") else []
        case "object":
            return {name: inner(one) for name, one in _required(schema)}
        case "null":
            return None
        case _:
            return text
