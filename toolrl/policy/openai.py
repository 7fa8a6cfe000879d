"""A policy behind a chat-completions API: for evaluation and demonstrations, never for training."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from toolrl.chat.wire import from_wire, to_wire
from toolrl.errors import ConfigError
from toolrl.policy.base import Reply
from toolrl.policy.completions import ChatCompletions, Endpoint, Refused, tokens_of
from toolrl.search.politeness import TryAgain
from toolrl.types import Message, Sampling
from toolrl.waiting import in_thread

# What servers call a conversation that the model has no room for: OpenAI, vLLM, llama.cpp.
_CONTEXT_FULL = ("context_length_exceeded", "maximum context length", "exceed_context_size")
_RESERVED = ("messages", "tools", "stream", "n", "model")


class OpenAIPolicy:
    """Asks a model for assistant messages, with native tool calls. A `ChatPolicy`.

    What it costs is counted in `Trajectory.usage`: `model_requests`, `model_retries`, `model_input_tokens`,
    `model_cached_input_tokens`, `model_output_tokens` and, with prices, `model_dollars`.
    """

    def __init__(self, endpoint: Endpoint, *, request: Mapping[str, Any] | None = None):
        """Open a client; nothing is sent yet.

        Args:
            endpoint: Where the model is, and how many requests it gets at a time.
            request: Further fields of each request, such as `{"reasoning_effort": "low"}`.

        Raises:
            ConfigError: `request` has a field that is the policy's own.
        """
        self._request = dict(request or {})
        if own := sorted(set(_RESERVED) & set(self._request)):
            raise ConfigError(f"request must not have {own[0]!r}; the policy sets it")
        self._client = ChatCompletions(endpoint)
        # Those who wait for their turn here do so before the client's deadline begins: a queue is no failure.
        self._places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        self._max_concurrent = endpoint.politeness.max_concurrent
        self._limit_name = "max_tokens"

    async def reply(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], sampling: Sampling) -> Reply:
        """See `ChatPolicy.reply`. A conversation that the model has no room for ends with "length"."""
        places = self._places.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._max_concurrent))
        try:
            async with places:
                return await in_thread(lambda: self._ask(messages, tools, sampling))
        except Refused as refusal:
            if any(mark in refusal.body for mark in _CONTEXT_FULL):
                return Reply(Message("assistant", ""), "length")
            raise

    def progress(self) -> float:
        """The time: each request ends by itself, at the latest after the endpoint's deadline. See `ShowsProgress`."""
        return time.monotonic()

    def close(self) -> None:
        """Close the connections; calls that wait for their next attempt end with a fault."""
        self._client.close()

    def _ask(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], sampling: Sampling) -> Reply:
        used = {call.id for message in messages for call in message.tool_calls}
        request: dict[str, Any] = {
            "messages": [to_wire(message) for message in messages],
            "temperature": sampling.temperature,
            **({"tools": list(tools)} if tools else {}),
            **self._request,
        }
        while True:
            limit_name = self._limit_name
            limited = {limit_name: sampling.max_tokens, **request}
            try:
                answered = self._client.ask("a turn", limited, lambda answer: _read(answer, used))
            except Refused as refusal:
                # OpenAI's reasoning models know only this name, older servers only the other.
                if limit_name == "max_tokens" and "max_completion_tokens" in refusal.body:
                    self._limit_name = "max_completion_tokens"
                    continue
                raise
            return replace(answered.value, seconds=answered.seconds)


def _read(answer: Mapping[str, Any], used_ids: set[str]) -> Reply:
    """The turn in an answer.

    Raises:
        TryAgain: There is none.
    """
    try:
        choice = answer["choices"][0]
        message = from_wire({**choice["message"], "role": "assistant"})
    except (LookupError, TypeError, ValueError) as error:
        raise TryAgain(f"no message in the answer: {error!r}") from None
    calls, seen = [], set(used_ids)
    for call in message.tool_calls:
        # Some servers number each turn's calls from 0: the episode gives those ids of its own.
        calls.append(replace(call, id="") if call.id in seen else call)
        seen.add(call.id)
    tokens = tokens_of(answer)
    return Reply(
        replace(message, tool_calls=tuple(calls)),
        "length" if choice.get("finish_reason") == "length" else "stop",
        input_tokens=tokens.input if tokens else None,
        output_tokens=tokens.output if tokens else None,
    )
