"""What a tool needs besides its arguments, with a lifetime: one per episode, or one per run.

A parameter whose default is `per_episode(...)` or `per_run(...)` is injected. The model never sees
it, and no state is global:

    @tool
    def python(code: str, sandbox: Sandbox = per_episode(LocalSandbox)) -> str: ...

Resources open at the first call that needs them. Those of an episode close after its reward has
been computed, so that a grader finds them alive.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from toolrl.types import Task

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Resource:
    """A recipe for something a tool needs, and how long it lives."""

    open: Callable[..., Any]
    lifetime: Literal["episode", "run"]


def per_episode(open: Callable[..., T]) -> T:
    """Declare a parameter that is opened anew for each episode.

    Args:
        open: Called without arguments, or with the episode's `Task` if it takes a positional one.
            If the result has a `close()` method, it is called at the end of the episode.
    """
    return cast(T, Resource(open, "episode"))


def per_run(open: Callable[[], T]) -> T:
    """Declare a parameter that all episodes of an environment share; it must be thread-safe.

    Args:
        open: Called without arguments, once. `close()` is called when the environment is closed.
    """
    return cast(T, Resource(open, "run"))


def _takes_task(open: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(open).parameters.values()
    except ValueError:  # some builtins have no signature
        return False
    return any(p.kind <= p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in parameters)


class ResourceScope:
    """Opens resources on demand and closes them together, last opened first. Thread-safe."""

    def __init__(self, task: Task | None = None, parent: ResourceScope | None = None):
        """Create an empty scope.

        Args:
            task: Given to those openers that take one.
            parent: The run's scope, if this is an episode's.
        """
        self._task = task
        self._parent = parent
        self._opened: dict[Resource, Any] = {}
        self._names: dict[str, Any] = {}
        self._lock = threading.Lock()

    def get(self, name: str, resource: Resource) -> Any:
        """Return the open resource, opening it first if need be; `name` is its key in `state`."""
        if resource.lifetime == "run" and self._parent is not None:
            return self._parent.get(name, resource)
        with self._lock:
            if resource not in self._opened:
                arguments = (self._task,) if self._task is not None and _takes_task(resource.open) else ()
                self._opened[resource] = resource.open(*arguments)
            self._names[name] = self._opened[resource]
            return self._opened[resource]

    @property
    def state(self) -> dict[str, Any]:
        """Open resources by parameter name, those of the run included."""
        inherited = self._parent.state if self._parent is not None else {}
        return {**inherited, **self._names}

    def close(self) -> None:
        """Close what is open. A failing `close()` does not keep the others from closing."""
        with self._lock:
            opened, self._opened, self._names = self._opened, {}, {}
        failures = []
        for value in reversed(opened.values()):
            close = getattr(value, "close", None)
            if close is not None:
                try:
                    close()
                except Exception as error:  # raised below, once everything is closed
                    failures.append(error)
        if failures:
            raise ExceptionGroup("resources failed to close", failures)
