"""Which functions may become tools, and what their signatures, hints and docstrings say."""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, get_origin, get_type_hints

import docstring_parser
from docstring_parser import DocstringStyle
from pydantic.fields import FieldInfo

from toolrl.errors import ToolDefinitionError

R = TypeVar("R")

# Function names that chat APIs accept, plus dots, which some dialects write.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def as_function(function: Any, name: str | None) -> tuple[Callable[..., Any], str]:
    """The underlying function, and the tool's name.

    Raises:
        ToolDefinitionError: It is not a function, yields, is bound to an object, or has a name chat APIs would refuse.
    """
    if isinstance(function, staticmethod):
        function = function.__func__
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    called = name or getattr(inner, "__name__", None) or type(inner).__name__
    if isinstance(inner, type):
        raise ToolDefinitionError(
            f"{called!r} is a class, and a tool is a function: its methods become tools with ToolEnv(tools=["
            f"{inner.__name__}]) or toolkit({inner.__name__}, ...)"
        )
    if not callable(inner):
        hint = f"; write @tool(name={inner!r})" if isinstance(inner, str) else ""
        if type(inner).__module__ != "builtins":
            hint = f"; its methods become tools if you write the class, {called}, and each episode makes its own"
        raise ToolDefinitionError(f"a tool is made from a function, got {type(inner).__name__}: {inner!r:.80}{hint}")
    owner = getattr(inner, "__self__", None)
    is_bound = owner is not None and not isinstance(owner, (type, types.ModuleType))
    if is_bound or not (inspect.isroutine(inner) or hasattr(inner, "__wrapped__")):
        kind = type(owner if is_bound else inner).__name__
        what = f"a method of a {kind}" if is_bound else f"a callable {kind}"
        raise ToolDefinitionError(
            f"tool {called!r} is {what}, and all episodes would share that object: write tools=[{kind}] to make its "
            f"methods tools, or a function with a parameter for it whose default is per_episode({kind}), or "
            "per_run(lambda: ...) if it is meant to be shared"
        )
    if called == "<lambda>":
        raise ToolDefinitionError("a lambda has no name, docstring or type hints to show to a model; write it with def")
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise ToolDefinitionError(
            f"tool {called!r} yields, but a model reads a result as a whole: return a list or text"
        )
    check_name(called, "write @tool(name=...)")
    return function, called


def check_name(name: str, remedy: str) -> None:
    """Reject a tool's name that chat APIs would refuse.

    Raises:
        ToolDefinitionError: They would; the message ends with the remedy.
    """
    if not _NAME.fullmatch(name):
        raise ToolDefinitionError(
            f"a tool's name is 1 to 64 letters from a to z, digits, '_', '-' or '.', as chat APIs require, got "
            f"{name!r:.200}; {remedy}"
        )


def parameters_of(
    function: Callable[..., Any], name: str, resource: type[R]
) -> tuple[list[inspect.Parameter], dict[str, R]]:
    """The parameters that the model provides, and the injected resources by name.

    Raises:
        ToolDefinitionError: A parameter cannot be passed by name.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise ToolDefinitionError(
            f"tool {name!r} has no signature that Python can read; write a function around it"
        ) from None
    given = function.keywords if isinstance(function, functools.partial) else {}
    parameters: list[inspect.Parameter] = []
    resources: dict[str, R] = {}
    for index, parameter in enumerate(signature.parameters.values()):
        if parameter.name in given:
            continue
        if index == 0 and parameter.name in ("self", "cls") and parameter.annotation is parameter.empty:
            raise ToolDefinitionError(
                f"tool {name!r} is a method without its object ({parameter.name!r}): write a function with a "
                "parameter for it whose default is per_episode(...), or drop @tool and write tools=[the class]"
            )
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            hint = "" if parameter.kind is parameter.POSITIONAL_ONLY else "; a decorator needs functools.wraps"
            raise ToolDefinitionError(
                f"tool {name!r}: parameter {parameter.name!r} must be named; remove * and /{hint}"
            )
        if isinstance(parameter.default, resource):
            resources[parameter.name] = parameter.default
        else:
            parameters.append(parameter)
    return parameters, resources


def hints_of(function: Callable[..., Any], name: str, parameters: Iterable[inspect.Parameter]) -> dict[str, Any]:
    """The types of the parameters that the model provides; other hints may be for type checkers only.

    Raises:
        ToolDefinitionError: A hint cannot be read.
    """
    inner: Any = function.func if isinstance(function, functools.partial) else function
    while hasattr(inner, "__wrapped__"):
        inner = inner.__wrapped__
    wanted = {parameter.name for parameter in parameters}
    annotations = {key: hint for key, hint in getattr(inner, "__annotations__", {}).items() if key in wanted}
    holder = types.SimpleNamespace(__annotations__=annotations)
    try:
        return get_type_hints(holder, globalns=getattr(inner, "__globals__", {}), include_extras=True)
    except NameError as error:
        raise ToolDefinitionError(f"tool {name!r}: {error} where its type hints are read; import it there") from None
    except (AttributeError, SyntaxError, TypeError) as error:
        raise ToolDefinitionError(f"tool {name!r}: its type hints cannot be read: {error}") from None


def read_docstring(function: Callable[..., Any]) -> tuple[docstring_parser.Docstring, Mapping[str, str]]:
    """Parse a docstring and its parameter descriptions: Google style first, then NumPy and reST."""
    inner = function.func if isinstance(function, functools.partial) else function
    text = inspect.getdoc(inner) or ""
    documentation = docstring_parser.parse(text, DocstringStyle.GOOGLE)
    for style in (DocstringStyle.NUMPYDOC, DocstringStyle.REST):
        if documentation.params:
            break
        other = docstring_parser.parse(text, style)
        documentation = other if other.params else documentation
    return documentation, {entry.arg_name: entry.description or "" for entry in documentation.params}


def description_in(hint: Any, default: Any) -> str:
    """The description in an `Annotated[...]` or in a default `Field(...)`; empty if there is none."""
    found = getattr(hint, "__metadata__", ()) if get_origin(hint) is not None or hasattr(hint, "__metadata__") else ()
    for entry in (default, *found):
        text = entry if isinstance(entry, str) and entry is not default else getattr(entry, "documentation", None)
        if isinstance(entry, FieldInfo):
            text = entry.description
        if isinstance(text, str) and text.strip():
            return text.strip()
    return ""
