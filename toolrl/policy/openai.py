"""A policy behind a chat-completions API: for evaluation and demonstrations, never for training."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from toolrl.chat.wire import from_wire, to_wire, with_thinking_apart
from toolrl.errors import ConfigError, PolicyFault
from toolrl.policy.base import Reply
from toolrl.policy.completions import ChatCompletions, Endpoint, Refused, tokens_of
from toolrl.policy.refusals import is_context_full, room_left
from toolrl.support.retry import TryAgain
from toolrl.support.waiting import in_thread
from toolrl.types import Message, SamplingParams

_RESERVED = ("messages", "tools", "stream", "n", "model")
_CUT = ("length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded")
_BROKEN_OFF = ("error", "abort", "insufficient_system_resource")
_LEAST_TOKENS = 16  # of a turn that is worth asking for


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
        self._max_concurrent = endpoint.retry_policy.max_concurrent

    async def reply(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], sampling: SamplingParams
    ) -> Reply:
        """See `ChatPolicy.reply`. A conversation that the model has no room for ends with "length"."""
        places = self._places.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._max_concurrent))
        async with places:
            return await in_thread(lambda: self._ask(messages, tools, sampling))

    def progress(self) -> float:
        """The time: each request ends by itself, at the latest after the endpoint's deadline. See `ShowsProgress`."""
        return time.monotonic()

    def close(self) -> None:
        """Close the connections; calls that wait for their next attempt end with a fault."""
        self._client.close()

    def _ask(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], sampling: SamplingParams) -> Reply:
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
            except Refused as refusal:
                if not is_context_full(refusal.body, refusal.status):
                    raise
                # There may be room for a shorter turn. Some servers count no further than what would not fit.
                room = room_left(refusal.body) or 0
                limit = min(room, limit - 1) if limit == sampling.max_tokens else min(room, limit // 2)
                if limit < _LEAST_TOKENS:
                    return Reply(Message("assistant", ""), "length")
            else:
                return replace(answered.value, seconds=answered.seconds)


def _read(answer: Mapping[str, Any], used_ids: set[str]) -> Reply:
    """The turn in an answer.

    Raises:
        TryAgain: There is none.
        PolicyFault: The server's filter has kept it back.
    """
    try:
        choice = answer["choices"][0]
        finish = choice.get("finish_reason")
        if finish in _BROKEN_OFF:
            raise TryAgain(f"the server broke the turn off: {finish!r}")
        if finish == "content_filter":
            raise PolicyFault("the server's content filter stopped the turn")
        message = with_thinking_apart(from_wire({**choice["message"], "role": "assistant"}))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise TryAgain(f"no message in the answer: {error!r}") from None
    calls, seen = [], set(used_ids)
    for call in message.tool_calls:
        # Some servers number each turn's calls from 0: the episode gives those ids of its own.
        calls.append(replace(call, id="") if call.id in seen else call)
        seen.add(call.id)
    tokens = tokens_of(answer)
    return Reply(
        replace(message, tool_calls=tuple(calls)),
        "length" if finish in _CUT else "stop",
        input_tokens=tokens.input if tokens else None,
        output_tokens=tokens.output if tokens else None,
    )
