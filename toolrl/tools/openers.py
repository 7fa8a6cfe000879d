"""Opening resources from whatever an author's opener returns, and closing them.

An opener is a function or a coroutine function. It returns the resource, which is closed by its `aclose()` or
`close()`; or a context manager without either, which is entered and exited; or a generator that yields the resource
once, as pytest's fixtures do. Each may be sync or async. Async parts run on the tools' event loop, and an async
context manager is exited by the task that entered it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from toolrl.errors import ToolDefinitionError
from toolrl.support.waiting import as_exception, contained

# Context managers with one of these are not entered: they have a way to close, or entering would hold a lock.
_NOT_ENTERED = ("close", "aclose", "acquire")


class Opened:
    """An open resource that must be closed.

    Attributes:
        value: The resource, as tools and rewards see it.
    """

    def __init__(self, value: Any, close: Callable[[], object]):
        """Keep a resource with its blocking `close`, which never runs on the event loop."""
        self.value = value
        self.close = close

    @property
    def usage(self) -> Any:
        """The usage that the resource reports."""
        return getattr(self.value, "usage", {})


def check_opener(open: Any, takes_task: bool) -> None:
    """Reject an opener that could not be called when the resource is needed.

    Raises:
        ToolDefinitionError: It is already open, or needs other arguments.
    """
    what = "per_episode(...)" if takes_task else "per_run(...)"
    entered = (contextlib.AbstractContextManager, contextlib.AbstractAsyncContextManager)
    if inspect.iscoroutine(open):
        open.close()
    if not callable(open) or (isinstance(open, entered) and not isinstance(open, type)):
        raise ToolDefinitionError(
            f"{what} takes a function that opens the resource, got {open!r:.80}; write the function without calling "
            "it, or lambda: ..."
        )
    wanted = required_parameters(open)
    if len(wanted) > takes_task or any(p.kind is p.KEYWORD_ONLY for p in wanted):
        names = ", ".join(p.name for p in wanted)
        given = "with at most the episode's task" if takes_task else "without arguments"
        raise ToolDefinitionError(f"{what} calls its function {given}, but it needs {names}; write lambda: ...")


def required_parameters(open: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a function or class that have no default."""
    try:
        parameters = inspect.signature(open).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return []
    return [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def open_resource(open: Callable[..., Any], arguments: tuple[Any, ...], loop: asyncio.AbstractEventLoop | None) -> Any:
    """Open a resource. Blocks; call it on a thread without an event loop.

    Args:
        open: The author's opener.
        arguments: Its arguments.
        loop: Runs async parts.

    Returns:
        An `Opened`, or the bare resource if it needs no closing.
    """
    value = open(*arguments)
    if inspect.isawaitable(value):
        awaitable = value
        value = _on(loop, lambda: awaitable)
    if inspect.isgenerator(value):
        generator = value
        value = contextlib.contextmanager(lambda: generator)()
    elif inspect.isasyncgen(value):
        async_generator = value
        value = contextlib.asynccontextmanager(lambda: async_generator)()
    kind = type(value)
    if not any(hasattr(kind, name) for name in _NOT_ENTERED):
        if hasattr(kind, "__enter__") and hasattr(kind, "__exit__"):
            manager = value
            return Opened(manager.__enter__(), lambda: manager.__exit__(None, None, None))
        if hasattr(kind, "__aenter__") and hasattr(kind, "__aexit__"):
            held = _Held(value, loop)
            return Opened(held.enter(), held.leave)
    close = getattr(value, "aclose", None) or getattr(value, "close", None)
    return value if close is None else Opened(value, lambda: _close(close, loop))


def _close(close: Callable[[], Any], loop: asyncio.AbstractEventLoop | None) -> None:
    if inspect.iscoroutinefunction(close):
        _on(loop, close)
    else:
        result = close()
        if inspect.isawaitable(result):
            _on(loop, lambda: result)


def _on(loop: asyncio.AbstractEventLoop | None, start: Callable[[], Awaitable[Any]]) -> Any:
    """Run an awaitable on the loop and wait for it; on a temporary loop if that one has stopped."""

    async def run() -> Any:
        with contained("an async resource"):
            return await start()

    if loop is None or not loop.is_running():
        return asyncio.run(run())
    return asyncio.run_coroutine_threadsafe(run(), loop).result()


class _Held:
    """An async context manager, entered and exited by the same task."""

    def __init__(self, manager: Any, loop: asyncio.AbstractEventLoop | None):
        if loop is None:
            raise RuntimeError(f"{type(manager).__name__} is an async context manager, and no event loop is running")
        self._manager = manager
        self._loop = loop
        self._entered: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._left: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._leave = asyncio.Event()

    def enter(self) -> Any:
        self._loop.call_soon_threadsafe(self._begin)
        return self._entered.result()

    def leave(self) -> None:
        if self._loop.is_running():  # else it was exited when the loop stopped
            self._loop.call_soon_threadsafe(self._leave.set)
            self._left.result()

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._hold())

    async def _hold(self) -> None:
        try:
            async with self._manager as value:
                self._entered.set_result(value)
                await self._leave.wait()
        except BaseException as error:
            future = self._left if self._entered.done() else self._entered
            future.set_exception(as_exception(error, type(self._manager).__name__))
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            self._left.set_result(None)
