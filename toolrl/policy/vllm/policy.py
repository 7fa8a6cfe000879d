"""A policy on vLLM's engine, which runs in processes of its own: tokens in, tokens out, weights from a trainer.

Requests are added and finished one by one, so episodes need not keep step with each other, and what a conversation has
in common with an earlier one is not computed again (prefix caching).
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import os
import shutil
import weakref
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from toolrl.errors import ConfigError, MissingExtra, PolicyFault
from toolrl.policy.vllm.base import EnginePolicy
from toolrl.policy.vllm.weights_sender import NamedWeights, Transfer, open_sender
from toolrl.support.leftovers import make_folder
from toolrl.types import SamplingParams

T = TypeVar("T")

# Set in the engine's processes: the id of the process that they work for.
OWNER = "TOOLRL_ENGINE_OWNER"
CPU_CACHE_BYTES = 1 << 30
# Of the memory of a GPU that a trainer shares: vLLM's own default takes nearly all of it.
GPU_SHARE = 0.3


class VLLMPolicy(EnginePolicy):
    """Samples with a vLLM engine of this process's own. It starts again if it dies."""

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
        super().__init__(stop_token_ids)
        self._transfer: Transfer = transfer
        self._sleep = sleep
        self._settings = _engine_settings(model, dtype, transfer, sleep, seed, engine or {})
        self._asleep = False
        self._numbers = itertools.count()
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

    def connect(self, weights: NamedWeights) -> None:
        """Take weights from a trainer: `update_weights` sends what `weights()` gives."""
        with self._lock:
            if self._sender is not None:
                self._sender.close()
            self._sender = open_sender(self._transfer, _Client(self), weights)

    def progress(self) -> float:
        """Tokens of the turns in flight; see `ShowsProgress`."""
        if self._engine is None:
            return 0
        states = list(self._engine.output_processor.request_states.values())
        return sum(state.detokenizer.num_output_tokens() for state in states)

    async def _turn(self, prompt_ids: list[int], sampling: SamplingParams) -> tuple[list[int], list[float], bool]:
        from vllm.inputs.engine import tokens_input

        parameters = sampling_parameters(sampling, self._stop_token_ids)
        with _faults():
            stream = self._engine.generate(tokens_input(prompt_ids), parameters, str(next(self._numbers)))
            async for output in stream:
                completion = output.outputs[0]
        return read_completion(completion)

    def _start(self) -> Any:
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError:
            raise MissingExtra("vllm", "vllm") from None

        async def start() -> Any:
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**self._settings))

        try:
            with _environment(_engine_environment(self._folder)):
                return self._wait(start())
        except (ValueError, TypeError, OSError) as error:  # a pydantic error is a ValueError
            raise ConfigError(f"vLLM refuses the model {self._settings['model']!r}: {_reason(error)}") from None
        except RuntimeError as error:
            raise PolicyFault(f"vLLM did not start: {error}") from error

    def _make_ready(self) -> None:
        """Wake the engine, or start it again with the last weights."""
        if self._engine.errored:
            self._engine.shutdown()
            self._engine = self._start()
            self._asleep = False
            if self.version and not (self._sender and self._sender.send_again(_Client(self))):
                raise PolicyFault("vLLM's engine died, and the weights it had are gone; resume from a checkpoint")
        if self._asleep:
            self._call(self._engine.wake_up())
            self._asleep = False

    def _settle(self) -> None:
        if self._engine.errored:
            return
        self._call(_all_finished(self._engine))
        if self._sleep:
            self._call(self._engine.sleep(level=1))
            self._asleep = True

    def _release(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        with _faults():
            return self._wait(coroutine)


def sampling_parameters(sampling: SamplingParams, stop_token_ids: list[int]) -> Any:
    """The `SamplingParams` for one turn."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        logprobs=0,  # of the sampled token alone
        stop_token_ids=stop_token_ids,
        ignore_eos=True,  # a turn ends where the renderer says
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def read_completion(completion: Any) -> tuple[list[int], list[float], bool]:
    """Ids (T,), logprobs (T,) and whether a stop token came, of a finished `CompletionOutput`."""
    ids = list(completion.token_ids)
    logprobs = [place[id].logprob for place, id in zip(completion.logprobs, ids, strict=True)]
    return ids, logprobs, completion.finish_reason == "stop"


def _close(reference: weakref.ref[VLLMPolicy]) -> None:
    policy = reference()
    if policy is not None:
        policy.close()


async def _all_finished(engine: Any) -> None:
    while engine.output_processor.has_unfinished_requests() and not engine.errored:
        await asyncio.sleep(0.002)


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
        "VLLM_NO_USAGE_STATS": os.environ.get("VLLM_NO_USAGE_STATS", "1"),  # it would report to its makers
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
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
