"""A policy on a vLLM engine that somebody else has made in this process: TRL's, with `use_vllm` and "colocate"."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

from toolrl.errors import PolicyFault
from toolrl.policy.vllm.base import EnginePolicy
from toolrl.policy.vllm.policy import read_completion, sampling_parameters
from toolrl.types import SamplingParams


class ColocatedVLLMPolicy(EnginePolicy):
    """Adds requests one by one to the engine of a `vllm.LLM`, and steps it on the loop's thread while there are any."""

    def __init__(self, llm: Any, *, stop_token_ids: Sequence[int]):
        """Wrap a `vllm.LLM`; it stays its owner's, and only this policy may use it inside `generating()`."""
        super().__init__(stop_token_ids)
        self.max_model_len = int(llm.model_config.max_model_len)
        self._engine = llm.llm_engine
        self._numbers = itertools.count()
        self._pending: dict[str, asyncio.Future[Any]] = {}
        self._steps = 0
        self._stepping: asyncio.Task[None] | None = None

    def progress(self) -> float:
        """Steps of the engine; see `ShowsProgress`."""
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
                        done.set_result(output.outputs[0])  # else it was cancelled during the step
                await asyncio.sleep(0)  # others are added, or cancelled
        except Exception as error:  # noqa: BLE001 - whatever fails in the engine is no mistake of the episodes
            pending, self._pending = self._pending, {}
            for done in pending.values():
                if not done.done():
                    done.set_exception(PolicyFault(f"vLLM failed: {type(error).__name__}: {error}"))

    def _settle(self) -> None:
        self._wait(self._stepped())

    async def _stepped(self) -> None:
        if self._stepping is not None:
            await self._stepping
