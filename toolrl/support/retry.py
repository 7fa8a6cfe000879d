"""How services are asked that are not ours: not too often, again after a pause, and not at all while they are down.

`ServiceCaller.call` has it all; the parts can be used alone.
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

from toolrl.errors import ConfigError, RetrieverFault, ToolError
from toolrl.support.rate_limit import RateLimit
from toolrl.support.usage import count_usage

T = TypeVar("T")

# Jitter must neither use up the program's seeded generator nor be the same in forked processes.
_random = random.SystemRandom()


class TryAgain(Exception):
    """Raised by a function that is called politely: it failed for a reason that may pass.

    Attributes:
        reason: What happened, for people.
        retry_after: Seconds that the service asked us to wait; None if it did not say.
    """

    def __init__(self, reason: str, retry_after: float | None = None):
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class Exhausted(RetrieverFault):
    """Every attempt allowed has failed.

    Attributes:
        reason: Of the last failure.
    """

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


class CircuitOpen(RetrieverFault):
    """The service has failed so often lately that it is not asked for a while, or has asked for that itself.

    Attributes:
        seconds: Until it is asked again.
    """

    def __init__(self, message: str, seconds: float):
        super().__init__(message)
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How politely a service is asked.

    Attributes:
        requests_per_second: Over all processes of this user on this machine; None for no limit.
        burst: Requests that may come at once after a pause.
        max_concurrent: Requests in flight at the same time, of this process.
        attempts: At most so many for one call.
        first_delay_seconds: Longest pause before the second attempt; each further one is up to twice as long.
        max_delay_seconds: Longest pause, unless the service asks for more.
        deadline_seconds: No attempt begins later than this after the call. A call takes at most this and the time of
            one attempt, which the function called must limit itself.
        failures_to_open: After so many failed attempts on end the service is not asked for a while.
        open_seconds: How long not.
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
        """Refuse what makes no sense.

        Raises:
            ConfigError: A number is too small.
        """
        for name in ("burst", "max_concurrent", "attempts", "failures_to_open"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("first_delay_seconds", "max_delay_seconds", "deadline_seconds", "open_seconds"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"{name} must be a number of seconds, got {getattr(self, name)}")
        rate = self.requests_per_second
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise ConfigError(f"requests_per_second must be positive, or None for no limit, got {rate}")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that grow, with full jitter.

    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter ("Full Jitter").

    Attributes:
        first_seconds: Longest pause after the first failure.
        max_seconds: Longest pause of all.
    """

    first_seconds: float
    max_seconds: float

    def delay(self, failures: int, retry_after: float | None = None) -> float:
        """Seconds to wait after so many failures (from 1); never less than what the service asked for."""
        longest = min(self.max_seconds, self.first_seconds * 2.0 ** min(failures - 1, 60))
        return (retry_after or 0.0) + _random.uniform(0.0, longest)


