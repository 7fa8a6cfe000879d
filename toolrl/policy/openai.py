"""A policy behind a chat-completions API: for evaluation and demonstrations, never for training."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from toolrl.chat.wire import from_wire, to_wire, with_thinking_split
from toolrl.errors import ConfigError, PolicyFault
from toolrl.policy.base import ChatReply
from toolrl.policy.completions import ChatCompletions, Endpoint, RequestRefused, read_usage
from toolrl.policy.refusals import is_context_full, room_left
from toolrl.support.retry import TryAgain
from toolrl.support.waiting import in_thread
from toolrl.types import Message, SamplingParams

_RESERVED = ("messages", "tools", "stream", "n", "model")
_CUT_SHORT = ("length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded")
_ABORTED = ("error", "abort", "insufficient_system_resource")
_MIN_TOKENS = 16  # a shorter turn is not worth asking for


class OpenAIPolicy:
    """A `ChatPolicy` that asks a model for messages with native tool calls.

    Its usage is counted in `Trajectory.usage`: `model_requests`, `model_retries`, `model_input_tokens`,
    `model_cached_input_tokens`, `model_output_tokens` and, with prices, `model_dollars`.
    """

    def __init__(self, endpoint: Endpoint, *, request: Mapping[str, Any] | None = None):
        """Open a client; nothing is sent yet.

        Args:
            endpoint: Where the model is served, and how many requests it gets at once.
            request: Further fields of each request, such as `{"reasoning_effort": "low"}`.

        Raises:
            ConfigError: `request` has a field that the policy sets itself.
        """
        self._request = dict(request or {})
        if own := sorted(set(_RESERVED) & set(self._request)):
            raise ConfigError(f"request must not have {own[0]!r}; the policy sets it")
        self._client = ChatCompletions(endpoint)
        # Calls queue here, before the client's deadline starts: waiting in a queue is not a failure.
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        self._max_concurrent = endpoint.retry_policy.max_concurrent

    @property
    def identity(self) -> str:
        """Everything that a turn depends on besides the conversation and the sampling, as a key for caches."""
        return json.dumps([self._client.url, self._client.endpoint.model, self._request], sort_keys=True)

    async def reply(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], sampling: SamplingParams
    ) -> ChatReply:
        """See `ChatPolicy.reply`. A conversation that does not fit the model's context ends with "length"."""
        slots = self._slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._max_concurrent))
        async with slots:
            return await in_thread(lambda: self._ask(messages, tools, sampling))

    def progress(self) -> float:
        """The current time: each request ends by itself, at the endpoint's deadline. See `ShowsProgress`."""
        return time.monotonic()

    def close(self) -> None:
        """Close the connections; calls that wait for a retry end with a fault."""
        self._client.close()

    def _ask(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], sampling: SamplingParams
    ) -> ChatReply:
        used = {call.id for message in messages for call in message.tool_calls}
        request: dict[str, Any] = {
            "messages": [to_wire(message) for message in messages],
            "temperature": sampling.temperature,
            **({"tools": list(tools)} if tools else {}),
            **self._request,
        }
        limit = sampling.max_tokens
        while True:
            limited = {"max_tokens": limit, **request}
            try:
                answered = self._client.ask("a turn", limited, lambda answer: _read(answer, used))
            except RequestRefused as refusal:
                if not is_context_full(refusal.body, refusal.status):
                    raise
                # A shorter turn may fit. Some servers stop counting at the first token that does not fit.
                room = room_left(refusal.body) or 0
                limit = min(room, limit - 1) if limit == sampling.max_tokens else min(room, limit // 2)
                if limit < _MIN_TOKENS:
                    return ChatReply(Message("assistant", ""), "length")
            else:
                return replace(answered.value, seconds=answered.seconds)


def _read(answer: Mapping[str, Any], used_ids: set[str]) -> ChatReply:
    """Read the turn in an answer.

    Raises:
        TryAgain: The answer has no message, or the server aborted the turn.
        PolicyFault: The server's content filter stopped it.
    """
    try:
        choice = answer["choices"][0]
        finish = choice.get("finish_reason")
        if finish in _ABORTED:
            raise TryAgain(f"the server aborted the turn: {finish!r}")
        if finish == "content_filter":
            raise PolicyFault("the server's content filter stopped the turn")
        message = with_thinking_split(from_wire({**choice["message"], "role": "assistant"}))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise TryAgain(f"no message in the answer: {error!r}") from None
    calls, seen = [], set(used_ids)
    for call in message.tool_calls:
        # Some servers number each turn's calls from 0; the episode then gives them ids of its own.
        calls.append(replace(call, id="") if call.id in seen else call)
        seen.add(call.id)
    tokens = read_usage(answer)
    return ChatReply(
        replace(message, tool_calls=tuple(calls)),
        "length" if finish in _CUT_SHORT else "stop",
        input_tokens=tokens.input if tokens else None,
        output_tokens=tokens.output if tokens else None,
    )
