"""Requests to services we do not run: rate limited, retried with backoff, and stopped while a service is down.

`ServiceCaller.call` combines the three. The retries are tenacity's.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar

import tenacity

from toolrl.errors import ConfigError, RetrieverFault, ToolError
from toolrl.support.rate_limit import RateLimit
from toolrl.support.shared_rate import SharedRateLimit
from toolrl.support.usage import count_usage

T = TypeVar("T")

# Jitter must neither advance the program's seeded generator nor be the same in forked processes.
_random = random.SystemRandom()


class TryAgain(Exception):
    """An attempt failed for a reason that may pass; raised by the function that makes the attempt.

    Attributes:
        reason: What happened, for people.
        retry_after: Seconds the service asked us to wait; None if it did not say.
    """

    def __init__(self, reason: str, retry_after: float | None = None):
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class RetriesExhausted(RetrieverFault):
    """Every attempt that was allowed has failed.

    Attributes:
        reason: Why the last one failed.
    """

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


class CircuitOpen(RetrieverFault):
    """The service is not asked for a while: it has failed too often lately, or has asked for a pause.

    Attributes:
        seconds: Until it is asked again.
    """

    def __init__(self, message: str, seconds: float):
        super().__init__(message)
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a service is asked, and how failures are retried.

    Attributes:
        requests_per_second: Over all processes of this user on this machine, or of a run on its cluster; None for no
            limit.
        burst: Requests that may be sent at once after a pause.
        max_concurrent: Requests in flight at the same time, in this process.
        attempts: Maximum number of attempts per call.
        first_delay_seconds: Longest pause before the second attempt; the limit doubles with each further one.
        max_delay_seconds: Longest pause of all, unless the service asks for more.
        deadline_seconds: No attempt starts later than this. A call takes at most this long plus the time of one
            attempt, which the called function must bound itself.
        failures_to_open: After this many consecutive failed attempts the service is not asked for a while.
        open_seconds: How long it is then left alone.
    """

    requests_per_second: float | None = 1.0
    burst: int = 1
    max_concurrent: int = 4
    attempts: int = 4
    first_delay_seconds: float = 0.5
    max_delay_seconds: float = 8.0
    deadline_seconds: float = 18.0
    failures_to_open: int = 8
    open_seconds: float = 30.0

    def __post_init__(self) -> None:
        """Validate the settings.

        Raises:
            ConfigError: A number is out of range.
        """
        for name in ("burst", "max_concurrent", "attempts", "failures_to_open"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("first_delay_seconds", "max_delay_seconds", "deadline_seconds", "open_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be finite and not negative, got {getattr(self, name)}")
        rate = self.requests_per_second
        if rate is not None and not 0 < rate < math.inf:
            raise ConfigError(f"requests_per_second must be positive, or None for no limit, got {rate}")


class FullJitter(tenacity.wait_exponential):
    """A random pause up to an exponentially growing limit, on top of what the service asked for.

    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter ("Full Jitter"). tenacity's own
    `wait_random_exponential` draws from the global generator.
    """

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        """Seconds to wait after the attempt that has just failed."""
        failure = retry_state.outcome and retry_state.outcome.exception()
        asked = failure.retry_after if isinstance(failure, TryAgain) else None
        return (asked or 0.0) + _random.uniform(0.0, super().__call__(retry_state))


class CircuitBreaker:
    """Stops requests to a service that is down. Thread-safe; each process has its own.

    Closed: attempts go through. Open, after too many consecutive failures: attempts are refused at once. Half-open,
    some time later: one attempt goes through, and its outcome closes or reopens the circuit.

    Args:
        name: The service, for messages.
        failures: Consecutive failures that open the circuit.
        open_seconds: How long attempts are then refused.
        clock: Returns seconds, from any origin.
    """

    def __init__(
        self, name: str, *, failures: int, open_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name, self._failures_to_open, self._open_seconds, self._clock = name, failures, open_seconds, clock
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until: float | None = None  # None: closed
        self._probing = False
        self._last_reason = ""

    @property
    def state(self) -> str:
        """One of "closed", "open" and "half-open"."""
        with self._lock:
            if self._open_until is None:
                return "closed"
            return "open" if self._clock() < self._open_until else "half-open"

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Wrap one attempt: `TryAgain` is a failure, a return or a `ToolError` a success, anything else neither.

        Raises:
            CircuitOpen: The circuit is open, or half-open with another attempt in progress.
        """
        with self._lock:
            is_probe = self._open_until is not None
            if self._open_until is not None:
                seconds = max(0.0, self._open_until - self._clock())
                if seconds or self._probing:
                    raise CircuitOpen(
                        f"{self._name} failed {self._failures} times in a row (last: {self._last_reason}); "
                        f"it is not asked until {_time_in(seconds)}",
                        seconds,
                    )
                self._probing = True
        failed: bool | None = None  # None: the attempt says nothing about the service
        try:
            yield
            failed = False
        except ToolError:  # the service answered: the request was wrong
            failed = False
            raise
        except TryAgain as error:
            failed, reason = True, error.reason
            raise
        finally:
            with self._lock:
                if is_probe:
                    self._probing = False
                if failed is not None and (is_probe or self._open_until is None):  # else: from before it opened
                    self._failures = self._failures + 1 if failed else 0
                    if failed:
                        self._last_reason = reason
                    opens = failed and (is_probe or self._failures >= self._failures_to_open)
                    self._open_until = self._clock() + self._open_seconds if opens else None


class ServiceCaller:
    """Calls one service under a policy. Thread-safe; make one for all threads of a process.

    Args:
        name: The service. All processes that use this name share its rate.
        policy: How often it is asked, and how failures are retried.
        folder: See `RateLimit`.
        retries_counted_as: The name under which `toolrl.support.usage` counts retries.

    Raises:
        ConfigError: See `RateLimit`.
    """

    def __init__(
        self,
        name: str,
        policy: RetryPolicy | None = None,
        *,
        folder: Path | None = None,
        retries_counted_as: str = "search_retries",
    ):
        self.name = name
        self.policy = policy = RetryPolicy() if policy is None else policy
        rate = policy.requests_per_second
        self._limit = (
            None if rate is None else SharedRateLimit(RateLimit(name, rate, burst=policy.burst, folder=folder))
        )
        self._breaker = CircuitBreaker(name, failures=policy.failures_to_open, open_seconds=policy.open_seconds)
        self._slots = threading.BoundedSemaphore(policy.max_concurrent)
        self._closed = threading.Event()
        self._retries_counted_as = retries_counted_as

    def call(self, what: str, function: Callable[[], T], *, within_seconds: float = math.inf) -> T:
        """Call a function until it does not raise `TryAgain`; any other exception is passed on at once.

        Args:
            what: What is asked for, for messages.
            function: Makes one attempt, in bounded time.
            within_seconds: A deadline for this call, if it is earlier than the policy's.

        Raises:
            RetriesExhausted: All attempts failed, or another one would have started too late.
            CircuitOpen: The service is down or has asked for a pause, and is not asked now.
            RetrieverFault: No request could be sent in time, or the caller was closed.
        """
        seconds = min(self.policy.deadline_seconds, within_seconds)
        deadline = time.monotonic() + seconds

        def pause(seconds: float) -> None:
            self._sleep(what, seconds)
            count_usage(self._retries_counted_as)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TryAgain),
            stop=tenacity.stop_after_attempt(self.policy.attempts) | tenacity.stop_before_delay(seconds),
            wait=FullJitter(self.policy.first_delay_seconds, self.policy.max_delay_seconds),
            sleep=pause,
        )
        try:
            return retrying(self._attempt, what, function, deadline)
        except tenacity.RetryError as exhausted:
            failure, attempts = exhausted.last_attempt.exception(), exhausted.last_attempt.attempt_number
            assert isinstance(failure, TryAgain)
            asked = f"; it asked for {failure.retry_after:.0f} s" if failure.retry_after else ""
            message = f"{what}: {self.name} failed {attempts} times, last: {failure.reason}{asked}"
            raise RetriesExhausted(message, failure.reason) from failure

    def close(self) -> None:
        """End all waiting calls with a `RetrieverFault`; may be called twice."""
        self._closed.set()

    def _attempt(self, what: str, function: Callable[[], T], deadline: float) -> T:
        if not self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise RetrieverFault(
                f"{what}: {self.policy.max_concurrent} other requests to {self.name} were in flight all the time"
            )
        try:
            with self._breaker.attempt():
                if self._limit is not None:
                    self._wait_for_turn(what, self._limit, deadline)
                try:
                    return function()
                except TryAgain as failure:
                    if failure.retry_after and self._limit:
                        self._limit.hold(failure.retry_after)
                    raise
        finally:
            self._slots.release()

    def _wait_for_turn(self, what: str, limit: SharedRateLimit, deadline: float) -> None:
        within = max(0.0, deadline - time.monotonic())
        seconds = limit.reserve(within)
        if seconds is None:
            held = limit.held_seconds()
            if held > within:
                raise CircuitOpen(f"{what}: {self.name} has asked for a pause until {_time_in(held)}", held)
            raise RetrieverFault(
                f"{what}: no request to {self.name} is free within {within:.1f} s at "
                f"{self.policy.requests_per_second:g} requests per second; send fewer at once, or raise the rate if "
                "the service allows it"
            )
        self._sleep(what, seconds)

    def _sleep(self, what: str, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise RetrieverFault(f"{what}: {self.name} was closed while waiting")


def retry_after_seconds(header: str | None) -> float | None:
    """Parse a Retry-After header, seconds or a date (RFC 9110, section 10.2.3); None if it is neither."""
    if not header:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _time_in(seconds: float) -> str:
    """The time of day some seconds from now, for people."""
    when = datetime.fromtimestamp(time.time() + seconds, UTC)
    return f"{when:%H:%M:%S} UTC ({seconds:.0f} s)"
