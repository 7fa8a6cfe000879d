"""`@tool`: a typed function with a Google docstring becomes a tool.

The schema shown to the model and the validation of its arguments come from the same pydantic model of the signature, so
they cannot disagree. (transformers' `get_json_schema` gives the same schema, but does not validate, and imports torch.)
"""

from __future__ import annotations

import functools
import inspect
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, overload

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic.json_schema import PydanticJsonSchemaWarning

from toolrl.errors import ToolDefinitionError, ToolError
from toolrl.tools.resources import Resource
from toolrl.tools.signatures import as_function, description_in, hints_of, parameters_of, read_docstring


@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    Attributes:
        name: As the model writes it.
        description: From the docstring.
        function: Sync or async. Raises `ToolError` for the model's mistakes and `InfrastructureError` for faults that
            the model did not cause; anything else is a bug.
        arguments_model: Validates arguments and gives the schema.
        resources: Injected parameters by name.
        timeout_seconds: Wall-clock limit of one call, not counting the time its resources take to open. A sync function
            cannot be killed from outside: past the limit its thread is abandoned, so bound its work as well.
        max_output_characters: Longer results are cut in the middle, with a visible marker.
        keeps_time: Whether the function enforces the limit itself and raises `ToolError` then. If it has still not
            returned `OPENING_SECONDS` later, that is an infrastructure fault.
    """

    name: str
    description: str
    function: Callable[..., Any]
    arguments_model: type[BaseModel]
    resources: dict[str, Resource]
    timeout_seconds: float = 30.0
    max_output_characters: int = 4000
    keeps_time: bool = False

    @functools.cached_property
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
            ToolError: They do not fit; the message names each wrong parameter and why.
        """
        try:
            text = json.dumps(arguments)
        except (TypeError, ValueError, RecursionError) as error:  # too deeply nested, or an integer of too many digits
            raise ToolError(f"invalid arguments for {self.name}: {error}") from None
        try:
            checked = self.arguments_model.model_validate_json(text, strict=True)
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

    Every parameter needs a type hint and a line in the docstring's `Args:` section (or a description in its hint:
    `Annotated[int, Field(description="...")]`), except injected ones (`per_episode`, `per_run`).

    Bound methods and callable objects are rejected, since all episodes would share the object. Inject it instead, or
    make its methods tools with `toolrl.toolkit`.

    Raises:
        ToolDefinitionError: It is not a function, or it yields; a hint, the docstring or a description is missing; a
            type or a default has no JSON form; or chat APIs would not accept the name.
    """

    def decorate(function: Callable[..., Any]) -> Tool:
        return _define(function, name, timeout_seconds, max_output_characters, keeps_time)

    return decorate if function is None else decorate(function)


def _define(
    function: Callable[..., Any], name: str | None, timeout_seconds: float, max_output_characters: int, keeps_time: bool
) -> Tool:
    function, name = as_function(function, name)
    if not timeout_seconds > 0 or max_output_characters < 1:
        raise ToolDefinitionError(
            f"tool {name!r}: timeout_seconds={timeout_seconds!r} and max_output_characters={max_output_characters!r} "
            "must be positive"
        )
    documentation, descriptions = read_docstring(function)
    if not documentation.short_description:
        raise ToolDefinitionError(f"tool {name!r} has no docstring: say in one line what it does and when to use it")
    parameters, resources = parameters_of(function, name, Resource)
    hints = hints_of(function, name, parameters)
    fields: dict[str, Any] = {}
    for parameter in parameters:
        description = descriptions.get(parameter.name) or description_in(hints.get(parameter.name), parameter.default)
        # Under an alias, since pydantic reserves names: `json`, `copy`, and any with a leading underscore.
        fields[f"argument_{len(fields)}"] = _field(name, parameter, hints, description)
    arguments_model = create_model(name, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PydanticJsonSchemaWarning)
            json.dumps(arguments_model.model_json_schema(), allow_nan=False)
    except (PydanticUserError, PydanticJsonSchemaWarning, ValueError) as error:
        raise ToolDefinitionError(f"tool {name!r}: its parameters cannot be shown to a model: {error}") from None
    parts = (documentation.short_description, documentation.long_description)
    description = "\n".join(part for part in parts if part)
    return Tool(
        name, description, function, arguments_model, resources, timeout_seconds, max_output_characters, keeps_time
    )


def _field(name: str, parameter: inspect.Parameter, hints: Mapping[str, Any], description: str) -> tuple[Any, Any]:
    """The type and field of one parameter, for the arguments model."""
    what = f"tool {name!r}: parameter {parameter.name!r}"
    if parameter.name not in hints:
        raise ToolDefinitionError(f"{what} has no type hint; add one")
    if not description:
        raise ToolDefinitionError(f"{what} is not described; add it to the docstring's Args section")
    hint, default = hints[parameter.name], parameter.default
    settings: dict[str, Any] = {"alias": parameter.name, "description": description}
    if isinstance(default, FieldInfo):  # `x: int = Field(3, ge=0)`
        if default.metadata:
            hint = Annotated.__class_getitem__((hint, *default.metadata))  # type: ignore[attr-defined]
        if default.default_factory is not None:
            return hint, Field(default_factory=default.default_factory, **settings)
        default = inspect.Parameter.empty if default.is_required() else default.default
    try:
        adapter = TypeAdapter(hint)
        adapter.json_schema()
    except (PydanticUserError, TypeError, NameError, ValueError, RecursionError) as error:
        reason = ""
        if getattr(error, "code", None) == "typed-dict-version":
            reason = "; before Python 3.12 a TypedDict must be that of typing_extensions"
        raise ToolDefinitionError(
            f"{what} has a type that JSON cannot express, {hint!r}{reason}; use another, or inject it with "
            "per_episode(...) or per_run(...)"
        ) from None
    if default is inspect.Parameter.empty:
        return hint, Field(..., **settings)
    try:
        adapter.validate_python(default)
    except ValidationError:
        wanted = f"; write {getattr(hint, '__name__', hint)} | None" if default is None else ""
        raise ToolDefinitionError(f"{what}: its default {default!r} does not fit its type hint{wanted}") from None
    return hint, Field(default, **settings)


def _without_titles(schema: Any) -> Any:
    """Drop the titles that pydantic adds: they repeat the names and cost prompt tokens."""
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
