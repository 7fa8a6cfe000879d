"""One event loop in the background, on which synchronous code runs its coroutines."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import threading
import traceback
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from toolrl.support.waiting import run_loop

T = TypeVar("T")

_loops: dict[int, tuple[asyncio.AbstractEventLoop, threading.Thread]] = {}
_loops_lock = threading.Lock()

# The loop is considered dead if a callback, or an async tool or reward that blocks, holds it this long.
BLOCKED_SECONDS = 300.0
# The same after Ctrl-C, and the time that coroutines then have to close what they opened.
BLOCKED_SECONDS_AFTER_INTERRUPT = 5.0
CLEANUP_SECONDS = 60.0


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to completion from synchronous code, even where an event loop is already running (notebooks).

    There is one background loop per process; a forked child, as in Gymnasium's `AsyncVectorEnv`, starts its own. Ctrl-C
    cancels the coroutine and waits a while for it to close what it has opened; a second Ctrl-C does not wait.

    Raises:
        RuntimeError: Called from a coroutine on that loop (an async tool, say), where it would deadlock; or the loop
            was blocked for `BLOCKED_SECONDS`, in which case the message shows where; or the coroutine raised something
            that is not an `Exception`.
    """
    loop, thread = _background_loop()
    if asyncio._get_running_loop() is loop:
        coroutine.close()
        raise RuntimeError("an async tool or reward cannot step an environment; make it a plain function")
    tasks: list[asyncio.Task[T]] = []
    finished, alive = threading.Event(), threading.Event()

    def start() -> None:
        tasks.append(loop.create_task(coroutine))
        tasks[0].add_done_callback(lambda task: finished.set())

    def stop() -> None:
        if tasks:
            tasks[0].cancel()
        else:  # interrupted before it was started
            coroutine.close()
            finished.set()

    def wait(seconds: float, blocked_seconds: float) -> None:
        """Wait for the coroutine to end; raise if the loop shows no sign of life for `blocked_seconds`."""
        blocked, look = 0.0, min(1.0, blocked_seconds / 5)
        loop.call_soon_threadsafe(alive.set)
        while not finished.wait(look) and seconds > 0:
            seconds -= look
            if alive.is_set():
                blocked = 0.0
                alive.clear()
                loop.call_soon_threadsafe(alive.set)
            else:
                blocked += look
                if blocked >= blocked_seconds:
                    raise _blocked(loop, thread, blocked)

    try:
        loop.call_soon_threadsafe(start)
        wait(math.inf, BLOCKED_SECONDS)
    except BaseException:
        # On Ctrl-C the coroutine must have closed what it opened before this thread goes on.
        if not finished.is_set() and _loops.get(os.getpid()) == (loop, thread):
            loop.call_soon_threadsafe(stop)
            with suppress(RuntimeError):
                wait(CLEANUP_SECONDS, BLOCKED_SECONDS_AFTER_INTERRUPT)
        raise
    try:
        return tasks[0].result()
    except (SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:
        raise RuntimeError(f"a coroutine raised {error!r}") from error


async def on_background_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine that runs on the background loop, from another loop."""
    return await asyncio.wrap_future(submit_to_background_loop(coroutine))


def submit_to_background_loop(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the background loop, from any thread; cancelling the future cancels it."""
    return asyncio.run_coroutine_threadsafe(coroutine, _background_loop()[0])


def _background_loop() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    with _loops_lock:
        if os.getpid() not in _loops:
            _loops.clear()
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=run_loop, args=(loop,), name="toolrl-env", daemon=True)
            thread.start()
            _loops[os.getpid()] = loop, thread
        return _loops[os.getpid()]


def _blocked(loop: asyncio.AbstractEventLoop, thread: threading.Thread, seconds: float) -> RuntimeError:
    """Abandon a blocked loop, so that the next coroutine gets a new one, and return the error to raise."""
    with _loops_lock:
        if _loops.get(os.getpid()) == (loop, thread):
            _loops.clear()
    frame = sys._current_frames().get(thread.ident or 0)
    where = "".join(traceback.format_stack(frame)) if frame is not None else "its thread has ended\n"
    return RuntimeError(
        f"episodes have stood still for {seconds:g} seconds: something blocks the event loop. A callback must return "
        f"quickly; a tool or reward that blocks must be a plain function, not async. It is here:\n{where}"
    )
