"""Waiting for code that others wrote: tools, rewards, policies, what opens and closes resources. Never for ever.

A function that blocks runs on a daemon thread of its own. It cannot be killed: whoever waits gives it up.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from toolrl.errors import InfrastructureError

T = TypeVar("T")

_log = logging.getLogger(__name__)

# A first batch that compiles, or a long prompt on a slow CPU, takes minutes before its first token.
POLICY_TIMEOUT_SECONDS = 600.0
# How long a coroutine that was cancelled may take to end before it is left to itself.
GRACE_SECONDS = 5.0


class TookTooLong(Exception):
    """What was waited for has not ended in its time."""


@contextmanager
def noting(note: str) -> Iterator[None]:
    """Add a note to what is raised inside; its type and traceback stay."""
    try:
        yield
    except Exception as error:
        error.add_note(note)
        raise


@contextmanager
def contained(what: str) -> Iterator[None]:
    """Name what ran in whatever it raises. What would end the event loop for everybody becomes a RuntimeError."""
    try:
        with noting(f"in {what}"):
            yield
    except GeneratorExit:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or _is_being_cancelled():
            raise
        raise RuntimeError(f"{what} raised {error!r}") from error


async def in_thread(function: Callable[[], T]) -> T:
    """Await a blocking function on a daemon thread of its own.

    A thread pool would be exhausted by functions that hang, and joined at exit; starting a thread costs some 50
    microseconds.

    Raises:
        InfrastructureError: The machine has no thread left.
        RuntimeError: The function raised what is no `Exception`.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def resolve(method: Callable[[Any], None], value: Any) -> None:
        if not future.done():  # nobody waits any more
            method(value)

    def run() -> None:
        try:
            outcome = functools.partial(resolve, future.set_result, context.run(function))
        except BaseException as error:  # noqa: BLE001 - handed on to whoever awaits
            outcome = functools.partial(resolve, future.set_exception, as_exception(error, "function"))
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(outcome)

    context = contextvars.copy_context()
    try:
        threading.Thread(target=run, name="toolrl-tool", daemon=True).start()
    except RuntimeError as error:
        raise InfrastructureError(f"no thread could be started: {error}") from error
    return await future


async def within(seconds: float, what: str, start: Callable[[], Awaitable[T]]) -> T:
    """Await what `start` begins for at most so many seconds in which the event loop runs.

    The time is spent in slices. However long the loop was held up by others (they render, a callback writes, the
    machine is busy), that costs one slice; and an answer that came meanwhile is taken.

    Args:
        seconds: How long; about a hundredth more passes before it is given up, a tenth where it is below a second.
        what: What is waited for, for messages.
        start: Called on the loop.

    Raises:
        TookTooLong: It has not ended. A coroutine is cancelled, a thread is left to itself.
        RuntimeError: It raised what is no `Exception`.
    """
    slice_seconds = max(min(0.1, seconds / 10), seconds / 100)
    left = seconds + slice_seconds  # the last one is for an answer on its way
    task = asyncio.ensure_future(_run_contained(what, start))
    try:
        while left > 0 and not task.done():
            await asyncio.wait((task,), timeout=slice_seconds)
            left -= slice_seconds
        if task.done():
            return task.result()
    finally:
        await give_up(task)
    raise TookTooLong(f"{what} has not ended within {seconds:g} seconds")


async def give_up(task: asyncio.Future[Any]) -> None:
    """Cancel a task if it still runs; one that will not end is left to itself."""
    if not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=GRACE_SECONDS)
    if task.done() and not task.cancelled():
        task.exception()  # or asyncio would complain that nobody asked for it


async def _run_contained(what: str, start: Callable[[], Awaitable[T]]) -> T:
    with contained(what):
        return await start()


def as_exception(error: BaseException, what: str) -> Exception:
    """An error as it can be raised on an event loop: there, what is no `Exception` would end it for everybody."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):  # which no future takes
        return error
    replaced = RuntimeError(f"{what} raised {error!r}")
    replaced.__cause__ = error
    return replaced


def run_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop on this thread until it is stopped, whatever its tasks raise: who awaits one of them is told."""
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            _log.exception("an event loop goes on after what was raised on it")
        else:
            return


def _is_being_cancelled() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # on a thread without a loop
        return False
    return task is not None and task.cancelling() > 0


def ends_within(seconds: float, function: Callable[[], object]) -> bool:
    """Run a blocking function on a daemon thread, and say whether it has ended in time.

    Raises:
        RuntimeError: It raised what is no `Exception`; those are raised as they are.
    """
    raised: list[Exception] = []
    ended = threading.Event()

    def run() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - handed on below
            raised.append(as_exception(error, "function"))
        finally:
            ended.set()

    threading.Thread(target=contextvars.copy_context().run, args=(run,), name="toolrl-close", daemon=True).start()
    if not ended.wait(seconds):
        return False
    if raised:
        raise raised[0]
    return True
