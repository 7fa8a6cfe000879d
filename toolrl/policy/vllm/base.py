"""The base of policies on vLLM: turns as coroutines on the policy's own event loop, and weights from a trainer."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

from toolrl.errors import ConfigError, PolicyFault
from toolrl.policy.vllm.weights_sender import WeightSender
from toolrl.support.waiting import run_loop
from toolrl.types import Sample, SamplingParams

T = TypeVar("T")

_WAIT_SECONDS = 1800.0  # for a large model to start, or to load its weights again
CLOSING_SECONDS = 30.0


class EnginePolicy(ABC):
    """Samples with an engine that has its own copy of the weights.

    Attributes:
        version: Number of weight updates; stamped on each sample.
        max_model_len: Tokens in the longest conversation that the engine accepts.
    """

    max_model_len: int

    def __init__(self, stop_token_ids: Sequence[int]):
        """Start the event loop; `close` ends it."""
        self.version = 0
        self._stop_token_ids = [int(token) for token in stop_token_ids]
        self._sender: WeightSender | None = None
        self._generating = 0
        self._in_flight: set[Future[Sample]] = set()
        self._sampling = 0  # turns that the engine has
        self._open = asyncio.Event()  # cleared while weights wait or are sent: turns wait
        self._open.set()
        self._idle = asyncio.Event()  # set while the engine has no turn
        self._idle.set()
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = asyncio.new_event_loop()
        self._thread = threading.Thread(target=run_loop, args=(self._loop,), name="toolrl-engine", daemon=True)
        self._thread.start()

    def submit(self, prompt_ids: list[int], sampling: SamplingParams) -> Future[Sample]:
        """Queue a turn. A turn that fills the engine's context is cut: its finish is "length".

        Raises:
            ConfigError: Called outside `generating()`.
        """
        with self._lock:
            if not self._generating or self._loop is None:
                raise ConfigError("the engine is not set up to generate; submit inside `with policy.generating():`")
            future = asyncio.run_coroutine_threadsafe(self._sample(prompt_ids, sampling), self._loop)
            self._in_flight.add(future)
        future.add_done_callback(self._in_flight.discard)
        return future

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Make the engine ready, with the trainer's weights; the last to leave cancels the submissions in flight.

        Raises:
            PolicyFault: The engine is gone and cannot be restored.
        """
        with self._lock:
            if not self._generating:
                self._make_ready()
            self._generating += 1
        try:
            yield
        finally:
            with self._lock:
                self._generating -= 1
                if not self._generating:
                    for future in list(self._in_flight):
                        future.cancel()
                    self._settle()

    @property
    def connected(self) -> bool:
        """Whether a trainer is connected and sends its weights."""
        return self._sender is not None

    def update_weights(self) -> None:
        """Send the connected trainer's weights; cached prefixes are dropped, the version goes up.

        Turns that are being sampled end first, and turns submitted meanwhile begin afterwards: one version samples all
        tokens of a turn, and a conversation goes on with the new one.

        Raises:
            ConfigError: No trainer is connected.
            PolicyFault: The engine is gone, or does not end its turns.
        """
        with self._lock:
            if self._sender is None:
                raise ConfigError("no trainer is connected; call policy.connect(weights) first")
            sender = self._sender
            self._make_ready()
        # Without the lock, which `submit` needs: it is called from an event loop that plays other episodes.
        try:
            self._wait(self._drain())
            self._drop_cancelled()
            sender.send(self.version + 1)
            self.version += 1
        finally:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._open.set)

    def weights_changed(self) -> None:
        """Note that someone else has updated the engine's weights and dropped its cache.

        Raises:
            ConfigError: Submissions are in flight.
        """
        with self._lock:
            self._refuse_in_flight()
            self.version += 1

    def close(self) -> None:
        """Release the engine; submissions in flight are cancelled. Safe to call twice."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is None:
                return
            for future in list(self._in_flight):
                future.cancel()
            if self._sender is not None:
                self._sender.close()
            with suppress(TimeoutError):  # an engine that hangs must not block closing
                asyncio.run_coroutine_threadsafe(_end_tasks(), loop).result(CLOSING_SECONDS)
            self._release(loop)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(CLOSING_SECONDS)
        if not self._thread.is_alive():
            loop.close()

    async def _sample(self, prompt_ids: list[int], sampling: SamplingParams) -> Sample:
        room = min(sampling.max_tokens, self.max_model_len - len(prompt_ids))
        if room < 1:
            return Sample([], [], "length", self.version)
        await self._open.wait()
        version = self.version
        self._sampling += 1
        self._idle.clear()
        try:
            ids, logprobs, stopped = await self._turn(prompt_ids, replace(sampling, max_tokens=room))
        finally:
            self._sampling -= 1
            if not self._sampling:
                self._idle.set()
        return Sample(ids, logprobs, "stop" if stopped else "length", version)

    async def _drain(self) -> None:
        self._open.clear()
        await self._idle.wait()

    @abstractmethod
    async def _turn(self, prompt_ids: list[int], sampling: SamplingParams) -> tuple[list[int], list[float], bool]:
        """Sample ids (T,), their logprobs (T,) and whether a stop token ended the turn. Runs on the loop."""

    def _make_ready(self) -> None:  # noqa: B027 - a hook, like the next three
        """Make sure that the engine runs and has the latest weights."""

    def _settle(self) -> None:  # noqa: B027
        """Wait until the engine has dropped what was cancelled."""

    def _drop_cancelled(self) -> None:  # noqa: B027
        """Wait until the engine has dropped what was cancelled, without letting it sleep."""

    def _release(self, loop: asyncio.AbstractEventLoop) -> None:  # noqa: B027
        """Release what the policy holds. The loop still runs, without tasks."""

    def _refuse_in_flight(self) -> None:
        if self._in_flight:
            raise ConfigError(f"weights changed while {len(self._in_flight)} submissions are in flight; wait for them")

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result.

        Raises:
            PolicyFault: It did not finish within `_WAIT_SECONDS`.
        """
        assert self._loop is not None
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(_WAIT_SECONDS)
        except TimeoutError:
            if future.done():  # the coroutine itself raised it
                raise
            future.cancel()
            raise PolicyFault(f"the engine has not answered for {_WAIT_SECONDS:g} seconds") from None


async def _end_tasks() -> None:
    """Cancel the remaining tasks of the loop and wait for them."""
    remaining = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in remaining:
        task.cancel()
    await asyncio.gather(*remaining, return_exceptions=True)
