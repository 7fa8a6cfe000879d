"""Arguments of a tool that somebody else describes, by a JSON schema and not by a Python signature."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import jsonschema
import regex
from jsonschema.protocols import Validator
from pydantic import BaseModel
from referencing import Registry
from referencing.exceptions import Unresolvable

from toolrl.errors import ToolDefinitionError, ToolError

MAX_SCHEMA_CHARACTERS = 50_000
_MAX_DEPTH = 50  # of a schema
_MAX_PROBLEMS = 5  # reported for one call
_PATTERN_SECONDS = 1.0  # for one text; the model could choose one that takes a bad pattern for ever


class JsonArguments(BaseModel):
    """Base of the models made by `json_arguments`. All arguments are in one field, whatever their names are."""

    arguments: dict[str, Any]

    given_schema: ClassVar[dict[str, Any]]
    validator: ClassVar[Validator]

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Check arguments against the schema.

        Raises:
            ToolError: They do not fit.
        """
        arguments = json.loads(json_data)
        problems = list(cls._problems(arguments))
        if problems:
            raise ToolError(f"invalid arguments for {cls.__name__}: {'; '.join(problems)}")
        return cls.model_construct(arguments=arguments)

    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """The schema as it was given."""
        return copy.deepcopy(cls.given_schema)

    @classmethod
    def _problems(cls, arguments: Any) -> Iterator[str]:
        try:
            json.dumps(arguments, allow_nan=False, ensure_ascii=False).encode()
            errors = sorted(cls.validator.iter_errors(arguments), key=lambda error: list(map(str, error.absolute_path)))
        except UnicodeEncodeError:
            yield "a text contains half a surrogate pair"
        except ValueError:
            yield "a number is not finite"
        except RecursionError:
            yield "they are nested too deeply"
        except Unresolvable:  # by a part of the schema that is missing; whoever made it checks the arguments, too
            pass
        else:
            for error in errors[:_MAX_PROBLEMS]:
                yield f"{'.'.join(map(str, error.absolute_path)) or 'arguments'}: {error.message}"


def json_arguments(name: str, schema: Mapping[str, Any]) -> type[JsonArguments]:
    """Make the arguments model of a tool from a JSON schema.

    The tool's function gets one parameter, `arguments`. A reference to another document is not followed, and allows
    anything.

    Args:
        name: The tool's name.
        schema: Of an object; draft 2020-12, unless its `$schema` says otherwise.

    Raises:
        ToolDefinitionError: It is not a valid schema of an object, too long, or refers to
            itself without end.
    """
    given = {key: value for key, value in schema.items() if key not in ("$schema", "$id")}
    try:
        length = len(json.dumps(given, allow_nan=False))
        deep = _is_deep(given)
    except (TypeError, ValueError, RecursionError) as error:
        raise ToolDefinitionError(f"tool {name!r}: its schema is not JSON: {error}") from None
    if length > MAX_SCHEMA_CHARACTERS or deep:
        raise ToolDefinitionError(
            f"tool {name!r}: its schema has {length:,} characters, and may have {MAX_SCHEMA_CHARACTERS:,} in at most "
            f"{_MAX_DEPTH} levels"
        )
    if given.get("type") != "object":
        raise ToolDefinitionError(f"tool {name!r}: its schema must be that of an object, got {given.get('type')!r:.80}")
    plain: Any = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        plain.check_schema(
            given, format_checker=jsonschema.FormatChecker(())
        )  # Python would refuse JavaScript's patterns
        validator = jsonschema.validators.extend(plain, {"pattern": _pattern})(given, registry=Registry())
        with contextlib.suppress(Unresolvable):
            list(validator.iter_errors({}))
    except jsonschema.SchemaError as error:
        raise ToolDefinitionError(f"tool {name!r}: its schema is invalid: {error.message[:300]}") from None
    except RecursionError:
        raise ToolDefinitionError(f"tool {name!r}: its schema refers to itself without end") from None
    return type(name, (JsonArguments,), {"given_schema": given, "validator": validator, "__module__": __name__})


def _pattern(validator: Validator, pattern: str, text: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
    """Search with a time limit, and in a dialect that has JavaScript's classes, too."""
    if isinstance(text, str):
        try:
            found = regex.search(pattern, text, timeout=_PATTERN_SECONDS)
        except TimeoutError:
            yield jsonschema.ValidationError(f"{text!r} takes too long to compare with {pattern!r}")
        except regex.error:  # the server knows better
            pass
        else:
            if found is None:
                yield jsonschema.ValidationError(f"{text!r} does not match {pattern!r}")


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [inner for item in level if isinstance(item, (dict, list)) for inner in _inner(item)]
    return bool(level)


def _inner(item: dict[str, Any] | list[Any]) -> list[Any]:
    return list(item.values()) if isinstance(item, dict) else item
