"""What an opener gives, open and ready, and how it is closed.

An opener may be a function or a coroutine function. It gives the resource itself, whose `aclose()` or `close()`, async
or not, closes it; or a context manager without either, async or not, which is entered and left; or a generator that
yields the resource once, async or not, as pytest's fixtures do. What is async runs on the event loop on which the tools
run, and an async context manager is left by the task that entered it.
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

_OWN_WAYS = ("close", "aclose", "acquire")  # the last: entering a lock would hold it


class Opened:
    """An open resource that has to be closed.

    Attributes:
        value: What tools and rewards are given.
    """

    def __init__(self, value: Any, close: Callable[[], object]):
        """Keep what was opened with what closes it; `close` blocks, and never runs on the event loop."""
        self.value = value
        self.close = close

    @property
    def usage(self) -> Any:
        """What the resource says that it has used."""
        return getattr(self.value, "usage", {})


def check_opener(open: Any, takes_task: bool) -> None:
    """Refuse what cannot open a resource when it is needed.

    Raises:
        ToolDefinitionError: It is open already, or wants arguments.
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
    try:
        parameters = list(inspect.signature(open).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature
        return
    wanted = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(wanted) > takes_task or any(p.kind is p.KEYWORD_ONLY for p in wanted):
        names = ", ".join(p.name for p in wanted)
        given = "with the episode's task at most" if takes_task else "without arguments"
        raise ToolDefinitionError(f"{what} is called {given}, and its function wants {names}; write lambda: ...")


def open_resource(open: Callable[..., Any], arguments: tuple[Any, ...], loop: asyncio.AbstractEventLoop | None) -> Any:
    """Open a resource; blocks, on a thread without an event loop.

    Args:
        open: What the author gave.
        arguments: For it.
        loop: Where what is async runs.

    Returns:
        The resource if nothing has to be closed, else an `Opened`.
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
    if not any(hasattr(kind, name) for name in _OWN_WAYS):
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
    """Await on the loop what `start` begins there; on a loop for this alone if that one has ended."""

    async def run() -> Any:
        with contained("an async resource"):
            return await start()

    if loop is None or not loop.is_running():
        return asyncio.run(run())
    return asyncio.run_coroutine_threadsafe(run(), loop).result()


class _Held:
    """An async context manager, entered and left by one task."""

    def __init__(self, manager: Any, loop: asyncio.AbstractEventLoop | None):
        if loop is None:
            raise RuntimeError(f"{type(manager).__name__} is entered on an event loop, and none is running")
        self._manager = manager
        self._loop = loop
        self._entered: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._left: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._leave = asyncio.Event()

    def enter(self) -> Any:
        self._loop.call_soon_threadsafe(self._begin)
        return self._entered.result()

    def leave(self) -> None:
        if self._loop.is_running():  # else it was left when the loop ended
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
