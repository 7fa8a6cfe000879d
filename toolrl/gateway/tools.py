"""What a program does in its environment: calls of tools, and words to the user."""

from __future__ import annotations

import asyncio
from typing import Any

from toolrl.env import ToolEnv
from toolrl.episode import EpisodeSession, Step
from toolrl.errors import ConfigError
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
    """A program's calls of the environment's tools, and its words to the user.

    What ends the episode, or is nobody's mistake, is kept here: a program may catch everything, and go on.

    Attributes:
        schemas: The tools; if there is a user, the last one says something to them.
        has_user: Whether there is one.
        made: Calls so far, words included.
        over: Why the environment has ended the episode; None if it has not.
        fault: What a tool raised that was not the program's mistake: an infrastructure fault, or a bug.
    """

    def __init__(self, session: EpisodeSession, env: ToolEnv):
        """Call tools of an episode of `env`; on its event loop."""
        self.has_user = env.user is not None
        self.schemas: list[dict[str, Any]] = list(env.toolbox.schemas)
        if self.has_user:
            self.schemas.append(words_tool(env))
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
        step = await self._advance(Message("assistant", "", (call,)))
        result = step.results[0]
        if result.failure is not None and result.failure is not ToolFailure.LIMIT:
            raise ToolMistake(result.content)
        return result.content

    async def say(self, text: str) -> str:
        """See `AgentContext.say`."""
        if not self.has_user:
            raise ConfigError("this environment has no user to speak to; return the answer")
        return (await self._advance(Message("assistant", text))).reply or ""

    async def _advance(self, message: Message) -> Step:
        self.made += 1
        async with self._one_call:
            if self.fault is not None:
                raise self.fault
            if self.over is not None:
                raise EpisodeOver(self.over)
            try:
                step = await self._session.advance(message)
            except Exception as fault:
                self.fault = fault
                raise
            self.over = step.stop
        if step.stop is not None:
            raise EpisodeOver(step.stop)
        return step

    async def run_from_elsewhere(self, call: ToolCall) -> str:
        """Run a call of one of `schemas` from another event loop. If nobody waits for it any longer, it goes on."""
        result = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._run(call), self._loop))
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            if result.cancelled():  # by `close`
                raise EpisodeOver(StopReason.ANSWER) from None
            raise

    async def _run(self, call: ToolCall) -> str:
        if self._is_closed:
            raise EpisodeOver(StopReason.ANSWER)
        task = asyncio.current_task()
        assert task is not None
        self._from_elsewhere.add(task)
        try:
            if self.has_user and call.name == self.schemas[-1]["function"]["name"]:
                text = call.arguments.get("text")
                if not isinstance(text, str):
                    raise ToolMistake(f"error: text must be a string, got {text!r:.80}")
                return await self.say(text)
            return await self.run(call)
        finally:
            self._from_elsewhere.discard(task)

    async def close(self) -> None:
        """Give up the calls from elsewhere that are in flight, before the episode is graded."""
        self._is_closed = True
        for task in (tasks := list(self._from_elsewhere)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def words_tool(env: ToolEnv) -> dict[str, Any]:
    """The tool by which a client that only knows tools says something; the environment's own have other names."""
    taken = {schema["function"]["name"] for schema in env.toolbox.schemas}
    name, about = ("answer", "Give the final answer, which ends the episode.")
    if env.user is not None:
        name, about = "say", "Say something to the user, who replies."
    while name in taken:
        name = f"{name}_"
    parameters = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}
