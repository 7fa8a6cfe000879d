"""`toolkit`: the methods of a class become tools over one state, of which each episode has its own instance.

Given `class Calendar` with methods `add` and `move`, `ToolEnv(tools=[Calendar])` has the tools `add` and `move`, and a
reward reads what they did in `episode.state["calendar"]`.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from toolrl.errors import ToolDefinitionError
from toolrl.tools.definition import Tool, tool
from toolrl.tools.openers import required_parameters
from toolrl.tools.resources import Resource, per_episode

# Methods that the framework calls, not the model.
LIFECYCLE = ("reset", "close", "aclose", "get_reward")
_UNLESS = " (or, if it is not a tool, begin its name with _ or name the tools with only=[...])"


def toolkit(
    cls: type,
    *,
    only: Collection[str] | None = None,
    name: str | None = None,
    instance: Any = None,
    timeout_seconds: float = 30.0,
    max_output_characters: int = 4000,
    keeps_time: bool = False,
) -> list[Tool]:
    """Turn the methods of a class into tools; a class in `ToolEnv(tools=[...])` is short for `toolkit(cls)`.

    A tool is a public method with a docstring and type hints, as `tool` demands them of a function; inherited and
    static ones count. Never tools: names with a leading underscore, `reset`, `close`, `aclose` and `get_reward`,
    properties, class methods, and methods with neither a docstring nor a hint. A public method with only one of the two
    is an error, and so is a base class from another package with such methods: nothing becomes a tool, or fails to, by
    accident.

    The instance is made when a call first needs it, with the task if `__init__` has a parameter `task`, and closed with
    its episode by its `aclose()` or `close()`, or as a context manager. The reward finds it in `episode.state`; it is
    absent if no call needed it.

    Args:
        cls: The class, not an instance of it.
        only: Names of the methods that become tools, in this order; by default all, in the order of definition.
        name: Of the instance in `episode.state`; by default the name of the class in snake_case.
        instance: How to make the instance: a function of nothing or of the task, or a `per_episode(...)` or
            `per_run(...)` that other tools share.
        timeout_seconds: See `Tool`; for each method.
        max_output_characters: See `Tool`.
        keeps_time: See `Tool`.

    Raises:
        ToolDefinitionError: It is not a class or has no tools; a method lacks a docstring or a hint; or its instances
            need arguments.
    """
    if not isinstance(cls, type):
        raise ToolDefinitionError(
            f"toolkit takes a class, got {cls!r:.80}; each episode has an instance of its own, so write the class "
            "without calling it, or toolkit(Class, instance=lambda: Class(...))"
        )
    resource = instance if isinstance(instance, Resource) else per_episode(instance or _maker(cls))
    state_name = name or _snake_case(cls.__name__)
    if not state_name.isidentifier():
        raise ToolDefinitionError(f"the name of a toolkit's instance must be an identifier, got {state_name!r}")
    define = tool(timeout_seconds=timeout_seconds, max_output_characters=max_output_characters, keeps_time=keeps_time)
    tools = []
    for method_name, method in _chosen_methods(cls, only).items():
        what = f"{cls.__name__}.{method_name}"
        try:
            tools.append(define(_as_function(cls, method_name, method, state_name, resource)))
        except ToolDefinitionError as error:
            raise ToolDefinitionError(f"{what}: {error}{_UNLESS}") from None
    return tools


def tools_of(entries: Iterable[Any]) -> Iterator[Tool]:
    """The tools of an environment from what its author listed: tools, functions, classes and lists of tools."""
    for entry in entries:
        if isinstance(entry, Tool):
            yield entry
        elif isinstance(entry, type):
            yield from toolkit(entry)
        elif isinstance(entry, Sequence) and not isinstance(entry, (str, bytes)):
            yield from tools_of(entry)
        else:
            yield tool()(entry)


def _chosen_methods(cls: type, only: Collection[str] | None) -> dict[str, Any]:
    """The methods that become tools, by name."""
    methods: dict[str, Any] = {}
    owners: dict[str, type] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if name.startswith("_") or name in LIFECYCLE:
                continue
            if inspect.isfunction(value.__func__ if isinstance(value, staticmethod) else value):
                methods[name], owners[name] = value, base
            else:
                methods.pop(name, None)
    if isinstance(only, str):
        raise ToolDefinitionError(f"only must be a list of names, got {only!r}; write only=[{only!r}]")
    if only is not None:
        for name in only:
            if name not in methods:
                listed = ", ".join(methods) or "none"
                raise ToolDefinitionError(f"{cls.__name__} has no public method {name!r}; it has: {listed}")
        methods = {name: methods[name] for name in only}
    else:
        methods = {name: method for name, method in methods.items() if _docstring(cls, name) or _is_annotated(method)}
        foreign = [name for name in methods if _package(owners[name]) != _package(cls)]
        if foreign:
            own = [name for name in methods if name not in foreign]
            raise ToolDefinitionError(
                f"{cls.__name__} inherits {', '.join(foreign)} from {owners[foreign[0]].__module__}, which would "
                f"become tools; name those that should, as in toolkit({cls.__name__}, only={own})"
            )
    if not methods:
        raise ToolDefinitionError(
            f"{cls.__name__} has no method that can be a tool: a public one with a docstring and type hints"
        )
    for name in methods:
        if not _docstring(cls, name):
            raise ToolDefinitionError(
                f"{cls.__name__}.{name} has no docstring: say in one line what it does and when to use it{_UNLESS}"
            )
    return methods


def _as_function(cls: type, name: str, method: Any, state_name: str, resource: Resource) -> Callable[..., Any]:
    """A method as a function whose injected parameter is the instance."""
    function = method.__func__ if isinstance(method, staticmethod) else method
    parameters = list(inspect.signature(function).parameters.values())
    if not isinstance(method, staticmethod):
        if not parameters or parameters[0].kind > inspect.Parameter.POSITIONAL_OR_KEYWORD:
            raise ToolDefinitionError("a method's first parameter is self; add it, or make it a @staticmethod")
        parameters = parameters[1:]
    if any(parameter.name == state_name for parameter in parameters):
        raise ToolDefinitionError(
            f"its parameter {state_name!r} has the name of the instance; rename it, or write toolkit({cls.__name__}, "
            "name=...)"
        )

    @functools.wraps(function)
    def call(**arguments: Any) -> Any:
        return getattr(arguments.pop(state_name), name)(**arguments)

    injected = inspect.Parameter(state_name, inspect.Parameter.KEYWORD_ONLY, default=resource)
    variadic = [p for p in parameters if p.kind is p.VAR_KEYWORD]
    named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    call.__signature__ = inspect.Signature([*named, injected, *variadic])  # type: ignore[attr-defined]
    call.__name__, call.__doc__ = name, _docstring(cls, name)
    return call


def _docstring(cls: type, name: str) -> str | None:
    """A method's docstring; one that overrides without a docstring has that of the method it overrides."""
    return next((doc for base in cls.__mro__ if (doc := getattr(vars(base).get(name), "__doc__", None))), None)


def _is_annotated(method: Any) -> bool:
    return bool(inspect.get_annotations(getattr(method, "__wrapped__", method)))


def _package(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _maker(cls: type) -> type:
    """The class, if its instances can be made without arguments or with the task.

    Raises:
        ToolDefinitionError: They cannot.
    """
    wanted = required_parameters(cls)
    if [parameter.name for parameter in wanted] not in ([], ["task"]):
        names = ", ".join(parameter.name for parameter in wanted)
        raise ToolDefinitionError(
            f"{cls.__name__}() needs {names}, and an episode knows only its task; write toolkit({cls.__name__}, "
            f"instance=lambda task: {cls.__name__}(...))"
        )
    return cls


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.strip("_")).lower()