class CircuitBreaker:
    """Stops asking a service that is down. Thread-safe; each process has its own.

    Closed: attempts go through. After enough failures on end it is open: attempts are refused at once. After a while
    it is half-open: one attempt goes through, and decides which of the two comes next.
    """

    def __init__(
        self, name: str, *, failures: int, open_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Make a closed one.

        Args:
            name: The service, for messages.
            failures: So many on end open it.
            open_seconds: How long attempts are then refused.
            clock: Seconds, from any start.
        """
        self._name = name
        self._failures_to_open = failures
        self._open_seconds = open_seconds
        self._clock = clock
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
        """Around one attempt: `TryAgain` is a failure, a return or a `ToolError` a success, anything else neither.

        Raises:
            CircuitOpen: It is open, or half-open with an attempt on its way.
        """
        probe = self._admit()
        failure: TryAgain | None = None
        judged = False
        try:
            yield
            judged = True
        except TryAgain as error:
            failure, judged = error, True
            raise
        except ToolError:  # the service answered: what was asked for was wrong
            judged = True
            raise
        finally:
            self._settle(probe, judged, failure)

    def _admit(self) -> bool:
        """Whether the attempt is the one that decides."""
        with self._lock:
            if self._open_until is None:
                return False
            seconds = self._open_until - self._clock()
            if seconds <= 0 and not self._probing:
                self._probing = True
                return True
            seconds = max(seconds, 0.0)
            raise CircuitOpen(
                f"{self._name} failed {self._failures} times on end (last: {self._last_reason}); "
                f"it is not asked until {_clock(seconds)}",
                seconds,
            )

    def _settle(self, probe: bool, judged: bool, failure: TryAgain | None) -> None:
        with self._lock:
            if probe:
                self._probing = False
            if not judged or (self._open_until is not None and not probe):
                return  # one from before it opened decides nothing
            if failure is None:
                self._failures, self._open_until = 0, None
                return
            self._failures += 1
            self._last_reason = failure.reason
            if probe or self._failures >= self._failures_to_open:
                self._open_until = self._clock() + self._open_seconds


class ServiceCaller:
    """One service and how it is asked. Thread-safe; make one for all threads of a process."""

    def __init__(
        self,
        name: str,
        settings: RetryPolicy | None = None,
        *,
        folder: Path | None = None,
        retries_counted_as: str = "search_retries",
    ):
        """Prepare to ask a service.

        Args:
            name: The service. All processes that use this name keep to its rate together.
            settings: How politely.
            folder: See `RateLimit`.
            retries_counted_as: What `toolrl.support.usage` calls further attempts.

        Raises:
            ConfigError: See `RateLimit`.
        """
        self.name = name
        self.settings = settings = RetryPolicy() if settings is None else settings
        rate = settings.requests_per_second
        self._limit = None if rate is None else RateLimit(name, rate, burst=settings.burst, folder=folder)
        self._backoff = Backoff(settings.first_delay_seconds, settings.max_delay_seconds)
        self._breaker = CircuitBreaker(name, failures=settings.failures_to_open, open_seconds=settings.open_seconds)
        self._places = threading.BoundedSemaphore(settings.max_concurrent)
        self._closed = threading.Event()
        self._retries_counted_as = retries_counted_as

    def call(self, what: str, function: Callable[[], T], *, within_seconds: float = math.inf) -> T:
        """Call a function until it does not raise `TryAgain`; whatever else it raises comes through at once.

        Args:
            what: What is asked, for messages.
            function: Makes one attempt, and ends in bounded time.
            within_seconds: A deadline for this call, if it is sooner than that of the settings.

        Raises:
            Exhausted: All attempts failed, or a further one would have begun too late.
            CircuitOpen: The service has been failing, or wants to be left alone, and is not asked now.
            RetrieverFault: There was no free moment or place in time, or this was closed.
        """
        deadline = time.monotonic() + min(self.settings.deadline_seconds, within_seconds)
        failures = 0
        while True:
            try:
                return self._attempt(what, function, deadline)
            except TryAgain as failure:
                failures += 1
                delay = self._backoff.delay(failures, failure.retry_after)
                late = time.monotonic() + delay > deadline
                if late or failures >= self.settings.attempts:
                    asked = f"; it asked for {failure.retry_after:.0f} s" if failure.retry_after else ""
                    message = f"{what}: {self.name} failed {failures} times, last: {failure.reason}{asked}"
                    raise Exhausted(message, failure.reason) from failure
            self._wait(what, delay)
            count_usage(self._retries_counted_as)

    def close(self) -> None:
        """End the waiting of all calls, with a `RetrieverFault`; may be called twice."""
        self._closed.set()

    def _attempt(self, what: str, function: Callable[[], T], deadline: float) -> T:
        if not self._places.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise RetrieverFault(
                f"{what}: {self.settings.max_concurrent} requests to {self.name} were in flight all the time"
            )
        try:
            with self._breaker.attempt():
                self._await_moment(what, deadline)
                try:
                    return function()
                except TryAgain as failure:
                    if failure.retry_after and self._limit:
                        self._limit.hold(failure.retry_after)
                    raise
        finally:
            self._places.release()

    def _await_moment(self, what: str, deadline: float) -> None:
        if self._limit is not None:
            within = max(0.0, deadline - time.monotonic())
            seconds = self._limit.reserve(within)
            if seconds is None:
                held = self._limit.held_seconds()
                if held > within:
                    raise CircuitOpen(f"{what}: {self.name} has asked not to be asked before {_clock(held)}", held)
                raise RetrieverFault(
                    f"{what}: no free moment to ask {self.name} within {within:.1f} s at "
                    f"{self.settings.requests_per_second:g} requests a second; ask less at a time, or raise the rate "
                    "if the service allows it"
                )
            self._wait(what, seconds)

    def _wait(self, what: str, seconds: float) -> None:
        if self._closed.wait(seconds) or self._closed.is_set():
            raise RetrieverFault(f"{what}: {self.name} was closed while waiting")


def retry_after_seconds(header: str | None) -> float | None:
    """What a Retry-After header asks for: seconds or a date (RFC 9110, section 10.2.3); None if it says neither."""
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


def _clock(seconds: float) -> str:
    """The time in so many seconds, for people."""
    when = datetime.fromtimestamp(time.time() + seconds, UTC)
    return f"{when:%H:%M:%S} UTC ({seconds:.0f} s)"
