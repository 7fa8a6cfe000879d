"""Values without quotes, between tags: how a schema types a text, and how marks inside it are escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from toolrl.chat.dialects.json_text import load_json, write_json_text

Schemas = Sequence[Mapping[str, Any]]
Schema = Mapping[str, Any] | bool

_PYTHON_CONSTANTS = {"True": True, "False": False, "None": None}
# Type names that schemas from elsewhere use instead of JSON Schema's.
_TYPES = {
    "str": "string",
    "text": "string",
    "char": "string",
    "varchar": "string",
    "enum": "string",
    "int": "integer",
    "float": "number",
    "double": "number",
    "bool": "boolean",
    "dict": "object",
    "list": "array",
    "tuple": "array",
    "none": "null",
}
_MAX_DEPTH = 16  # levels of a schema that are examined, and references that are followed


class Parameters:
    """The parameters of a tool, by name."""

    def __init__(self, tools: Schemas, name: str):
        """Look up the tool; an unknown tool has no parameters."""
        functions = [tool.get("function", tool) for tool in tools]
        found = next((function for function in functions if function.get("name") == name), None)
        self.known = found is not None
        self._root = (found or {}).get("parameters") or {}
        properties = self._root.get("properties") if isinstance(self._root, Mapping) else None
        self.schemas: dict[str, Any] = dict(properties) if isinstance(properties, Mapping) else {}
        required = _as_list(self._root.get("required", [])) if isinstance(self._root, Mapping) else []
        self.required = [name for name in required if isinstance(name, str) and name in self.schemas]

    def value(self, name: str, text: str) -> Any:
        """The value of an argument that was written as bare text."""
        return typed_value(text, self.schemas.get(name), self._root)


def typed_value(text: str, schema: Schema | None, root: Any = None) -> Any:
    """The value that a text without quotes denotes.

    The schema decides: the value is the text itself if only that is valid, else the text read as JSON, or as Python's
    `True`, `False` and `None`. If both are valid (`int | str`, `str | None`), `12` is a number and `null` is None, as
    in vLLM and SGLang. Only types, `enum`, `const` and their combinations are checked: whether, say, a number is too
    large is up to the tool.

    Args:
        text: The text between the tags.
        schema: Of the argument; None if unknown.
        root: The schema that `$ref` refers to.
    """
    stripped = text.strip()
    if stripped in _PYTHON_CONSTANTS:
        value = _PYTHON_CONSTANTS[stripped]
    else:
        try:
            value = load_json(text)
        except (ValueError, RecursionError):
            return text
    if not isinstance(schema, Mapping) or not schema:
        return value
    if not isinstance(value, str) and _takes(schema, value, root):
        return value
    if _takes(schema, text, root) or "string" in _kinds(schema, root):
        return text
    return value


def _takes(schema: Any, value: Any, root: Any, depth: int = 0) -> bool:
    """Whether a value has a type that a schema allows, at every level."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return schema is not False
    if "$ref" in schema and not _takes(_resolve(schema["$ref"], root), value, root, depth + 1):
        return False
    if value is None and schema.get("nullable") is True:
        return True
    kinds = _types(schema)
    if kinds and "any" not in kinds and not any(kind in kinds for kind in _kinds_of(value)):
        return False
    if "const" in schema and not _same(schema["const"], value):
        return False
    if "enum" in schema and not any(_same(choice, value) for choice in _as_list(schema["enum"])):
        return False
    for key, enough in (("allOf", all), ("anyOf", any), ("oneOf", any)):
        branches = _as_list(schema[key]) if key in schema else []
        if branches and not enough(_takes(branch, value, root, depth + 1) for branch in branches):
            return False
    if isinstance(value, dict):
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        rest = schema.get("additionalProperties", True)
        required = _as_list(schema.get("required", []))
        return all(key in value for key in required if isinstance(key, str)) and all(
            _takes(properties.get(key, rest), item, root, depth + 1) for key, item in value.items()
        )
    if isinstance(value, list):
        first, rest = _as_list(schema.get("prefixItems", [])), schema.get("items", True)
        schemas = [*first[: len(value)], *[rest] * (len(value) - len(first))]
        return all(_takes(item_schema, item, root, depth + 1) for item_schema, item in zip(schemas, value, strict=True))
    return True


def _kinds(schema: Any, root: Any, depth: int = 0) -> set[str]:
    """The types that a schema names, itself or in its branches."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return set()
    kinds = set(_types(schema))
    for choice in [*_as_list(schema.get("enum", [])), *([schema["const"]] if "const" in schema else [])]:
        kinds |= set(_kinds_of(choice)) if "type" not in schema else set()
    branches = [branch for key in ("allOf", "anyOf", "oneOf") for branch in _as_list(schema.get(key, []))]
    if "$ref" in schema:
        branches.append(_resolve(schema["$ref"], root))
    return kinds.union(*(_kinds(branch, root, depth + 1) for branch in branches))


def _types(schema: Mapping[str, Any]) -> list[str]:
    names = [str(name).lower() for name in _as_list(schema.get("type", []))]
    return [_TYPES.get(name, name) for name in names]


def _kinds_of(value: Any) -> tuple[str, ...]:
    """JSON Schema's names for the type of a value."""
    match value:
        case None:
            return ("null",)
        case bool():
            return ("boolean",)
        case int():
            return ("integer", "number")
        case float():
            return ("number",)  # `1.0` too: tools do not accept it as an integer
        case str():
            return ("string",)
        case list():
            return ("array",)
    return ("object",)


def _same(first: Any, second: Any) -> bool:
    return _kinds_of(first)[-1] == _kinds_of(second)[-1] and bool(first == second)


def _resolve(reference: Any, root: Any) -> Any:
    """Resolve `#/$defs/Name`; a reference that cannot be resolved accepts everything."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return True
    place = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(place, Mapping) and key in place:
            place = place[key]
        elif isinstance(place, list) and key.isdecimal() and int(key) < len(place):
            place = place[int(key)]
        elif part:
            return True
    return place


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def write_value(value: Any) -> str:
    """Write an argument without quotes: a string verbatim, anything else as JSON."""
    return value if isinstance(value, str) else write_json_text(value)


# ---- marks inside values


def hide(text: str, marks: Sequence[str]) -> str:
    """Escape the first character of marks inside a value as in HTML, `<` as `&lt;`; `show` inverts it for any text."""
    return re.sub(_with_ampersands(marks), lambda found: _hide_once(found.group()), text)


def show(text: str, marks: Sequence[str]) -> str:
    """Undo `hide`: `&lt;/parameter>` is `</parameter>`, `&amp;lt;/parameter>` is `&lt;/parameter>`; the rest stays."""
    return re.sub(_with_ampersands(marks), lambda found: _show_once(found.group()), text) if "&" in text else text


def _hide_once(mark: str) -> str:
    return "&lt;" + mark[1:] if mark.startswith("<") else "&amp;" + mark[1:]


def _show_once(mark: str) -> str:
    if mark.startswith("&amp;"):
        return "&" + mark[len("&amp;") :]
    return "<" + mark[len("&lt;") :] if mark.startswith("&lt;") else mark


def _with_ampersands(marks: Sequence[str]) -> str:
    """Pattern of a mark, verbatim or escaped any number of times. All marks start with `<`."""
    return "(?:<|&(?:amp;)*+lt;)(?:" + "|".join(re.escape(mark[1:]) for mark in marks) + ")"
