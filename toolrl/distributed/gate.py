"""A policy whose weights can be replaced while episodes are played: turns wait at its gate meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any

from toolrl.errors import ConfigError, PolicyFault
from toolrl.policy import Policy, ShowsProgress, TransformersPolicy, VLLMPolicy
from toolrl.types import Sample, SamplingParams

_DRAIN_SECONDS = 600.0  # for turns in flight to end


class Gate:
    """Passes turns on to a policy. One version of the weights samples all tokens of a turn."""

    def __init__(self, policy: Policy):
        """Guard a policy, which someone else closes."""
        self._policy = policy
        self._lock = threading.Condition()
        self._is_open = True
        self._in_flight = 0
        self._waiting: list[tuple[Future[Sample], list[int], SamplingParams]] = []
        self._weights: Mapping[str, Any] = {}

    def submit(self, prompt_ids: list[int], sampling: SamplingParams) -> Future[Sample]:
        """Pass a turn on, or have it wait for new weights."""
        with self._lock:
            if not self._is_open:
                future: Future[Sample] = Future()
                self._waiting.append((future, prompt_ids, sampling))
                return future
            self._in_flight += 1
        try:
            passed = self._policy.submit(prompt_ids, sampling)
        except BaseException:
            self._ended()
            raise
        passed.add_done_callback(lambda _: self._ended())
        return passed

    def generating(self) -> AbstractContextManager[None]:
        """That of the policy."""
        return self._policy.generating()

    def progress(self) -> float:
        """That of the policy, if it shows any."""
        return self._policy.progress() if isinstance(self._policy, ShowsProgress) else 0.0

    def close(self) -> None:
        """Nothing: the policy is closed by whoever opened it."""

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        """Wait for the turns in flight, and replace the weights.

        Args:
            weights: Tensors by their names in a checkpoint.
            version: What samples are stamped with from now on.

        Raises:
            ConfigError: The policy has no weights that could be set.
            PolicyFault: Turns do not end.
        """
        policy = self._policy
        if not isinstance(policy, (TransformersPolicy, VLLMPolicy)):
            raise ConfigError(f"{type(policy).__name__} has no weights that could be set")
        with self._lock:
            self._is_open = False
            if not self._lock.wait_for(lambda: not self._in_flight, _DRAIN_SECONDS):
                self._reopen()
                raise PolicyFault(f"turns in flight did not end within {_DRAIN_SECONDS:g} seconds")
        try:
            if isinstance(policy, TransformersPolicy):
                policy.load_weights(weights.items())
            else:
                self._weights = weights
                if not policy.connected:
                    policy.connect(self._current)
                policy.update_weights()
            policy.version = version
        finally:
            with self._lock:
                self._reopen()

    def _current(self) -> Iterator[tuple[str, Any]]:
        yield from self._weights.items()

    def _ended(self) -> None:
        with self._lock:
            self._in_flight -= 1
            self._lock.notify_all()

    def _reopen(self) -> None:
        """Submit the turns that waited; called with the lock."""
        waiting, self._waiting, self._is_open = self._waiting, [], True
        for future, prompt_ids, sampling in waiting:
            if not future.set_running_or_notify_cancel():
                continue
            self._in_flight += 1
            try:
                passed = self._policy.submit(prompt_ids, sampling)
            except BaseException as error:  # noqa: BLE001 - raised where the turn is awaited
                self._in_flight -= 1
                future.set_exception(error)
                continue
            passed.add_done_callback(lambda done, future=future: _hand_over(done, future))  # type: ignore[misc]
            passed.add_done_callback(lambda _: self._ended())


def _hand_over(done: Future[Sample], future: Future[Sample]) -> None:
    if done.cancelled():
        future.set_exception(PolicyFault("the turn was given up"))
    elif (error := done.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(done.result())
