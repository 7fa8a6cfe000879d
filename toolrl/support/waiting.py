"""Waiting for user code (tools, rewards, policies, resources) with a time limit.

A blocking function has a daemon thread to itself while it runs. It cannot be killed, only abandoned.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from toolrl.errors import InfrastructureError

T = TypeVar("T")

_log = logging.getLogger(__name__)

# A first batch that compiles, or a long prompt on a slow CPU, takes minutes until its first token.
POLICY_TIMEOUT_SECONDS = 600.0
# How long a cancelled coroutine may take to end before it is abandoned.
GRACE_SECONDS = 5.0
# How long a thread waits for another function. A burst of calls shares threads; soon after it none is left.
IDLE_SECONDS = 0.2

_idle: list[SimpleQueue[Callable[[], None]]] = []  # inboxes of the threads that wait, the latest last


class TookTooLong(Exception):
    """The awaited code did not end within its time limit."""


@contextmanager
def noting(note: str) -> Iterator[None]:
    """Add a note to any exception raised inside; its type and traceback stay."""
    try:
        yield
    except Exception as error:
        error.add_note(note)
        raise


@contextmanager
def contained(what: str) -> Iterator[None]:
    """Note what was running in any exception; one that would end the event loop becomes a RuntimeError."""
    try:
        yield
    except GeneratorExit:
        raise
    except BaseException as error:
        if isinstance(error, Exception):
            error.add_note(f"in {what}")
            raise
        if _is_being_cancelled():
            raise
        raise RuntimeError(f"{what} raised {error!r}") from error


async def in_thread(function: Callable[[], T]) -> T:
    """Await a blocking function on a daemon thread that runs nothing else meanwhile.

    A thread pool would be exhausted by functions that hang, and joined at exit.

    Raises:
        InfrastructureError: The machine has no thread left.
        RuntimeError: The function raised something that is not an `Exception`.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def resolve(method: Callable[[Any], None], value: Any) -> None:
        if not future.done():  # the caller may have gone
            method(value)

    def run() -> None:
        try:
            outcome = functools.partial(resolve, future.set_result, context.run(function))
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            outcome = functools.partial(resolve, future.set_exception, as_exception(error, "function"))
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(outcome)

    context = contextvars.copy_context()
    try:
        _run_on_thread(run)
    except RuntimeError as error:
        raise InfrastructureError(f"no thread could be started: {error}") from error
    return await future


def _run_on_thread(work: Callable[[], None]) -> None:
    """Run on an idle thread, or on a new one: the start of a thread blocks until it runs.

    Raises:
        RuntimeError: The machine has no thread left.
    """
    try:
        inbox = _idle.pop()
    except IndexError:
        inbox = SimpleQueue()
        threading.Thread(target=_serve, args=(inbox,), name="toolrl-call", daemon=True).start()
    inbox.put(work)


def _serve(inbox: SimpleQueue[Callable[[], None]]) -> None:
    """Run what is put into an inbox until nothing comes for `IDLE_SECONDS`."""
    inbox.get()()
    while True:
        _idle.append(inbox)
        try:
            work = inbox.get(timeout=IDLE_SECONDS)
        except Empty:
            try:
                _idle.remove(inbox)
            except ValueError:  # somebody has just taken it
                work = inbox.get()
            else:
                return
        work()
        del work  # it holds the call's arguments and result


os.register_at_fork(after_in_child=_idle.clear)  # a child has no other threads


async def within(seconds: float, what: str, start: Callable[[], Awaitable[T]]) -> T:
    """Await what `start` begins, for a time in which the event loop is responsive.

    Time is counted in slices. However long the loop is blocked by others (rendering, a slow callback, a busy machine),
    that costs one slice; and a result that arrived meanwhile is accepted.

    Args:
        seconds: The limit; it is exceeded by about 1%, or 10% if it is below a second.
        what: What is awaited, for messages.
        start: Called on the loop.

    Raises:
        TookTooLong: It did not end in time. A coroutine is cancelled, a thread is abandoned.
        RuntimeError: It raised something that is not an `Exception`.
    """
    slice_seconds = max(min(0.1, seconds / 10), seconds / 100)
    left = seconds + slice_seconds  # the last slice is for a result on its way
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


async def together(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all. The first exception cancels the others, and is raised when they have ended."""
    if len(coroutines) == 1:
        return [await coroutines[0]]
    failure: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as failures:
        failure = failures.exceptions[0]
    if failure is not None:
        raise failure  # outside the handler, to keep its own cause and context
    return [task.result() for task in tasks]


async def give_up(task: asyncio.Future[Any]) -> None:
    """Cancel a task if it is still running; one that does not end is abandoned."""
    if not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=GRACE_SECONDS)
    if task.done() and not task.cancelled():
        task.exception()  # otherwise asyncio warns that it was never retrieved


async def _run_contained(what: str, start: Callable[[], Awaitable[T]]) -> T:
    with contained(what):
        return await start()


def as_exception(error: BaseException, what: str) -> Exception:
    """Make an error safe to raise on an event loop, which anything but an `Exception` would end."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):  # futures do not accept it
        return error
    replaced = RuntimeError(f"{what} raised {error!r}")
    replaced.__cause__ = error
    return replaced


def run_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop on this thread until it is stopped, whatever its tasks raise; their awaiters get the exceptions."""
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            _log.exception("the event loop continues after an exception")
        else:
            return


def _is_being_cancelled() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # on a thread without a loop
        return False
    return task is not None and task.cancelling() > 0


def ends_within(seconds: float, function: Callable[[], object]) -> bool:
    """Run a blocking function on a daemon thread, and return whether it ended in time.

    Its exceptions are raised here.

    Raises:
        RuntimeError: It raised something that is not an `Exception`.
    """
    raised: list[Exception] = []
    ended = threading.Event()

    def run() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised below
            raised.append(as_exception(error, "function"))
        finally:
            ended.set()

    threading.Thread(target=contextvars.copy_context().run, args=(run,), name="toolrl-call", daemon=True).start()
    if not ended.wait(seconds):
        return False
    if raised:
        raise raised[0]
    return True
