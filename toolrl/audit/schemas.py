"""Arguments for tools of which only the schemas are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

CODE_NAMES = ("code", "source", "program", "script", "python")
COMMAND_NAMES = ("command", "cmd", "commands", "bash", "shell", "keystrokes", "line")
_QUERY_NAMES = ("query", "q", "search", "question", "keywords", "text")


def dummy_arguments(schema: Mapping[str, Any], text: str = "1", number: float = 1) -> dict[str, Any]:
    """The required arguments of a tool, as plain as its schema allows.

    Args:
        schema: A `Tool.schema`.
        text: The value of text parameters without an enum.
        number: The value of numeric parameters.
    """
    parameters = schema["function"]["parameters"]
    definitions = parameters.get("$defs", {})
    required = parameters.get("required", [])
    return {name: _value(parameters["properties"][name], definitions, text, number) for name in required}


def text_arguments(schema: Mapping[str, Any], text: str) -> list[dict[str, Any]]:
    """The required arguments of a tool, once for each text parameter, with `text` as its value."""
    properties = schema["function"]["parameters"]["properties"]
    texts = [name for name, one in properties.items() if one.get("type") == "string" and "enum" not in one]
    return [{**dummy_arguments(schema), name: text} for name in texts]


def find_parameter(
    schemas: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> tuple[str, Callable[[str], Any]] | None:
    """The first tool with a text parameter of one of these names, and a function from text to its arguments."""
    for schema in schemas:
        function = schema["function"]
        for name, parameter in function["parameters"]["properties"].items():
            if name.lower() in names and parameter.get("type") == "string" and "enum" not in parameter:
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


def _value(schema: Mapping[str, Any], definitions: Mapping[str, Any], text: str, number: float) -> Any:
    if "$ref" in schema:
        return _value(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions, text, number)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return _value(schema[key][0], definitions, text, number)
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
            return [_value(schema.get("items", {}), definitions, text, number)] if schema.get("minItems") else []
        case "object":
            required = schema.get("required", [])
            return {name: _value(schema["properties"][name], definitions, text, number) for name in required}
        case "null":
            return None
        case _:
            return text
