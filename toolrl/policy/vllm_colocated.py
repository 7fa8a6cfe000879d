"""A policy on a vLLM engine that somebody else has made in this process: TRL's, with `use_vllm` and "colocate"."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from toolrl.errors import ConfigError, PolicyFault
from toolrl.policy.vllm import sampling_parameters, to_sample
from toolrl.types import Sample, Sampling


class ColocatedVLLMPolicy:
    """Adds requests one by one to the engine of a `vllm.LLM`, and steps it on a thread while there are any.

    Attributes:
        version: Number of times the weights were declared changed; stamped on each sample.
        max_model_len: Tokens of the longest conversation that the engine takes.
    """

    def __init__(self, llm: Any, *, stop_token_ids: Sequence[int]):
        """Wrap a `vllm.LLM`; it stays its owner's, and only this policy may use it inside `generating()`."""
        self.version = 0
        self.max_model_len = int(llm.model_config.max_model_len)
        self._engine = llm.llm_engine
        self._stop_token_ids = [int(token) for token in stop_token_ids]
        self._ids = itertools.count()
        self._pending: dict[str, tuple[Future[Sample], int]] = {}
        self._waiting: list[tuple[str, list[int], Any]] = []
        self._cancelled: list[str] = []
        self._changed = threading.Condition()
        self._generating = 0
        self._thread: threading.Thread | None = None

    def submit(self, prompt_ids: list[int], sampling: Sampling) -> Future[Sample]:
        """Queue a turn. Where the conversation fills the engine's context, the turn is cut: its finish is "length".

        Raises:
            ConfigError: This is outside of `generating()`.
        """
        future: Future[Sample] = Future()
        room = min(sampling.max_tokens, self.max_model_len - len(prompt_ids))
        with self._changed:
            if not self._generating:
                raise ConfigError("the engine is not set up to generate; submit inside `with policy.generating():`")
            if room < 1:
                future.set_result(Sample([], [], "length", self.version))
                return future
            request_id = str(next(self._ids))
            self._pending[request_id] = (future, self.version)
            parameters = sampling_parameters(sampling.temperature, room, self._stop_token_ids)
            self._waiting.append((request_id, prompt_ids, parameters))
            self._changed.notify()
        future.add_done_callback(lambda done: self._cancel(request_id) if done.cancelled() else None)
        return future

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Step the engine for as long as submissions are in flight; the last to leave cancels those."""
        with self._changed:
            self._generating += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="toolrl-vllm-steps", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._generating -= 1
                thread, last = self._thread, not self._generating
                futures = [future for future, _ in self._pending.values()] if last else []
                if last:
                    self._thread = None
            for future in futures:
                future.cancel()
            if last and thread is not None:
                with self._changed:
                    self._changed.notify()
                thread.join()

    def weights_changed(self) -> None:
        """Say that the engine's weights were updated, and its cache reset, by whoever owns it."""
        self.version += 1

    def close(self) -> None:
        """Nothing to release: the engine is its owner's."""

    def _cancel(self, request_id: str) -> None:
        with self._changed:
            if self._pending.pop(request_id, None) is not None:
                self._cancelled.append(request_id)
                self._changed.notify()

    def _run(self) -> None:
        try:
            while self._take_orders():
                for output in self._engine.step():
                    if output.finished:
                        self._deliver(output)
        except Exception as error:  # noqa: BLE001 - whatever fails in the engine is no mistake of the episodes
            with self._changed:
                pending, self._pending = self._pending, {}
            for future, _ in pending.values():
                if future.set_running_or_notify_cancel():
                    future.set_exception(PolicyFault(f"vLLM failed: {type(error).__name__}: {error}"))

    def _take_orders(self) -> bool:
        """Hand new requests and cancellations to the engine, waiting for some if it is idle; False at the end."""
        with self._changed:
            while not (self._waiting or self._cancelled or self._pending) and self._generating:
                self._changed.wait()
            waiting, self._waiting = self._waiting, []
            cancelled, self._cancelled = self._cancelled, []
            alive = bool(self._generating or self._pending)
        gone = set(cancelled)
        for request_id, prompt_ids, parameters in waiting:
            if request_id not in gone:
                self._engine.add_request(request_id, {"prompt_token_ids": prompt_ids}, parameters)
        if cancelled:
            self._engine.abort_request(cancelled)
        return alive

    def _deliver(self, output: Any) -> None:
        with self._changed:
            future, version = self._pending.pop(output.request_id, (None, 0))
        if future is not None and future.set_running_or_notify_cancel():
            future.set_result(to_sample(output.outputs[0], version))
