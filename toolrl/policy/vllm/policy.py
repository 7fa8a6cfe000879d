"""Policies on a vLLM engine on this machine: in processes of its own, or one that someone else made in this process.

Requests start and finish one by one, so episodes need not keep in step. A prefix that a conversation shares with an
earlier one is not computed again (prefix caching).
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import os
import shutil
import sys
import weakref
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

import torch

from toolrl.errors import ConfigError, MissingExtra, PolicyFault
from toolrl.policy.vllm.base import EnginePolicy
from toolrl.policy.vllm.weights_sender import NamedWeights, Transfer, open_sender
from toolrl.support.leftovers import make_folder
from toolrl.types import SamplingParams

T = TypeVar("T")

# Environment variable of the engine's processes: the id of the process that owns them.
OWNER = "TOOLRL_ENGINE_OWNER"
CPU_CACHE_BYTES = 1 << 30
# Of the memory of a GPU, which the trainer needs too: vLLM's own default is nearly all of it.
GPU_SHARE = 0.3


class VLLMPolicy(EnginePolicy):
    """Samples with a vLLM engine of its own, which is restarted if it dies."""

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
        """Start the engine: seconds on a CPU, up to minutes on a GPU.

        Args:
            model: A folder or a hub id.
            stop_token_ids: Tokens that end a turn.
            dtype: Of weights and computation; by default float32 on a CPU and bfloat16 on a GPU. vLLM's own default is
                bfloat16 even for a model that is trained in float32.
            transfer: How `connect` sends weights: "file", or "ipc" if engine and trainer share a GPU.
            sleep: Release the GPU's memory between rollouts.
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
        # An engine that nobody closed would otherwise die in the middle of the interpreter's shutdown.
        atexit.register(_close, weakref.ref(self))
        try:
            self._engine = self._start()
        except BaseException:
            self.close()
            raise
        self.max_model_len = int(self._engine.model_config.max_model_len)

    def connect(self, weights: NamedWeights) -> None:
        """Connect a trainer: `update_weights` then sends what `weights()` yields."""
        with self._lock:
            if self._sender is not None:
                self._sender.close()
            self._sender = open_sender(self._transfer, _Client(self), weights)

    def progress(self) -> float:
        """Tokens sampled so far for the turns in flight; see `ShowsProgress`."""
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
            with _environment(_engine_environment(self._folder)), _own_main():
                return self._wait(start())
        except (ValueError, TypeError, OSError) as error:  # a pydantic error is a ValueError
            raise ConfigError(f"vLLM refuses the model {self._settings['model']!r}: {_reason(error)}") from None
        except RuntimeError as error:
            raise PolicyFault(f"vLLM did not start: {error}") from error

    def _make_ready(self) -> None:
        """Wake the engine, or restart it with the latest weights."""
        if self._engine.errored:
            self._engine.shutdown()
            self._engine = self._start()
            self._asleep = False
            if self.version and not (self._sender and self._sender.send_again(_Client(self))):
                raise PolicyFault("vLLM's engine died and its weights are gone; resume from a checkpoint")
        if self._asleep:
            self._call(self._engine.wake_up())
            self._asleep = False

    def _drop_cancelled(self) -> None:
        if not self._engine.errored:
            self._call(_all_finished(self._engine))

    def _settle(self) -> None:
        if self._engine.errored:
            return
        self._drop_cancelled()
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


