"""Answers calls of an episode with sampled turns, and keeps every token. `toolrl.gateway.server` speaks HTTP."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

from toolrl.chat import Renderer
from toolrl.errors import ConfigError, PolicyFault, TemplateError
from toolrl.gateway.tools import ToolCalls
from toolrl.gateway.tree import Conversations, Node
from toolrl.policy import Policy
from toolrl.policy.watchdog import Watchdog
from toolrl.support.waiting import POLICY_TIMEOUT_SECONDS
from toolrl.types import Message, SamplingParams


class CallRefused(Exception):
    """A call is not answered, and its episode goes on.

    Attributes:
        status: As an HTTP status.
    """

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """Bounds of an episode's calls.

    Attributes:
        calls: Calls in all.
        at_once: Calls in flight; others wait.
        turn_tokens: Sampled tokens of one turn.
        tokens: Tokens of one conversation, prompt included.
        completion_tokens: Tokens of one conversation after its prompt.
    """

    calls: int = 200
    at_once: int = 16
    turn_tokens: int = 4096
    tokens: int = 131_072
    completion_tokens: int = 131_072

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: One is not positive.
        """
        for name in ("calls", "at_once", "turn_tokens", "tokens", "completion_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"GatewayLimits.{name} must be at least 1, got {getattr(self, name)!r}")


@dataclass(eq=False)
class Client:
    """The episode that a key opens.

    Attributes:
        key: What the client sends.
        conversations: Its turns.
        sampling: How they are sampled; calls may ask for fewer tokens.
        limits: Its bounds.
        faults: Why the policy failed calls that have not succeeded since, by the conversation they continue.
        calls: So far.
        is_over_limit: Whether a call was refused since there were too many, or its conversation was full.
        tools: The environment's, if there is one.
    """

    key: str
    conversations: Conversations
    sampling: SamplingParams
    limits: GatewayLimits
    faults: dict[int, str] = field(default_factory=dict)
    calls: int = 0
    is_over_limit: bool = False
    tools: ToolCalls | None = None
    slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = field(default_factory=WeakKeyDictionary)
    closed: bool = False

    @property
    def fault(self) -> str:
        """Why the policy failed a call that never succeeded; empty if there is none. A client may catch its error."""
        return next(iter(self.faults.values()), "")


class Gateway:
    """Samples for any number of episodes, each under a key of its own.

    Attributes:
        model: The name under which the policy is offered.
    """

    def __init__(
        self,
        policy: Policy,
        renderer: Renderer,
        *,
        model: str = "policy",
        policy_timeout_seconds: float = POLICY_TIMEOUT_SECONDS,
    ):
        """Put a gateway in front of a policy, which the caller holds `generating()` and closes.

        Args:
            policy: Samples turns.
            renderer: Of its model.
            model: The name under which it is offered.
            policy_timeout_seconds: See `RolloutEngine`.
        """
        self.model = model
        self._policy, self._renderer = policy, renderer
        self._timeout_seconds = policy_timeout_seconds
        self._watches: WeakKeyDictionary[asyncio.AbstractEventLoop, Watchdog] = WeakKeyDictionary()
        self._clients: dict[str, Client] = {}

    def open(
        self,
        sampling: SamplingParams | None = None,
        limits: GatewayLimits | None = None,
        renderer: Renderer | None = None,
    ) -> Client:
        """Begin an episode; its key is accepted until it is closed.

        Args:
            sampling: How turns are sampled.
            limits: Of its calls.
            renderer: With the template's variables of this episode; by default the gateway's.
        """
        key = f"toolrl-{secrets.token_urlsafe(24)}"
        conversations = Conversations(renderer or self._renderer)
        client = Client(key, conversations, sampling or SamplingParams(), limits or GatewayLimits())
        self._clients[key] = client
        return client

    def close(self, client: Client) -> None:
        """End an episode: its key is refused from now on, and calls in flight are not kept."""
        client.closed = True
        self._clients.pop(client.key, None)

    def client(self, key: str) -> Client | None:
        """The episode of a key."""
        return self._clients.get(key)

    def text(self, token_id: int) -> str:
        """The text of one token."""
        return self._renderer.decode([token_id])

    async def complete(
        self,
        client: Client,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
        *,
        max_tokens: int | None = None,
        stops: Sequence[str] = (),
    ) -> Node:
        """Sample the turn that follows some messages.

        Args:
            client: The episode.
            messages: The whole conversation, as the client has it.
            tools: JSON schemas, as in `Toolbox.schemas`.
            max_tokens: The most tokens that the client wants.
            stops: The client is shown the text before the first of these. The turn itself goes on to its end.

        Raises:
            CallRefused: The call is wrong, or over a limit.
            PolicyFault: The policy failed, which is noted in `client.fault`.
        """
        limits = client.limits
        if client.closed:
            raise CallRefused("this episode has ended", 401)
        if client.calls >= limits.calls:
            client.is_over_limit = True
            raise CallRefused(f"no more than {limits.calls} calls are allowed in an episode", 429)
        if not messages or messages[-1].role == "assistant":
            raise CallRefused("the last message must be the user's, the system's or a tool's")
        client.calls += 1
        slots = client.slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(limits.at_once))
        async with slots:
            try:
                place = client.conversations.place(messages, tools)
            except TemplateError as error:
                raise CallRefused(f"the chat template cannot write these messages: {error}") from None
            prompt_ids = place.prompt_ids
            there, beginning = len(prompt_ids), len(place.beginning_ids)
            room = min(limits.tokens - there, limits.completion_tokens - (there - beginning))
            if room < 1:
                client.is_over_limit = True
                raise CallRefused(
                    f"the conversation has {there} tokens, {there - beginning} after its prompt; the maximum context "
                    f"length is {limits.tokens}, and {limits.completion_tokens} after the prompt"
                )
            most = min(client.sampling.max_tokens, limits.turn_tokens, max_tokens or room, room)
            start = time.perf_counter()
            try:
                sample = await self._watch().sample(prompt_ids, replace(client.sampling, max_tokens=most))
            except PolicyFault as fault:
                client.faults[place.key] = str(fault)
                raise
            client.faults.pop(place.key, None)
            seconds = time.perf_counter() - start
            message = client.conversations.renderer.parse(sample.token_ids, list(tools), after_tools=place.after_tools)
            if client.closed:  # nobody will ever continue this turn
                raise CallRefused("this episode has ended", 401)
            message = _with_ids(message)
            return client.conversations.add(place, sample, message, _shown(message, stops), seconds)

    def _watch(self) -> Watchdog:
        loop = asyncio.get_running_loop()
        if loop not in self._watches:
            self._watches[loop] = Watchdog(self._policy, self._timeout_seconds)
        return self._watches[loop]


def _with_ids(message: Message) -> Message:
    """The turn with an id for each call: answers are matched to calls by it."""
    calls = tuple(replace(call, id=f"call_{secrets.token_hex(6)}") for call in message.tool_calls)
    return replace(message, tool_calls=calls)


def _shown(message: Message, stops: Sequence[str]) -> Message:
    """The turn as a client gets it: malformed calls as text, as a server that cannot read them would leave them."""
    content = "\n".join(filter(None, [message.content, *(call.raw for call in message.tool_calls if call.error)]))
    for stop in stops:
        content = content.partition(stop)[0]
    return replace(message, content=content, tool_calls=tuple(call for call in message.tool_calls if not call.error))
