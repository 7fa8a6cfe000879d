"""A client of chat-completions APIs: OpenAI's, and the many servers that speak its protocol.

A policy asks it for turns, a judge for verdicts. Requests are retried politely, answers are bounded, and tokens and
dollars are counted with `toolrl.support.usage`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import httpx

from toolrl.errors import ConfigError, PolicyFault, RetrieverFault
from toolrl.policy.refusals import ServerQuirks, is_context_full, needs_user_action
from toolrl.support.retry import RetryPolicy, ServiceCaller, TryAgain, retry_after_seconds
from toolrl.support.usage import count_usage

T = TypeVar("T")

OPENAI_URL = "https://api.openai.com/v1"

_TRANSIENT = (408, 409, 425, 429)
# Unreadable answers are retried too. They do not mean that the server is down, hence the many consecutive failures.
RETRY_POLICY = RetryPolicy(
    requests_per_second=None,
    max_concurrent=16,
    attempts=6,
    max_delay_seconds=30.0,
    deadline_seconds=600.0,
    failures_to_open=64,
)


@dataclass(frozen=True, slots=True)
class Prices:
    """What a model costs, in dollars per million tokens.

    Attributes:
        input: Of the prompt.
        output: Of the reply, thinking included.
        cached_input: Of the part of the prompt in the server's cache; by default the same as `input`.
    """

    input: float = 0.0
    output: float = 0.0
    cached_input: float | None = None

    def __post_init__(self) -> None:
        """Refuse invalid prices.

        Raises:
            ConfigError: A price is negative or not finite.
        """
        for name in ("input", "output", "cached_input"):
            price = getattr(self, name)
            if price is not None and not 0 <= price < math.inf:
                raise ConfigError(f"Prices.{name} must be dollars per million tokens, got {price!r}")

    def dollars(self, tokens: TokenUsage) -> float:
        """The cost of one request."""
        cached_input = self.input if self.cached_input is None else self.cached_input
        fresh = tokens.input - tokens.cached_input
        return (fresh * self.input + tokens.cached_input * cached_input + tokens.output * self.output) / 1e6


class TokenUsage(NamedTuple):
    """Tokens of one request, as the server counts them: `input` includes `cached_input`, `output` the thinking."""

    input: int
    output: int
    cached_input: int = 0


def default_base_url() -> str:
    """The environment variable OPENAI_BASE_URL, else OpenAI's address."""
    return os.environ.get("OPENAI_BASE_URL") or OPENAI_URL


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is served, and how to call it.

    Attributes:
        model: The model's name on the server.
        base_url: The server's address, up to and including `/v1`; by default OPENAI_BASE_URL, else OpenAI's.
        api_key: Sent as a bearer token; by default OPENAI_API_KEY. Left out of the repr.
        timeout_seconds: Of one request.
        retry_policy: How many requests are in flight, and how often and when one is retried.
        prices: Without prices, dollars are not counted.
        max_response_bytes: A longer response is rejected.
    """

    model: str
    base_url: str = field(default_factory=default_base_url)
    api_key: str | None = field(default_factory=lambda: os.environ.get("OPENAI_API_KEY") or None, repr=False)
    timeout_seconds: float = 300.0
    retry_policy: RetryPolicy = RETRY_POLICY
    prices: Prices | None = None
    max_response_bytes: int = 16_000_000

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: The address is invalid, a number is out of range, or the key for OpenAI is missing.
        """
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"base_url must start with http:// or https://, got {self.base_url!r}")
        if not self.model:
            raise ConfigError("the model has no name; pass the name of a model on the server at base_url")
        for name in ("timeout_seconds", "max_response_bytes"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"Endpoint.{name} must be positive, got {getattr(self, name)!r}")
        if self.api_key is None and httpx.URL(self.base_url).host == httpx.URL(OPENAI_URL).host:
            raise ConfigError(f"{self.base_url} needs an API key; set OPENAI_API_KEY, or pass api_key=")


class Answered(NamedTuple, Generic[T]):
    """What was read from an answer, and the seconds of the attempt that gave it."""

    value: T
    seconds: float


class RequestRefused(PolicyFault):
    """The server refuses this request, and would refuse it again.

    Attributes:
        status: The HTTP status.
        body: The beginning of the response.
    """

    def __init__(self, message: str, status: int, body: str):
        super().__init__(message)
        self.status = status
        self.body = body


