"""The environment's tools, as a program calls them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from toolrl.episode import EpisodeSession
from toolrl.types import Message, StopReason, ToolCall, ToolFailure


class ToolMistake(Exception):
    """A call of the environment's tool failed, and the agent caused it. The text is what a model would read."""


class EpisodeOver(Exception):
    """The environment has ended the episode; a program need not catch this.

    Attributes:
        stop: Why.
    """

    def __init__(self, stop: StopReason):
        super().__init__(f"the episode has ended: {stop}")
        self.stop = stop


class ToolCalls:
    """A program's calls of the environment's tools.

    What ends the episode, or is nobody's mistake, is kept here: a program may catch everything, and go on.

    Attributes:
        schemas: The tools.
        made: Calls so far.
        over: Why the environment has ended the episode; None if it has not.
        fault: What a tool raised that was not the program's mistake: an infrastructure fault, or a bug.
    """

    def __init__(self, session: EpisodeSession, schemas: Sequence[Mapping[str, Any]]):
        """Call tools of an episode; on its event loop."""
        self.schemas = schemas
        self.made = 0
        self.over: StopReason | None = None
        self.fault: Exception | None = None
        self._session = session
        self._one_call = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._from_elsewhere: set[asyncio.Task[str]] = set()
        self._is_closed = False

    async def run(self, call: ToolCall) -> str:
        """See `AgentContext.call`."""
        self.made += 1
        async with self._one_call:
            if self.fault is not None:
                raise self.fault
            if self.over is not None:
                raise EpisodeOver(self.over)
            try:
                step = await self._session.advance(Message("assistant", "", (call,)))
            except Exception as fault:
                self.fault = fault
                raise
        result, self.over = step.results[0], step.stop
        if self.over is not None:
            raise EpisodeOver(self.over)
        if result.failure is not None and result.failure is not ToolFailure.LIMIT:
            raise ToolMistake(result.content)
        return result.content

    async def run_from_elsewhere(self, call: ToolCall) -> str:
        """The same from another event loop. A call that nobody waits for any longer goes on to its end."""
        return await asyncio.shield(asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._run(call), self._loop)))

    async def _run(self, call: ToolCall) -> str:
        if self._is_closed:
            raise EpisodeOver(StopReason.ANSWER)
        task = asyncio.current_task()
        assert task is not None
        self._from_elsewhere.add(task)
        try:
            return await self.run(call)
        finally:
            self._from_elsewhere.discard(task)

    async def close(self) -> None:
        """Give up the calls from elsewhere that are in flight, before the episode is graded."""
        self._is_closed = True
        for task in (tasks := list(self._from_elsewhere)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
