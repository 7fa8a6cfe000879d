"""A policy on transformers' continuous batching: any causal language model, CPU or GPU.

Source: transformers/generation/continuous_batching (5.19).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from toolrl.errors import ConfigError, PolicyFault
from toolrl.policy.ragged_attention import RAGGED_ATTENTION
from toolrl.types import Sample, Sampling


class TransformersPolicy:
    """Samples with a model in this process, which may be the one that is being trained.

    Attributes:
        version: Number of times the weights were declared changed; stamped on each sample.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        stop_token_ids: Sequence[int],
        max_sequences: int | None = None,
        max_batch_tokens: int | None = None,
        cache_tokens: int | None = None,
        page_tokens: int | None = None,
        seed: int | None = None,
    ):
        """Wrap a model; nothing starts before the first submission.

        Args:
            model: The model. It is put into evaluation mode inside `generating()` and restored after.
            stop_token_ids: Tokens that end a turn.
            max_sequences: Sequences generated together; others wait. 32 on a CPU, else up to transformers.
            max_batch_tokens: Tokens per forward pass. 512 on a CPU, else inferred from memory.
            cache_tokens: Capacity of the key-value cache. 65,536 on a CPU, else inferred from memory.
            page_tokens: Tokens per cache page, the unit in which prefixes are shared. 16 on a CPU.
            seed: Seeds sampling once, when generation starts.
        """
        self.model = model
        self.version = 0
        on_cpu = model.device.type == "cpu"
        self._stop_token_ids = [int(token) for token in stop_token_ids]
        page = page_tokens or (16 if on_cpu else 256)
        cache_tokens = cache_tokens or (65_536 if on_cpu else None)
        self._config = dict(
            page_size=page,
            num_blocks=cache_tokens // page if cache_tokens else None,
            max_batch_tokens=max_batch_tokens or (512 if on_cpu else None),
            max_requests_per_batch=max_sequences or (32 if on_cpu else None),
            use_async_batching=False if on_cpu else None,
            use_cuda_graph=False if on_cpu else None,
            return_logprobs=True,
            seed=seed,
        )
        self._attention = RAGGED_ATTENTION if on_cpu and model.config._attn_implementation == "sdpa" else None
        self._engine: _Engine | None = None
        self._lock = threading.Lock()

    def submit(self, prompt_ids: list[int], sampling: Sampling) -> Future[Sample]:
        """Queue a turn. The temperature can only change while nothing is in flight.

        Raises:
            ConfigError: Another temperature is in use by submissions in flight.
        """
        with self._lock:
            if self._engine is not None and not self._engine.serves(sampling.temperature):
                self._engine.close()
                self._engine = None
            if self._engine is None:
                self._engine = _Engine(self.model, self._config, self._stop_token_ids, sampling.temperature)
            return self._engine.submit(prompt_ids, sampling.max_tokens, self.version)

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Evaluation mode, and on a CPU the attention made for it, for as long as submissions are in flight."""
        training, attention = self.model.training, self.model.config._attn_implementation
        self.model.eval()
        if self._attention is not None:
            # Not set_attn_implementation: it would look for a kernel package of that name.
            self.model.config._attn_implementation = self._attention
        try:
            yield
        finally:
            self.model.config._attn_implementation = attention
            self.model.train(training)

    def weights_changed(self) -> None:
        """Say that the model's weights were updated: cached prefixes are dropped, the version goes up.

        Call it while nothing is in flight.
        """
        self.version += 1
        with self._lock:
            if self._engine is not None:
                self._engine.drop_cache()

    def close(self) -> None:
        """Stop the generation thread; submissions in flight fail with `PolicyFault`."""
        with self._lock:
            if self._engine is not None:
                self._engine.close()
                self._engine = None


class _Engine:
    """One running continuous-batching manager, and the thread that hands its results to futures."""

    def __init__(self, model: PreTrainedModel, config: dict[str, Any], stop_token_ids: list[int], temperature: float):
        self._temperature = temperature
        self._stops = set(stop_token_ids)
        generation = GenerationConfig(
            do_sample=temperature > 0,
            temperature=temperature if temperature > 0 else 1.0,
            top_k=0,
            top_p=1.0,
            eos_token_id=stop_token_ids,
            pad_token_id=stop_token_ids[0],
        )
        attention = model.config._attn_implementation
        self._manager = model.init_continuous_batching(generation, ContinuousBatchingConfig(**config))
        model.config._attn_implementation = attention
        self._pending: dict[str, tuple[Future[Sample], int]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        # A thread inherits "daemon" from the one that starts it; a manager that is not a daemon would
        # keep the interpreter from exiting when close() was never called.
        starter = threading.Thread(target=self._manager.start, daemon=True)
        starter.start()
        starter.join()
        self._collector = threading.Thread(
            target=_collect, args=(weakref.ref(self), self._manager, self._stop), name="toolrl-policy", daemon=True
        )
        self._collector.start()

    def serves(self, temperature: float) -> bool:
        """Whether this engine can take a submission; False means that it may be replaced."""
        if temperature == self._temperature and self._manager.is_running():
            return True
        if self._pending and self._manager.is_running():
            raise ConfigError(
                f"a submission with temperature {temperature} while others with {self._temperature} are in flight; "
                "wait for those, or use a second policy"
            )
        return False

    def submit(self, prompt_ids: list[int], max_tokens: int, version: int) -> Future[Sample]:
        future: Future[Sample] = Future()
        with self._lock:
            request_id = f"{id(future)}"
            self._pending[request_id] = (future, version)
        future.add_done_callback(lambda done: self._manager.cancel_request(request_id) if done.cancelled() else None)
        queued = self._manager.add_request(
            prompt_ids, request_id=request_id, max_new_tokens=max_tokens, eos_token_id=list(self._stops)
        )
        if queued is None:
            self.fail("the generation thread has stopped")
        return future

    def deliver(self, output: Any) -> None:
        with self._lock:
            future, version = self._pending.pop(output.request_id, (None, 0))
        if future is None or not future.set_running_or_notify_cancel():
            return
        if output.error is not None:
            future.set_exception(PolicyFault(f"generation failed: {output.error}"))
            return
        ids = output.generated_tokens
        finish = "stop" if ids and ids[-1] in self._stops else "length"
        future.set_result(Sample(ids, output.logprobs, finish, version))  # type: ignore[arg-type]

    def fail(self, reason: str) -> None:
        with self._lock:
            pending, self._pending = self._pending, {}
        for future, _ in pending.values():
            if future.set_running_or_notify_cancel():
                future.set_exception(PolicyFault(reason))

    def drop_cache(self) -> None:
        if self._pending:
            raise ConfigError(f"weights changed while {len(self._pending)} submissions are in flight; wait for them")
        if self._manager.is_running() and self._manager.batch_processor is not None:
            with self._manager.pause():
                self._manager.batch_processor.cache.reset()

    def close(self) -> None:
        self._stop.set()
        if self._manager.is_running():
            self._manager.stop(block=True, timeout=10.0, hard_stop=True)
        self._collector.join(timeout=5.0)
        self.fail("the policy was closed")


def _collect(engine_ref: weakref.ref[_Engine], manager: Any, stop: threading.Event) -> None:
    """Deliver results until the engine is closed or forgotten, or its generation thread dies."""
    while not stop.is_set():
        output = manager.get_result(timeout=0.2)
        engine = engine_ref()
        if engine is None:
            break
        if output is not None:
            engine.deliver(output)
        elif not manager.is_running():
            engine.fail(f"the generation thread died: {manager.background_thread_status.fatal_error}")
            return
        del engine
    if engine_ref() is None and manager.is_running():
        manager.stop(block=False, hard_stop=True)


