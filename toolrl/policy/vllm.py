"""A policy on vLLM's engine, which runs in processes of its own: tokens in, tokens out, weights from a trainer.

Requests are added and finished one by one, so episodes need not keep step with each other, and what a conversation has
in common with an earlier one is not computed again (prefix caching).
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import threading
import weakref
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from toolrl.errors import ConfigError, MissingExtra, PolicyFault
from toolrl.policy.weights import NamedWeights, Transfer, WeightSender, open_sender
from toolrl.sandbox.leftovers import make_folder
from toolrl.types import Sample, Sampling

T = TypeVar("T")

# Set in the engine's processes: the id of the process that they work for.
OWNER = "TOOLRL_ENGINE_OWNER"
CPU_CACHE_BYTES = 1 << 30
# Of the memory of a GPU that a trainer shares: vLLM's own default takes nearly all of it.
GPU_SHARE = 0.3


class VLLMPolicy:
    """Samples with a vLLM engine of this process's own.

    Attributes:
        version: Number of weight updates; stamped on each sample.
        max_model_len: Tokens of the longest conversation that the engine takes.
    """

    def __init__(
        self,
        model: str,
        *,
        stop_token_ids: Sequence[int],
        dtype: str = "",
        transfer: Transfer = "file",
        sleep: bool = False,
        seed: int = 0,
        engine: Mapping[str, Any] | None = None,
    ):
        """Start the engine, which takes some seconds, on a GPU up to minutes.

        Args:
            model: A folder or a hub id.
            stop_token_ids: Tokens that end a turn.
            dtype: Of weights and computation. By default float32 on a CPU and bfloat16 on a GPU; vLLM's own choice
                would be bfloat16 for a model that is trained in float32.
            transfer: How `connect` sends weights: "file" or, with engine and trainer on one GPU, "ipc".
            sleep: Give the GPU's memory back between rollouts.
            seed: Seeds sampling.
            engine: Further arguments of vLLM's `AsyncEngineArgs`, such as `max_model_len`, `gpu_memory_utilization`,
                `tensor_parallel_size`, `max_num_seqs` or `enforce_eager`.

        Raises:
            MissingExtra: vLLM is not installed.
            ConfigError: vLLM refuses the model or an argument.
            PolicyFault: The engine did not start.
        """
        self.version = 0
        self._stop_token_ids = [int(token) for token in stop_token_ids]
        self._transfer: Transfer = transfer
        self._sleep = sleep
        self._settings = _engine_settings(model, dtype, transfer, sleep, seed, engine or {})
        self._sender: WeightSender | None = None
        self._generating = 0
        self._asleep = False
        self._in_flight: set[Future[Sample]] = set()
        self._numbers = iter(range(1 << 62))
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="toolrl-vllm", daemon=True)
        self._thread.start()
        self._engine: Any = None
        self._folder = make_folder("vllm")
        # An engine that nobody closed would be ended in the middle of the interpreter's own end.
        atexit.register(_close, weakref.ref(self))
        try:
            self._engine = self._start()
        except BaseException:
            self.close()
            raise
        self.max_model_len = int(self._engine.model_config.max_model_len)

    def submit(self, prompt_ids: list[int], sampling: Sampling) -> Future[Sample]:
        """Queue a turn. Where the conversation fills the engine's context, the turn is cut: its finish is "length".

        Raises:
            ConfigError: This is outside of `generating()`.
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
        """Wake the engine, or start it again if it died; the last to leave cancels what is in flight.

        Raises:
            PolicyFault: The engine died, and cannot be given the trainer's weights again.
        """
        with self._lock:
            if not self._generating:
                self._revive()
                self._wake()
            self._generating += 1
        try:
            yield
        finally:
            with self._lock:
                self._generating -= 1
                if not self._generating:
                    self._settle()

    def connect(self, weights: NamedWeights) -> None:
        """Take weights from a trainer: `update_weights` sends what `weights()` gives."""
        with self._lock:
            if self._sender is not None:
                self._sender.close()
            self._sender = open_sender(self._transfer, _Client(self), weights)

    def update_weights(self) -> None:
        """Send the trainer's weights to the engine; cached prefixes are dropped, the version goes up.

        Raises:
            ConfigError: Submissions are in flight, or `connect` was not called.
            PolicyFault: The engine died.
        """
        with self._lock:
            if self._sender is None:
                raise ConfigError("no trainer is connected; call policy.connect(weights) first")
            if self._in_flight:
                raise ConfigError(f"weights changed while {len(self._in_flight)} submissions are in flight")
            self._revive()
            self._wake()
            self._sender.send(self.version + 1)
            self.version += 1

    def close(self) -> None:
        """Stop the engine and its processes; submissions in flight are cancelled. Safe to call twice."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is None:
                return
            for future in list(self._in_flight):
                future.cancel()
            if self._sender is not None:
                self._sender.close()
            # Before the engine: the task that reads its results would report its end as a failure.
            asyncio.run_coroutine_threadsafe(_end_tasks(), loop).result()
            if self._engine is not None:
                self._engine.shutdown()
                self._engine = None
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _sample(self, prompt_ids: list[int], sampling: Sampling) -> Sample:
        from vllm.inputs.engine import tokens_input

        room = min(sampling.max_tokens, self.max_model_len - len(prompt_ids))
        if room < 1:
            return Sample([], [], "length", self.version)
        version = self.version
        parameters = sampling_parameters(sampling.temperature, room, self._stop_token_ids)
        with _faults():
            stream = self._engine.generate(tokens_input(prompt_ids), parameters, str(next(self._numbers)))
            async for output in stream:
                completion = output.outputs[0]
        return to_sample(completion, version)

    def _start(self) -> Any:
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError:
            raise MissingExtra("vllm", "vllm") from None

        async def start() -> Any:
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**self._settings))

        assert self._loop is not None
        try:
            with _environment(_engine_environment(self._folder)):
                return asyncio.run_coroutine_threadsafe(start(), self._loop).result()
        except (ValueError, TypeError, OSError) as error:  # a pydantic error is a ValueError
            raise ConfigError(f"vLLM refuses the model {self._settings['model']!r}: {_reason(error)}") from None
        except RuntimeError as error:
            raise PolicyFault(f"vLLM did not start: {error}") from error

    def _revive(self) -> None:
        if not self._engine.errored:
            return
        self._engine.shutdown()
        self._engine = self._start()
        self._asleep = False
        if self.version and not (self._sender and self._sender.send_again(_Client(self))):
            raise PolicyFault("vLLM's engine died, and the weights it had are gone; resume from a checkpoint")

    def _settle(self) -> None:
        """Cancel what is in flight, and return when the engine has let go of it."""
        for future in list(self._in_flight):
            future.cancel()
        if self._engine.errored:
            return
        self._call(_all_finished(self._engine))
        if self._sleep:
            self._call(self._engine.sleep(level=1))
            self._asleep = True

    def _wake(self) -> None:
        if self._asleep:
            self._call(self._engine.wake_up())
            self._asleep = False

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the engine's loop, and wait for it."""
        assert self._loop is not None
        with _faults():
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def sampling_parameters(temperature: float, max_tokens: int, stop_token_ids: list[int]) -> Any:
    """The `SamplingParams` for one turn."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=temperature,
        max_tokens=max_tokens,
        logprobs=0,  # of the sampled token alone
        stop_token_ids=stop_token_ids,
        ignore_eos=True,  # a turn ends where the renderer says
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def to_sample(completion: Any, version: int) -> Sample:
    """The turn in a finished `CompletionOutput` of vLLM's."""
    ids = list(completion.token_ids)
    logprobs = [place[id].logprob for place, id in zip(completion.logprobs, ids, strict=True)]
    return Sample(ids, logprobs, "stop" if completion.finish_reason == "stop" else "length", version)


