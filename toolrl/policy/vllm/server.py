r"""A policy on running vLLM servers: tokens in, tokens out, over `/v1/completions`; weights where they take them.

A server is started with, for example,

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs --generation-config vllm \
        --weight-transfer-config '{"backend": "nccl"}'

The first and the last are only for training: they open the routes that take weights.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from toolrl.errors import PolicyFault
from toolrl.policy.vllm.base import CLOSING_SECONDS, EnginePolicy
from toolrl.policy.vllm.server_pool import Server, Servers
from toolrl.policy.vllm.weights_sender import NamedWeights, Transfer, open_sender
from toolrl.support.waiting import TookTooLong
from toolrl.types import SamplingParams

# A text in which tokenizers differ: spaces, digits, case, scripts.
PROBE = "  The 1,234th répétition: x_1 = {'a': 5.50}\n\t漢字 🙂"


class VLLMServerPolicy(EnginePolicy):
    """Samples from one or several servers that have the same model.

    A server that does not answer is left alone until it does, and the others take its turns; a server that came back
    without the trainer's weights gets them before anything else.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        stop_token_ids: Sequence[int],
        tokenizer: PreTrainedTokenizerBase | None = None,
        model: str = "",
        api_key: str | None = None,
        timeout_seconds: float = 600.0,
        patience_seconds: float = 300.0,
        max_concurrent: int = 256,
    ):
        """Ask the servers what they have.

        Args:
            urls: Addresses, such as "http://localhost:8000".
            stop_token_ids: Tokens that end a turn.
            tokenizer: Compared with the servers'.
            model: Its name there; by default the only one.
            api_key: What the servers were given as `--api-key`.
            timeout_seconds: A server that samples nothing for so long, for anybody, is down, by its answers and its
                `/metrics`. How long one turn takes does not matter.
            patience_seconds: How long a turn, or an update of the weights, waits for a server to come back when none
                answers.
            max_concurrent: Requests at a time to one server.

        Raises:
            ConfigError: A server does not answer, has another model or tokenizer, or gives no token ids.
        """
        self._servers = Servers([urls] if isinstance(urls, str) else urls, model, api_key, timeout_seconds)
        try:
            self.max_model_len = min(server.inspect(tokenizer, PROBE) for server in self._servers)
        except BaseException:
            self._servers.close()
            raise
        super().__init__(stop_token_ids)
        self._patience_seconds = patience_seconds
        self._max_concurrent = max_concurrent

    def connect(self, weights: NamedWeights, transfer: Transfer = "file", *, rank: int = 0) -> None:
        """Take weights from a trainer: `update_weights` sends what `weights()` gives to all servers.

        Args:
            weights: Gives all weights under the names of the checkpoint.
            transfer: The backend that the servers were started with. For "file" they see the trainer's files.
            rank: Of this process among the trainer's; the first one sends.

        Raises:
            ConfigError: A server takes no weights.
            PolicyFault: A server does not answer.
        """
        with self._lock:
            if self._sender is not None:
                self._sender.close()
            for server in self._servers:
                server.weight_version()
            # Who misses a file is sent it when it is back; who misses a broadcast leaves the others waiting.
            self._servers.may_miss_updates = transfer == "file"
            gpus = self._servers.count_gpus() if transfer == "nccl" else 1
            self._sender = open_sender(transfer, self._servers, weights, rank=rank, engine_gpus=gpus)

    def progress(self) -> float:
        """The time: each turn ends by itself where a server stands still. See `ShowsProgress`."""
        return time.monotonic()

    async def _turn(self, prompt_ids: list[int], sampling: SamplingParams) -> tuple[list[int], list[float], bool]:
        request = {
            "prompt": prompt_ids,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "logprobs": 0,  # of the sampled token alone
            "stop_token_ids": self._stop_token_ids,
            "ignore_eos": True,  # a turn ends where the renderer says
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        deadline = time.monotonic() + self._patience_seconds
        while True:
            server = await self._pick(prompt_ids, deadline)
            try:
                async with server.turn(self._max_concurrent):
                    ids, logprobs, finish = await server.complete(request)
            except TookTooLong as error:
                server.is_down(error)
                raise PolicyFault(str(error)) from None
            except PolicyFault as error:
                server.is_down(error)
                continue
            self._servers.remember(prompt_ids, ids, server)
            return ids, logprobs, finish == "stop"

    async def _pick(self, prompt_ids: list[int], deadline: float) -> Server:
        """A server that answers; the one that knows the conversation, if it does."""
        while True:
            for server in self._servers.down():
                if server.should_be_asked():
                    await asyncio.to_thread(self._bring_up_to_date, server, wait=False)
            if (chosen := self._servers.choose(prompt_ids)) is not None:
                return chosen
            if time.monotonic() > deadline:
                raise PolicyFault(f"no vLLM server answers: {self._servers.describe()}")
            await asyncio.sleep(0.2)

    def _make_ready(self) -> None:
        """See that one server answers, and that those which do have the trainer's weights."""
        for server in self._servers:
            self._bring_up_to_date(server)
        self._wait(self._pick([], time.monotonic() + self._patience_seconds))

    def _bring_up_to_date(self, server: Server, *, wait: bool = True) -> None:
        """Ask a server how it is, and send it the last weights if it has others; only then it is given turns.

        A turn in the middle of an update would run on weights that are half there, and can end vLLM's engine.

        Args:
            server: Which one.
            wait: Whether to wait for another thread that does this already.
        """
        if not server.being_asked.acquire(blocking=wait):
            return
        try:
            server.check()
            sender = self._sender if self.version else None
            if sender and server.weight_version() != str(self.version) and not sender.send_again(server):
                raise PolicyFault(f"{server.url} has lost the trainer's weights; resume from a checkpoint")
            server.is_up()
        except PolicyFault as error:
            server.is_down(error)
        finally:
            server.being_asked.release()

    def _release(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.run_coroutine_threadsafe(self._servers.hang_up(), loop).result(CLOSING_SECONDS)
        self._servers.close()
