"""A policy on transformers' continuous batching: any causal language model, CPU or GPU.

Source: transformers/generation/continuous_batching (5.19).
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

import torch
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from toolrl.errors import ConfigError, PolicyFault
from toolrl.policy.ragged_attention import RAGGED_ATTENTION
from toolrl.support.waiting import ends_within
from toolrl.types import Sample, SamplingParams

STEP_SECONDS = 600.0  # that one step of generation may take before the model counts as hanging
CPU_CACHE_TOKENS = 65_536


class TransformersPolicy:
    """Samples with a model in this process, possibly the one that is being trained.

    Attributes:
        version: How often the weights have changed; stamped on each sample.
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
            model: The model. It is in evaluation mode inside `generating()` and restored afterwards.
            stop_token_ids: Tokens that end a turn.
            max_sequences: Sequences generated together; others wait. 32 on a CPU, else chosen by transformers.
            max_batch_tokens: Tokens per forward pass. 512 on a CPU, else inferred from memory.
            cache_tokens: Capacity of the key-value cache. 65,536 on a CPU, else inferred from memory.
            page_tokens: Tokens per cache page, the unit in which prefixes are shared. 16 on a CPU.
            seed: Seeds sampling when generation starts.
        """
        self.model = model
        self.version = 0
        on_cpu = model.device.type == "cpu"
        self._stop_token_ids = [int(token) for token in stop_token_ids]
        page = page_tokens or (16 if on_cpu else 256)
        cache_tokens = cache_tokens or (CPU_CACHE_TOKENS if on_cpu else None)
        self._config = {
            "page_size": page,
            "num_blocks": cache_tokens // page if cache_tokens else None,
            "max_batch_tokens": max_batch_tokens or (512 if on_cpu else None),
            "max_requests_per_batch": max_sequences or (32 if on_cpu else None),
            "use_async_batching": False if on_cpu else None,
            "use_cuda_graph": False if on_cpu else None,
            "auto_switch_to_flash": False,  # would change the attention that the model is trained with
            "return_logprobs": True,
            "seed": seed,
        }
        self._attention = _attention_for_generation(model.config, on_cpu)
        self._engine: _BatchingEngine | None = None
        self._generating = 0
        self._before: tuple[bool, str] = (model.training, model.config._attn_implementation)
        self._lock = threading.Lock()

    def submit(self, prompt_ids: list[int], sampling: SamplingParams) -> Future[Sample]:
        """Queue a turn. The temperature can only change while nothing is in flight.

        Raises:
            ConfigError: Submissions in flight use another temperature, or this is called outside `generating()`.
        """
        with self._lock:
            if not self._generating:
                raise ConfigError("the model is not set up to generate; submit inside `with policy.generating():`")
            if self._engine is not None and not self._engine.serves(sampling.temperature):
                self._engine.close()
                self._engine = None
            if self._engine is None:
                self._engine = _BatchingEngine(self.model, self._config, self._stop_token_ids, sampling.temperature)
            return self._engine.submit(prompt_ids, sampling.max_tokens, self.version)

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Switch the model to evaluation mode and to the attention for generation.

        Can be entered several times at once. The last to leave cancels the submissions in flight.

        Raises:
            PolicyFault: The generation thread hangs in a step and does not release the model.
        """
        with self._lock:
            if not self._generating:
                self._before = self.model.training, self.model.config._attn_implementation
                self.model.eval()
                # Not set_attn_implementation, which would look for a kernel package of that name.
                self.model.config._attn_implementation = self._attention
            self._generating += 1
        try:
            yield
        finally:
            with self._lock:
                self._generating -= 1
                if not self._generating:
                    engine, self._engine = self._engine, None
                    try:
                        if engine is not None:
                            engine.settle()
                            self._engine = engine
                    finally:
                        training, self.model.config._attn_implementation = self._before
                        self.model.train(training)

    def progress(self) -> float:
        """Steps of generation so far; see `ShowsProgress`."""
        engine = self._engine
        return 0.0 if engine is None else engine.steps()

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy weights, by their names in the model; see `weights_changed`."""
        for name, weight in weights:
            self.model.get_parameter(name).copy_(weight)
        self.weights_changed()

    def weights_changed(self) -> None:
        """Note that the model's weights were updated: drop cached prefixes and count the version up.

        Raises:
            ConfigError: Submissions are in flight.
        """
        with self._lock:
            if self._engine is not None:
                self._engine.drop_cache()
            self.version += 1

    def close(self) -> None:
        """Stop the generation thread; submissions in flight fail with `PolicyFault`."""
        with self._lock:
            if self._engine is not None:
                self._engine.close()
                self._engine = None


class _BatchingEngine:
    """One running continuous-batching manager, and the thread that hands its results to futures."""

    def __init__(self, model: PreTrainedModel, config: dict[str, Any], stop_token_ids: list[int], temperature: float):
        self._temperature = temperature
        self._stops = set(stop_token_ids)
        untruncated = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        generation = GenerationConfig(
            **(untruncated if temperature > 0 else {"do_sample": False}),
            eos_token_id=stop_token_ids,
            pad_token_id=stop_token_ids[0],
        )
        self._manager = model.init_continuous_batching(  # type: ignore[operator]
            generation, ContinuousBatchingConfig(**config)
        )
        self._pending: dict[str, tuple[Future[Sample], int]] = {}
        self._request_ids = map(str, itertools.count())
        self._lock = threading.Lock()
        self._stop = threading.Event()
        if temperature > 0 and model.device.type == "cpu":
            _draw_by_inversion(self._manager)
        # A thread inherits "daemon" from the thread that starts it. A manager that is not a daemon would
        # keep the interpreter from exiting if close() is never called.
        starter = threading.Thread(target=self._manager.start, daemon=True)
        starter.start()
        starter.join()
        self._collector = threading.Thread(
            target=_collect, args=(weakref.ref(self), self._manager, self._stop), name="toolrl-policy", daemon=True
        )
        self._collector.start()

    def serves(self, temperature: float) -> bool:
        """Whether this engine can take a submission; if False, it may be replaced."""
        if self._death():
            return False
        if temperature == self._temperature:
            return True
        if self._pending:
            raise ConfigError(
                f"a submission with temperature {temperature} while others with {self._temperature} are in flight; "
                "wait for those, or use a second policy"
            )
        return False

    def submit(self, prompt_ids: list[int], max_tokens: int, version: int) -> Future[Sample]:
        future: Future[Sample] = Future()
        with self._lock:
            request_id = next(self._request_ids)
            self._pending[request_id] = (future, version)
        queued = self._manager.add_request(
            prompt_ids, request_id=request_id, max_new_tokens=max_tokens, eos_token_id=list(self._stops)
        )
        if queued is None:
            self.fail(self._death() or "the generation thread is stopping")
        future.add_done_callback(lambda done: self._cancel(request_id) if done.cancelled() else None)
        return future

    def _cancel(self, request_id: str) -> None:
        with self._lock:
            self._pending.pop(request_id, None)
        self._manager.cancel_request(request_id)

    def deliver(self, output: Any) -> None:
        with self._lock:
            future, version = self._pending.pop(output.request_id, (None, 0))
        if future is None or not future.set_running_or_notify_cancel():
            return
        if output.error is not None:
            future.set_exception(PolicyFault(f"generation failed: {output.error}"))
            return
        ids, logprobs = output.generated_tokens, output.logprobs
        if len(ids) != len(logprobs):
            future.set_exception(PolicyFault(f"generation gave {len(ids)} tokens and {len(logprobs)} logprobs"))
            return
        finish = "stop" if ids and ids[-1] in self._stops else "length"
        future.set_result(Sample(ids, logprobs, finish, version))  # type: ignore[arg-type]

    def fail(self, reason: str) -> None:
        with self._lock:
            pending, self._pending = self._pending, {}
        for future, _ in pending.values():
            if future.set_running_or_notify_cancel():
                future.set_exception(PolicyFault(reason))

    def settle(self) -> None:
        """Cancel what is in flight, and wait until the generation thread has released the model."""
        with self._lock:
            pending = [future for future, _ in self._pending.values()]
        for future in pending:
            future.cancel()

        def pause() -> None:
            # The loop reads its queues, then pauses, then acts on what it read. The first pause may fall in
            # between; then one more step of a cancelled request ends only at the second pause.
            for _ in range(2):
                with suppress(RuntimeError), self._manager.pause():  # the error says that the loop is not running
                    pass

        if not ends_within(STEP_SECONDS, pause):
            raise PolicyFault(f"a step of generation did not end within {STEP_SECONDS:g} seconds; the model hangs")

    def steps(self) -> float:
        """How many steps of generation were made."""
        return float(getattr(self._manager, "current_batch", 0))  # missing before the first step

    def drop_cache(self) -> None:
        if self._pending:
            raise ConfigError(f"weights changed while {len(self._pending)} submissions are in flight; wait for them")
        if self._manager.is_running() and self._manager.batch_processor is not None:
            with self._manager.pause():
                self._manager.batch_processor.cache.reset()

    def close(self) -> None:
        self._stop.set()
        self.fail(self._death() or "the policy was closed")
        self._manager.stop(block=True, timeout=10.0, hard_stop=True)
        self._collector.join(timeout=5.0)

    def _death(self) -> str:
        """Why the generation thread accepts no more submissions; empty if it does."""
        status = self._manager.background_thread_status
        if self._manager.is_running() and status.can_accept_new_requests() is None:
            return ""
        return f"the generation thread died: {status.fatal_error!r}"


def _collect(engine_ref: weakref.ref[_BatchingEngine], manager: Any, stop: threading.Event) -> None:
    """Deliver results until the engine is closed or forgotten, or its generation thread dies."""
    while not stop.is_set():
        output = manager.get_result(timeout=0.2)
        engine = engine_ref()
        if engine is None:
            break
        if output is not None:
            engine.deliver(output)
        elif not manager.is_running():
            engine.fail(f"the generation thread died: {manager.background_thread_status.fatal_error!r}")
            return
        del engine
    if engine_ref() is None and manager.is_running():
        manager.stop(block=False, hard_stop=True)


def _draw_by_inversion(manager: Any) -> None:
    """Have a manager draw tokens with one random number each, from the cumulated probabilities.

    `torch.multinomial`, with a random number per token of the vocabulary, takes 48 ms of 48 sequences and 49,000 tokens
    on a CPU, this 1 ms. Probabilities are rounded to 1e-7.
    """
    create = manager._create_batch_processor

    def create_batch_processor() -> Any:
        processor = create()
        runner = processor.model_runner

        def draw(scores: torch.Tensor, output_ids: torch.Tensor) -> None:
            logprobs = scores[0].log_softmax(-1)  # (S, V)
            total = logprobs.exp().cumsum(-1)  # (S, V), float32 added up in float64
            most = total[:, -1:]
            # Below the total, so that a token has a probability above 0 also where rounding would reach it.
            drawn = (torch.rand(len(total), 1) * most).minimum(most.nextafter(torch.zeros(1)))
            tokens = torch.searchsorted(total, drawn, right=True)  # (S, 1)
            output_ids[0, : len(tokens)] = tokens[:, 0]
            output_ids[1, : len(tokens)] = logprobs.gather(1, tokens)[:, 0].view(torch.int32)  # as transformers does

        runner._sample = draw
        return processor

    manager._create_batch_processor = create_batch_processor


def _attention_for_generation(config: PretrainedConfig, on_cpu: bool) -> str:
    """The attention that continuous batching should use instead of the model's own."""
    attention, text = config._attn_implementation, config.get_text_config()
    layers = getattr(text, "layer_types", None)
    slides = "sliding_attention" in layers if layers else getattr(text, "sliding_window", None) is not None
    if attention == "sdpa" and on_cpu and not slides:
        return RAGGED_ATTENTION
    return "paged|eager" if attention == "eager" else str(attention)
