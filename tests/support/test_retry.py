"""Requests are retried with backoff, within limits, and not sent at all while a service is down."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import tenacity

from toolrl.errors import ConfigError, RetrieverFault
from toolrl.search.base import NotReadable
from toolrl.support.rate_limit import RateLimit
from toolrl.support.retry import (
    CircuitBreaker,
    CircuitOpen,
    FullJitter,
    RetriesExhausted,
    RetryPolicy,
    ServiceCaller,
    TryAgain,
    retry_after_seconds,
)
from toolrl.support.usage import Usage, counting

QUICK = RetryPolicy(
    requests_per_second=None, attempts=3, first_delay_seconds=0.001, max_delay_seconds=0.002, failures_to_open=100
)


class Service:
    """Fails a given number of times, then answers."""

    def __init__(self, failures: int = 0, retry_after: float | None = None):
        self.failures = failures
        self.retry_after = retry_after
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        if self.asked <= self.failures:
            raise TryAgain("HTTP status 503", self.retry_after)
        return "an answer"


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def settings(**changes) -> RetryPolicy:
    fields = {name: getattr(QUICK, name) for name in RetryPolicy.__dataclass_fields__}
    return RetryPolicy(**{**fields, **changes})


# ServiceCaller


def test_a_service_that_recovers_is_asked_again_and_retries_are_counted():
    service, usage = Service(failures=2), Usage()
    with counting(usage):
        assert ServiceCaller("s", QUICK).call("search", service) == "an answer"
    assert service.asked == 3
    assert usage.amounts() == {"search_retries": 2}


def test_a_service_that_answers_is_asked_once_and_counts_nothing():
    service, usage = Service(), Usage()
    with counting(usage):
        ServiceCaller("s", QUICK).call("search", service)
    assert service.asked == 1
    assert usage.amounts() == {}


def test_attempts_are_bounded_and_the_fault_says_why():
    service = Service(failures=99)
    with pytest.raises(RetriesExhausted, match="search 'x': s failed 3 times, last: HTTP status 503"):
        ServiceCaller("s", QUICK).call("search 'x'", service)
    assert service.asked == 3


def test_no_attempt_begins_after_the_deadline():
    service = Service(failures=99, retry_after=1000)
    with pytest.raises(RetriesExhausted, match="asked for 1000 s"):
        ServiceCaller("s", QUICK).call("search", service)
    assert service.asked == 1


def test_a_call_can_have_an_earlier_deadline():
    service = Service(failures=99, retry_after=5)
    with pytest.raises(RetriesExhausted):
        ServiceCaller("s", QUICK).call("search", service, within_seconds=1)
    assert service.asked == 1


def test_a_pause_that_a_service_asks_for_holds_all_processes(tmp_path):
    caller = ServiceCaller("s", settings(requests_per_second=100.0), folder=tmp_path)
    with pytest.raises(RetriesExhausted):
        caller.call("search", Service(failures=99, retry_after=500))
    assert RateLimit("s", 100.0, folder=tmp_path).held_seconds() > 400
    with pytest.raises(CircuitOpen, match=r"s has asked for a pause until ..:..:.. UTC"):
        caller.call("search", Service())


@pytest.mark.parametrize("error", [NotReadable("gone"), RetrieverFault("down"), ZeroDivisionError()])
def test_other_errors_are_raised_at_once(error):
    calls = []

    def fail() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        ServiceCaller("s", QUICK).call("read", fail)
    assert len(calls) == 1


def test_a_service_that_is_down_is_left_alone():
    caller = ServiceCaller("s", settings(failures_to_open=4, attempts=2, open_seconds=1000))
    service = Service(failures=99)
    for _ in range(2):
        with pytest.raises(RetriesExhausted):
            caller.call("search", service)
    with pytest.raises(CircuitOpen, match=r"s failed 4 times in a row .*status 503.* not asked until ..:..:.. UTC"):
        caller.call("search", service)
    assert service.asked == 4


def test_a_full_rate_is_a_fault_and_not_a_longer_wait(tmp_path):
    caller = ServiceCaller("s", settings(requests_per_second=0.001, deadline_seconds=1), folder=tmp_path)
    caller.call("search", Service())
    with pytest.raises(RetrieverFault, match="no request to s is free within"):
        caller.call("search", Service())


def test_requests_in_flight_are_bounded():
    caller = ServiceCaller("s", settings(max_concurrent=3))
    lock, flying, most = threading.Lock(), 0, 0
    three_at_once = threading.Barrier(3)

    def ask() -> None:
        nonlocal flying, most
        with lock:
            flying += 1
            most = max(most, flying)
        three_at_once.wait(timeout=30)  # breaks if fewer are let in
        with lock:
            flying -= 1

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(lambda _: caller.call("search", ask), range(12)))
    assert most == 3


def test_a_slot_that_does_not_become_free_is_a_fault():
    caller = ServiceCaller("s", settings(max_concurrent=1, deadline_seconds=0))

    def ask_within() -> str:
        return caller.call("search", Service())

    with pytest.raises(RetrieverFault, match="in flight"):
        caller.call("search", ask_within)
    assert caller.call("search", Service()) == "an answer"


def test_closing_ends_waiting_calls():
    caller = ServiceCaller("s", settings(first_delay_seconds=1000, max_delay_seconds=1000, deadline_seconds=10000))
    asked = threading.Event()

    def fail() -> None:
        asked.set()
        raise TryAgain("down")

    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(caller.call, "search", fail)
        assert asked.wait(30)
        caller.close()
        caller.close()
        with pytest.raises(RetrieverFault, match="closed"):
            future.result(timeout=30)


@pytest.mark.parametrize(
    "change",
    [
        {"attempts": 0},
        {"max_concurrent": 0},
        {"burst": 0},
        {"failures_to_open": 0},
        {"deadline_seconds": -1},
        {"open_seconds": float("nan")},
        {"requests_per_second": 0},
    ],
)
def test_invalid_settings_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        RetryPolicy(**change)


# Pauses


def pauses(attempt: int, retry_after: float | None = None) -> list[float]:
    """Draw pauses of at most 4 seconds after a failed attempt."""
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = attempt
    state.outcome = tenacity.Future.construct(attempt, TryAgain("down", retry_after), has_exception=True)
    return [FullJitter(1.0, 4.0)(state) for _ in range(300)]


def test_pauses_double_up_to_a_longest_one_and_are_spread_over_the_whole() -> None:
    for attempt, longest in [(1, 1), (2, 2), (3, 4), (4, 4), (5000, 4)]:
        assert 0 <= min(pauses(attempt)) < longest * 0.2
        assert longest * 0.8 < max(pauses(attempt)) <= longest


def test_a_pause_is_never_shorter_than_the_service_asked_for() -> None:
    delays = pauses(1, retry_after=10)
    assert min(delays) >= 10
    assert max(delays) <= 11
    assert len(set(delays)) > 1  # otherwise all clients would return at the same time


def test_jitter_leaves_the_seeded_generator_alone() -> None:
    random.seed(7)
    before = random.getstate()
    pauses(3)
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("-3", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
    ],
)
def test_retry_after_in_seconds(header, seconds):
    assert retry_after_seconds(header) == seconds


def test_retry_after_as_a_date():
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert retry_after_seconds(date) == pytest.approx(100, abs=10)
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0


# The breaker


def fail_once(breaker: CircuitBreaker) -> None:
    with pytest.raises(TryAgain), breaker.attempt():
        raise TryAgain("down")


def succeed_once(breaker: CircuitBreaker) -> None:
    with breaker.attempt():
        pass


def test_only_consecutive_failures_open_it():
    breaker = CircuitBreaker("s", failures=2, open_seconds=10, clock=Clock())
    fail_once(breaker)
    succeed_once(breaker)
    fail_once(breaker)
    assert breaker.state == "closed"
    fail_once(breaker)
    assert breaker.state == "open"


def test_it_says_how_long_it_is_open():
    clock = Clock()
    breaker = CircuitBreaker("s", failures=1, open_seconds=10, clock=clock)
    fail_once(breaker)
    clock.now = 4
    with pytest.raises(CircuitOpen, match=r"\(6 s\)") as refused:
        succeed_once(breaker)
    assert refused.value.seconds == 6


def test_half_open_it_lets_one_attempt_through_that_decides():
    clock = Clock()
    breaker = CircuitBreaker("s", failures=1, open_seconds=10, clock=clock)
    fail_once(breaker)
    clock.now = 10
    assert breaker.state == "half-open"
    with breaker.attempt(), pytest.raises(CircuitOpen):
        succeed_once(breaker)
    assert breaker.state == "closed"
    succeed_once(breaker)


def test_a_failure_when_half_open_opens_it_again():
    clock = Clock()
    breaker = CircuitBreaker("s", failures=3, open_seconds=10, clock=clock)
    for _ in range(3):
        fail_once(breaker)
    clock.now = 10
    fail_once(breaker)
    assert breaker.state == "open"
    clock.now = 19.9
    assert breaker.state == "open"


def test_an_attempt_that_says_nothing_leaves_it_half_open():
    clock = Clock()
    breaker = CircuitBreaker("s", failures=1, open_seconds=10, clock=clock)
    fail_once(breaker)
    clock.now = 10
    with pytest.raises(KeyboardInterrupt), breaker.attempt():
        raise KeyboardInterrupt
    assert breaker.state == "half-open"
    succeed_once(breaker)
    assert breaker.state == "closed"


def test_a_refusal_of_what_was_asked_for_is_an_answer():
    breaker = CircuitBreaker("s", failures=2, open_seconds=10, clock=Clock())
    fail_once(breaker)
    with pytest.raises(NotReadable), breaker.attempt():
        raise NotReadable("404")
    fail_once(breaker)
    assert breaker.state == "closed"


def test_an_attempt_from_before_it_opened_does_not_close_it():
    breaker = CircuitBreaker("s", failures=1, open_seconds=10, clock=Clock())
    with breaker.attempt():
        fail_once(breaker)
    assert breaker.state == "open"


def test_threads_lose_no_failure():
    breaker = CircuitBreaker("s", failures=400, open_seconds=10, clock=Clock())
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: fail_once(breaker), range(399)))
    assert breaker.state == "closed"
    fail_once(breaker)
    assert breaker.state == "open"
