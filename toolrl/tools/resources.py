"""What a tool needs besides its arguments, with a lifetime: one per episode, or one per run.

A parameter whose default is `per_episode(...)` or `per_run(...)` is injected. The model never sees it, and no state is
global:

    @tool
    def python(code: str, sandbox: Sandbox = per_episode(LocalSandbox)) -> str: ...

Resources open at the first call that needs them. Those of an episode close after its reward has been computed, so that
the grader can still use them.

A resource of an episode may have a property `usage`: numbers by name of whatever is costly or scarce, such as
`sandbox_seconds`. It is read after `close()`; trajectories, training metrics and evaluation reports show it. Resources
that a run shares count per call with `toolrl.support.usage.count_usage`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from toolrl.errors import InfrastructureError
from toolrl.support.usage import Usage
from toolrl.support.waiting import ends_within
from toolrl.tools.openers import Opened, check_opener, open_resource
from toolrl.types import Task

T = TypeVar("T")

CLOSING_SECONDS = 60.0  # time limit of a resource's `close()`

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Resource:
    """How to open something a tool needs, and how long it lives."""

    open: Callable[..., Any]
    lifetime: Literal["episode", "run"]


def per_episode(open: Callable[..., T]) -> T:
    """Declare a parameter that is opened for each episode.

    Args:
        open: Called without arguments, or with the episode's `Task` if it takes a positional argument. It returns a
            resource, whose `aclose()` or `close()` is called at the end of the episode, a context manager, or a
            generator that yields once; see `toolrl.tools.openers`.

    Raises:
        ToolDefinitionError: `open` is not such a function.
    """
    check_opener(open, takes_task=True)
    return cast(T, Resource(open, "episode"))


def per_run(open: Callable[[], T]) -> T:
    """Declare a parameter that all episodes of an environment share; it must be thread-safe.

    Args:
        open: Called once, without arguments; returns the same as for `per_episode`. The resource is closed with the
            environment.

    Raises:
        ToolDefinitionError: `open` is not such a function.
    """
    check_opener(open, takes_task=False)
    return cast(T, Resource(open, "run"))


def _takes_task(open: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(open).parameters.values()
    except ValueError:  # some builtins have no signature
        return False
    return any(p.kind <= p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in parameters)


class ResourceScope:
    """Opens resources on demand and closes them together, last opened first. Thread-safe.

    Attributes:
        usage: What calls counted with `toolrl.support.usage.count_usage`.
    """

    def __init__(self, task: Task | None = None, parent: ResourceScope | None = None):
        """Create an empty scope.

        Args:
            task: Passed to openers that take one.
            parent: The run's scope, if this is an episode's.
        """
        self.usage = Usage()
        self._task = task
        self._parent = parent
        self._opened: dict[Resource, Any] = {}
        self._names: dict[str, Any] = {}
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._opening = threading.Lock()  # separate, so that a slow opener does not block `close`

    def get(self, name: str, resource: Resource, loop: asyncio.AbstractEventLoop | None = None) -> Any:
        """Return the open resource, opening it first if necessary. Blocks.

        Args:
            name: Its key in `state`.
            resource: What to open.
            loop: Runs its async parts.

        Raises:
            RuntimeError: The scope is closed, perhaps while the resource was being opened.
        """
        if resource.lifetime == "run" and self._parent is not None:
            return self._parent.get(name, resource, loop)
        with self._opening:
            if not self._closed.is_set() and resource not in self._opened:
                arguments = (self._task,) if self._task is not None and _takes_task(resource.open) else ()
                value = open_resource(resource.open, arguments, loop)
                with self._lock:
                    late = self._closed.is_set()
                    if not late:
                        self._opened[resource] = value
                if late:  # the call that needed it has timed out, and its episode is over
                    close_all([value])
            with self._lock:
                if self._closed.is_set():
                    raise RuntimeError(f"{name!r} cannot be opened: its episode or environment is closed")
                opened = self._opened[resource]
                self._names[name] = opened.value if isinstance(opened, Opened) else opened
                return self._names[name]

    @property
    def state(self) -> dict[str, Any]:
        """Open resources by parameter name, including those of the run."""
        inherited = self._parent.state if self._parent is not None else {}
        return {**inherited, **self._names}

    def close(self) -> None:
        """Close all open resources permanently. A failing `close()` does not keep the others from closing.

        Raises:
            InfrastructureError: Some failed to close, all of them with an `InfrastructureError`.
            ExceptionGroup: Some failed to close, at least one with another error.
        """
        close_all(self.retire())

    def retire(self) -> list[Any]:
        """Stop opening resources and return the open ones for `close_all`, last opened first. Never waits."""
        with self._lock:
            self._closed.set()
            opened, self._opened, self._names = self._opened, {}, {}
        return list(reversed(opened.values()))


def add_up(numbers: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sum of the numbers for each name."""
    totals: dict[str, float] = {}
    for mapping in numbers:
        for name, amount in mapping.items():
            totals[name] = totals.get(name, 0.0) + amount
    return totals


def close_all(values: Iterable[Any], where: str = "") -> list[Any]:
    """Close resources, each within `CLOSING_SECONDS`; raises the same as `ResourceScope.close`.

    Args:
        values: Resources, some of which have a `close()`.
        where: Names their owner in the warning about a `close()` that does not return and is abandoned.

    Returns:
        The resources that were closed.
    """
    closed: list[Any] = []
    failures: list[Exception] = []
    interrupt: BaseException | None = None
    for value in values:
        try:
            if not hasattr(value, "close") or ends_within(CLOSING_SECONDS, value.close):
                closed.append(value)
            else:
                kind = type(value.value if isinstance(value, Opened) else value)
                name, place = kind.__name__, where and f" ({where})"
                _log.warning(
                    "%s.close() has not returned within %g seconds%s; it is abandoned", name, CLOSING_SECONDS, place
                )
        except Exception as error:  # noqa: BLE001 - raised below, once everything is closed
            closed.append(value)
            failures.append(error)
        except BaseException as error:  # noqa: BLE001 - Ctrl-C: the others are closed first
            interrupt = error
    if interrupt is not None:
        raise interrupt
    if failures:
        group = ExceptionGroup("resources failed to close", failures)
        if all(isinstance(failure, InfrastructureError) for failure in failures):
            raise InfrastructureError(f"resources failed to close: {'; '.join(map(str, failures))}") from group
        raise group
    return closed