def _close(reference: weakref.ref[VLLMPolicy]) -> None:
    policy = reference()
    if policy is not None:
        policy.close()


async def _all_finished(engine: Any) -> None:
    while engine.output_processor.has_unfinished_requests() and not engine.errored:
        await asyncio.sleep(0.002)


async def _end_tasks() -> None:
    """Let the tasks that are left on a loop come to their end."""
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


class _Client:
    """Takes a weight update to an engine in this process. A `WeightClient`."""

    def __init__(self, policy: VLLMPolicy):
        self._policy = policy

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._call("init_weight_transfer_engine", init_info=init_info)

    def start_weight_update(self) -> None:
        self._call("start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._call("update_weights", update_info=update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call("finish_weight_update")
        if not self._policy._call(self._policy._engine.reset_prefix_cache()):
            raise PolicyFault("vLLM keeps prefixes that were computed with the old weights: requests are in flight")

    def _call(self, method: str, **arguments: Any) -> None:
        self._policy._call(self._policy._engine.collective_rpc(method, kwargs=arguments))


def _engine_settings(
    model: str, dtype: str, transfer: Transfer, sleep: bool, seed: int, further: Mapping[str, Any]
) -> dict[str, Any]:
    on_cpu = not torch.cuda.is_available()
    memory = {"kv_cache_memory_bytes": CPU_CACHE_BYTES} if on_cpu else {"gpu_memory_utilization": GPU_SHARE}
    return {
        "dtype": dtype or ("float32" if on_cpu else "bfloat16"),
        "seed": seed,
        "enable_prefix_caching": True,
        "enable_sleep_mode": sleep,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "enforce_eager": on_cpu,  # compiling takes longer than it saves with the models that a CPU can train
        **memory,
        **further,
        # What the rest relies on.
        "model": model,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # else the model's own top-p and its like apply
        "logprobs_mode": "processed_logprobs",  # after the temperature, as the trainer's
        "weight_transfer_config": {"backend": transfer},
    }


def _engine_environment(folder: str) -> dict[str, str]:
    """What the engine's processes have in their environment, besides what this one has."""
    variables = {
        "VLLM_NO_USAGE_STATS": "1",  # it would report to its makers
        "VLLM_LOGGING_LEVEL": "ERROR",
        OWNER: str(os.getpid()),
        "TMPDIR": folder,  # it leaves files behind
    }
    if torch.cuda.is_available():  # the GPU that is current here comes first there
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
        first = torch.cuda.current_device()
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(devices[first:] + devices[:first])
    return variables


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _faults() -> Iterator[None]:
    """Name what fails in vLLM a fault. Its refusals (ValueError, TypeError) pass, so does a cancellation."""
    try:
        yield
    except (ValueError, TypeError, PolicyFault, ConfigError):
        raise
    except Exception as error:  # whatever fails in the engine is no mistake of the episode
        raise PolicyFault(f"vLLM failed: {type(error).__name__}: {error}") from error


def _reason(error: Exception) -> str:
    """The line of an error that says what was wrong: pydantic puts a heading before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("Value error, ")]
    return (told or lines or [type(error).__name__])[0].removeprefix("Value error, ").partition(" [type=")[0]