class ChatCompletions:
    """One model behind an API. Thread-safe; share one among all threads of a process."""

    def __init__(self, endpoint: Endpoint, *, name: str = "the model", counted_as: str = "model"):
        """Open a client; nothing is sent yet.

        Args:
            endpoint: Where the model is served.
            name: What messages call it.
            counted_as: The prefix under which its usage is counted: `_requests`, `_retries`, `_input_tokens`,
                `_cached_input_tokens`, `_output_tokens` and, with prices, `_dollars`.
        """
        self.endpoint = endpoint
        self.url = f"{endpoint.base_url.rstrip('/').removesuffix('/chat/completions')}/chat/completions"
        self._name = name
        self._counted_as = counted_as
        headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=endpoint.retry_policy.max_concurrent)
        self._client = httpx.Client(headers=headers, timeout=endpoint.timeout_seconds, limits=limits)
        self._caller = ServiceCaller(name, endpoint.retry_policy, retries_counted_as=f"{counted_as}_retries")
        self._quirks = ServerQuirks(f"{name} {endpoint.model!r} at {self.url}")

    def ask(self, what: str, request: Mapping[str, Any], read: Callable[[dict[str, Any]], T]) -> Answered[T]:
        """Ask until there is a readable answer.

        A field that the server does not accept is left out or renamed from then on, and the log says so.

        Args:
            what: What is asked for, for messages.
            request: The body, without the model.
            read: Reads a value from the answer's JSON object. Raises `TryAgain` if another attempt may help.

        Raises:
            RequestRefused: The server refuses this request.
            PolicyFault: The server is down, or no attempt gave a usable answer.
            ConfigError: The server refuses the key, does not know the model, or the account has no credit.
        """
        body = {"model": self.endpoint.model, **request}
        try:
            return self._caller.call(what, lambda: self._attempt(body, read))
        except RetrieverFault as error:
            raise PolicyFault(str(error)) from error

    def close(self) -> None:
        """Close the connections; calls that wait for a retry end with a fault. Safe to call twice."""
        self._caller.close()
        self._client.close()

    def _attempt(self, body: Mapping[str, Any], read: Callable[[dict[str, Any]], T]) -> Answered[T]:
        start = time.monotonic()
        while True:
            count_usage(f"{self._counted_as}_requests")
            sent = self._quirks.apply(body)
            status, retry_after, text = self._post(sent)
            if status not in (400, 422) or not self._quirks.learn(body, sent, text):
                break
        short = text[:500].strip()
        if status >= 400 and is_context_full(text, status):
            raise RequestRefused(
                f"{self._name} has no room for the conversation ({status}: {short!r})", status, text[:10_000]
            )
        if needs_user_action(status, text):
            raise ConfigError(
                f"{self._name} at {self.url} answers {status} for model {body['model']!r}; "
                f"check base_url, model and api_key ({short!r})"
            )
        if status in _TRANSIENT or status >= 500:
            raise TryAgain(f"status {status} {short[:200]!r}", retry_after_seconds(retry_after))
        if status != 200:
            raise RequestRefused(f"{self._name} answers {status}: {short!r}", status, text[:10_000])
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TryAgain(f"the response is not JSON ({type(error).__name__}): {short[:200]!r}") from None
        if not isinstance(answer, dict):
            raise TryAgain(f"the response is not a JSON object: {short[:200]!r}")
        # Some gateways report an error with status 200.
        if not answer.get("choices") and is_context_full(text[:10_000], 200):
            raise RequestRefused(f"{self._name} has no room for the conversation: {short!r}", status, text[:10_000])
        self._count(answer)
        return Answered(read(answer), time.monotonic() - start)

    def _post(self, body: Mapping[str, Any]) -> tuple[int, str | None, str]:
        """Status, Retry-After and body of one response, with bounded time and size."""
        deadline = time.monotonic() + self.endpoint.timeout_seconds
        content = bytearray()
        # A lone surrogate, written by a model or cut by an API, cannot be encoded.
        request = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        kind = {"Content-Type": "application/json"}
        try:
            with self._client.stream("POST", self.url, content=request, headers=kind) as response:
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > self.endpoint.max_response_bytes:
                        raise TryAgain(f"a response of more than {self.endpoint.max_response_bytes} bytes")
                    if time.monotonic() > deadline:
                        raise TryAgain(f"no complete response within {self.endpoint.timeout_seconds:g} s")
        except httpx.RequestError as error:
            raise TryAgain(f"{type(error).__name__}: {error}") from None
        return response.status_code, response.headers.get("Retry-After"), content.decode("utf-8", "replace")

    def _count(self, answer: Mapping[str, Any]) -> None:
        tokens = read_usage(answer)
        if tokens is None:
            return
        count_usage(f"{self._counted_as}_input_tokens", tokens.input)
        count_usage(f"{self._counted_as}_output_tokens", tokens.output)
        if tokens.cached_input:
            count_usage(f"{self._counted_as}_cached_input_tokens", tokens.cached_input)
        if self.endpoint.prices is not None:
            count_usage(f"{self._counted_as}_dollars", self.endpoint.prices.dollars(tokens))


def read_usage(answer: Mapping[str, Any]) -> TokenUsage | None:
    """The usage that a server reports with its answer; None if it reports none."""
    usage = answer.get("usage")
    try:
        details = usage.get("prompt_tokens_details") or {}  # type: ignore[union-attr]
        cached = details.get("cached_tokens") or 0
        tokens = TokenUsage(usage["prompt_tokens"], usage["completion_tokens"], cached)  # type: ignore[index]
    except (AttributeError, KeyError, TypeError):
        return None
    if not all(isinstance(count, int) and count >= 0 for count in tokens) or tokens.cached_input > tokens.input:
        return None
    return tokens
