"""Results of other threads on their way to an event loop: those that come together wake it once."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from toolrl.support.waiting import as_exception


class Arrivals:
    """Makes futures of other threads awaitable, as `asyncio.wrap_future` does, which wakes the loop for each.

    A wake-up is a system call, at which the thread that delivers results loses the interpreter to the loop. After one
    step of generation there may be results for many episodes.

    Attributes:
        loop: The event loop that awaits them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self.loop = loop
        self._arrived: deque[tuple[asyncio.Future[Any], Future[Any], str]] = deque()
        self._is_woken = False

    def expect(self, source: Future[Any], what: str) -> asyncio.Future[Any]:
        """A future of the loop that ends as `source` does; cancelling it cancels `source`. Call it on the loop.

        Args:
            source: The future of another thread.
            what: What makes it, for messages.
        """
        awaited: asyncio.Future[Any] = self.loop.create_future()

        def arrive(source: Future[Any]) -> None:
            self._arrived.append((awaited, source, what))
            if not self._is_woken:
                self._is_woken = True
                with suppress(RuntimeError):  # the loop is closed
                    self.loop.call_soon_threadsafe(self._hand_over)

        awaited.add_done_callback(lambda awaited: source.cancel() if awaited.cancelled() else None)
        source.add_done_callback(arrive)
        return awaited

    def _hand_over(self) -> None:
        self._is_woken = False  # first: what arrives from here on wakes the loop again
        while self._arrived:
            awaited, source, what = self._arrived.popleft()
            if awaited.done():
                continue
            if source.cancelled():
                awaited.cancel()
            elif (error := source.exception()) is not None:
                awaited.set_exception(as_exception(error, what))
            else:
                awaited.set_result(source.result())
