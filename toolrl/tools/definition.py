"""`@tool`: a typed function with a Google docstring becomes a tool.

The schema shown to the model and the validation of its arguments both come from one pydantic model
of the signature, so they cannot disagree. (transformers' `get_json_schema` gives the same schema
but does not validate, and imports torch.)
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints, overload

import docstring_parser
from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError, create_model

from toolrl.errors import ToolDefinitionError, ToolError
from toolrl.tools.resources import Resource


@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    Attributes:
        name: As the model writes it.
        description: From the docstring.
        function: Sync or async. Raises `ToolError` for mistakes of the model's,
            `InfrastructureError` for faults that are not; anything else is a bug.
        arguments_model: Validates arguments and gives the schema.
        resources: Injected parameters by name.
        timeout_seconds: Wall-clock limit of one call, not counting the opening of its resources. A
            sync function cannot be killed from outside: past the limit its thread is abandoned, so
            bound what it does as well.
        max_output_characters: Longer results are cut in the middle, visibly.
        keeps_time: Whether the function ends its own work at the limit, and raises `ToolError` then. If it has not
            answered some time after, as long as resources may take to open, that is a fault, not the model's.
    """

    name: str
    description: str
    function: Callable[..., Any]
    arguments_model: type[BaseModel]
    resources: dict[str, Resource]
    timeout_seconds: float = 30.0
    max_output_characters: int = 4000
    keeps_time: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        """The tool in the JSON form that chat templates and OpenAI-compatible servers expect."""
        parameters = _without_titles(self.arguments_model.model_json_schema())
        parameters.setdefault("properties", {})
        parameters.pop("additionalProperties", None)
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}

    def validate(self, arguments: Any) -> dict[str, Any]:
        """Check decoded JSON arguments against the schema and convert them to the annotated types.

        Raises:
            ToolError: They do not fit; the message names each parameter that is wrong, and why.
        """
        try:
            checked = self.arguments_model.model_validate_json(json.dumps(arguments), strict=True)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, problem['loc'])) or 'arguments'}: {problem['msg']}" for problem in error.errors()
            )
            raise ToolError(f"invalid arguments for {self.name}: {problems}") from None
        return {field.alias or name: getattr(checked, name) for name, field in type(checked).model_fields.items()}


@overload
def tool(function: Callable[..., Any]) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    timeout_seconds: float = 30.0,
    max_output_characters: int = 4000,
    keeps_time: bool = False,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    timeout_seconds: float = 30.0,
    max_output_characters: int = 4000,
    keeps_time: bool = False,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Turn a function into a `Tool`; used as `@tool` or `@tool(timeout_seconds=5)`.

    Every parameter needs a type hint and a line in the docstring's `Args:` section, except injected
    ones (`per_episode`, `per_run`).

    Raises:
        ToolDefinitionError: A hint, the docstring or a description is missing, or a type has no JSON
            form.
    """

    def decorate(function: Callable[..., Any]) -> Tool:
        return _define(function, name or function.__name__, timeout_seconds, max_output_characters, keeps_time)

    return decorate if function is None else decorate(function)


def _define(
    function: Callable[..., Any], name: str, timeout_seconds: float, max_output_characters: int, keeps_time: bool
) -> Tool:
    documentation = docstring_parser.parse(inspect.getdoc(function) or "", docstring_parser.DocstringStyle.GOOGLE)
    if not documentation.short_description:
        raise ToolDefinitionError(f"tool {name!r} has no docstring: say in one line what it does and when to use it")
    descriptions = {parameter.arg_name: parameter.description for parameter in documentation.params}
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ToolDefinitionError(f"tool {name!r}: {error} where its type hints are read; import it there") from None
    fields: dict[str, Any] = {}
    resources = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ToolDefinitionError(f"tool {name!r}: parameter {parameter.name!r} must be named; remove * and /")
        if isinstance(parameter.default, Resource):
            resources[parameter.name] = parameter.default
            continue
        if parameter.name not in hints:
            raise ToolDefinitionError(f"tool {name!r}: parameter {parameter.name!r} has no type hint; add one")
        if not descriptions.get(parameter.name):
            raise ToolDefinitionError(
                f"tool {name!r}: parameter {parameter.name!r} is not described; add it to the docstring's Args section"
            )
        try:
            TypeAdapter(hints[parameter.name]).json_schema()
        except PydanticUserError:
            raise ToolDefinitionError(
                f"tool {name!r}: parameter {parameter.name!r} has a type that JSON cannot express, "
                f"{hints[parameter.name]!r}; use another, or inject it with per_episode(...) or per_run(...)"
            ) from None
        default = ... if parameter.default is parameter.empty else parameter.default
        # Under an alias, since pydantic has names of its own: `json`, `copy`, whatever starts with an underscore.
        field = Field(default, alias=parameter.name, description=descriptions[parameter.name])
        fields[f"argument_{len(fields)}"] = (hints[parameter.name], field)
    arguments_model = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
    parts = (documentation.short_description, documentation.long_description)
    description = "\n".join(part for part in parts if part)
    return Tool(
        name, description, function, arguments_model, resources, timeout_seconds, max_output_characters, keeps_time
    )


def _without_titles(schema: Any) -> Any:
    """Drop the titles that pydantic adds; they repeat the names and cost prompt tokens."""
    if isinstance(schema, dict):
        return {
            key: {name: _without_titles(value) for name, value in item.items()}
            if key == "properties"
            else (item if key in ("const", "default", "enum", "examples") else _without_titles(item))
            for key, item in schema.items()
            if not (key == "title" and isinstance(item, str))
        }
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    return schema