class ColocatedVLLMPolicy(EnginePolicy):
    """Samples with the engine of a `vllm.LLM` made by someone else: TRL, with `use_vllm` and "colocate".

    Requests are added one by one, and the loop's thread steps the engine while there are any.
    """

    def __init__(self, llm: Any, *, stop_token_ids: Sequence[int]):
        """Wrap a `vllm.LLM`. Its owner closes it; inside `generating()` only this policy may use it."""
        super().__init__(stop_token_ids)
        self.max_model_len = int(llm.model_config.max_model_len)
        self._engine = llm.llm_engine
        self._numbers = itertools.count()
        self._pending: dict[str, asyncio.Future[Any]] = {}
        self._steps = 0
        self._stepping: asyncio.Task[None] | None = None

    def progress(self) -> float:
        """Steps of the engine so far; see `ShowsProgress`."""
        return self._steps

    async def _turn(self, prompt_ids: list[int], sampling: SamplingParams) -> tuple[list[int], list[float], bool]:
        request = str(next(self._numbers))
        parameters = sampling_parameters(sampling, self._stop_token_ids)
        self._engine.add_request(request, {"prompt_token_ids": prompt_ids}, parameters)
        done = self._pending[request] = asyncio.get_running_loop().create_future()
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._step())
        try:
            return read_completion(await done)
        except asyncio.CancelledError:
            if self._pending.pop(request, None) is not None:
                self._engine.abort_request([request])
            raise

    async def _step(self) -> None:
        try:
            while self._pending:
                self._steps += 1
                for output in self._engine.step():
                    if output.finished and (done := self._pending.pop(output.request_id, None)) and not done.done():
                        done.set_result(output.outputs[0])  # unless it was cancelled during the step
                await asyncio.sleep(0)  # lets others add or cancel requests
        except Exception as error:  # noqa: BLE001 - a failure of the engine is not a mistake of the episodes
            pending, self._pending = self._pending, {}
            for done in pending.values():
                if not done.done():
                    done.set_exception(PolicyFault(f"vLLM failed: {type(error).__name__}: {error}"))

    def _settle(self) -> None:
        self._wait(self._stepped())

    async def _stepped(self) -> None:
        if self._stepping is not None:
            await self._stepping


def sampling_parameters(sampling: SamplingParams, stop_token_ids: list[int]) -> Any:
    """VLLM's `SamplingParams` for one turn."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        logprobs=0,  # of the sampled token only
        stop_token_ids=stop_token_ids,
        ignore_eos=True,  # only the renderer's stop tokens end a turn
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def read_completion(completion: Any) -> tuple[list[int], list[float], bool]:
    """Read ids (T,), logprobs (T,) and whether a stop token ended it from a finished `CompletionOutput`."""
    ids = list(completion.token_ids)
    logprobs = [position[id].logprob for position, id in zip(completion.logprobs, ids, strict=True)]
    return ids, logprobs, completion.finish_reason == "stop"


def _close(reference: weakref.ref[VLLMPolicy]) -> None:
    policy = reference()
    if policy is not None:
        policy.close()


async def _all_finished(engine: Any) -> None:
    while engine.output_processor.has_unfinished_requests() and not engine.errored:
        await asyncio.sleep(0.002)


class _Client:
    """Passes a weight update on to the policy's engine. A `WeightClient`."""

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
            raise PolicyFault("vLLM keeps prefixes computed with the old weights because requests are in flight")

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
        "enforce_eager": on_cpu,  # for models that a CPU can train, compiling takes longer than it saves
        **memory,
        **further,
        # The policy relies on these.
        "model": model,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # otherwise the model's own top-p and the like apply
        "logprobs_mode": "processed_logprobs",  # after the temperature, like the trainer's
        "weight_transfer_config": {"backend": transfer},
    }


def _engine_environment(folder: str) -> dict[str, str]:
    """Environment variables of the engine's processes, besides those of this one."""
    variables = {
        "VLLM_NO_USAGE_STATS": os.environ.get("VLLM_NO_USAGE_STATS", "1"),  # otherwise vLLM reports usage to its makers
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        OWNER: str(os.getpid()),
        "TMPDIR": folder,  # vLLM leaves files behind
    }
    if torch.cuda.is_available():  # this process's current GPU comes first in the engine
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
        first = torch.cuda.current_device()
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(devices[first:] + devices[:first])
    return variables


@contextmanager
def _own_main() -> Iterator[None]:
    """Spare the processes that start from importing the caller's script again, as `multiprocessing` has them do.

    A script without `if __name__ == "__main__"` would run once more in each of them, and vLLM 0.32's workers fail on
    modules that it may import.
    """
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


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
    """Turn failures of vLLM into faults. Its refusals (ValueError, TypeError) and cancellations pass through."""
    try:
        yield
    except (ValueError, TypeError, PolicyFault, ConfigError):
        raise
    except Exception as error:  # a failure of the engine is not a mistake of the episode
        raise PolicyFault(f"vLLM failed: {type(error).__name__}: {error}") from error


def _reason(error: Exception) -> str:
    """The line of an error that says what was wrong; pydantic puts a heading above it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith("Value error, ")]
    return (causes or lines or [type(error).__name__])[0].removeprefix("Value error, ").partition(" [type=")[0]
