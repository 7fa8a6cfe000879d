"""Blocking calls of a server's handlers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from toolrl.errors import InfrastructureError
from toolrl.support.serving import Refusal
from toolrl.support.waiting import in_thread

T = TypeVar("T")


class Threads:
    """Runs blocking calls on daemon threads, a limited number at once, first come first served.

    A call that hangs does not keep the process alive.
    """

    def __init__(self, at_once: int) -> None:
        self._free = asyncio.Semaphore(at_once)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a call; its slot is taken until it ends, even if the caller is cancelled."""
        await self._free.acquire()
        loop, started = asyncio.get_running_loop(), False

        def work() -> T:
            nonlocal started
            started = True
            try:
                return function(*arguments)
            finally:
                with contextlib.suppress(RuntimeError):  # the server has ended
                    loop.call_soon_threadsafe(self._free.release)

        try:
            return await in_thread(work)
        except InfrastructureError:
            if started:
                raise
            self._free.release()
            raise Refusal(503, "this server has no thread left; try again later", {"Retry-After": "1"}) from None
