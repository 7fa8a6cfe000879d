r"""A policy on running vLLM servers: tokens in, tokens out, over `/v1/completions`; weights where they take them.

A server is started with, for example,

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs --generation-config vllm \
        --weight-transfer-config '{"backend": "nccl"}'

The first and the last are only for training: they open the routes that take weights.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

import httpx
from transformers import PreTrainedTokenizerBase

from toolrl.errors import ConfigError, PolicyFault
from toolrl.policy.vllm_servers import Server, Servers
from toolrl.policy.weights import NamedWeights, Transfer, WeightSender, open_sender
from toolrl.types import Sample, Sampling

# A text in which tokenizers differ: spaces, digits, case, scripts.
PROBE = "  The 1,234th répétition: x_1 = {'a': 5.50}\n\t漢字 🙂"


class VLLMServerPolicy:
    """Samples from one or several servers that have the same model.

    A server that does not answer is left alone until it does, and the others take its turns; a server that came back
    without the trainer's weights gets them before anything else.

    Attributes:
        version: Number of weight updates; stamped on each sample.
        max_model_len: Tokens of the longest conversation that the servers take.
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
            timeout_seconds: For one turn.
            patience_seconds: How long a turn waits for a server to come back when none answers.
            max_concurrent: Requests at a time to one server.

        Raises:
            ConfigError: A server does not answer, has another model or tokenizer, or gives no token ids.
        """
        self.version = 0
        self._stop_token_ids = [int(token) for token in stop_token_ids]
        self._patience_seconds = patience_seconds
        self._servers = Servers([urls] if isinstance(urls, str) else list(urls), model, api_key, timeout_seconds)
        self._max_concurrent = max_concurrent
        self._sender: WeightSender | None = None
        self._generating = 0
        self._in_flight: set[Future[Sample]] = set()
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        try:
            self.max_model_len = min(server.inspect(tokenizer, PROBE) for server in self._servers)
        except BaseException:
            self._servers.close()
            raise
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="toolrl-vllm-servers", daemon=True)
        self._thread.start()

    def submit(self, prompt_ids: list[int], sampling: Sampling) -> Future[Sample]:
        """Ask for a turn. Where the conversation fills the model's context, the turn is cut: its finish is "length".

        Raises:
            ConfigError: This is outside of `generating()`.
        """
        with self._lock:
            if not self._generating or self._loop is None:
                raise ConfigError("the servers are not set up to generate; submit inside `with policy.generating():`")
            future = asyncio.run_coroutine_threadsafe(self._sample(prompt_ids, sampling), self._loop)
            self._in_flight.add(future)
        future.add_done_callback(self._in_flight.discard)
        return future

    @contextmanager
    def generating(self) -> Iterator[None]:
        """See that each server has the trainer's weights; the last to leave cancels what is in flight."""
        with self._lock:
            if not self._generating and self._sender is not None:
                for server in self._servers:
                    self._bring_up_to_date(server)
            self._generating += 1
        try:
            yield
        finally:
            with self._lock:
                self._generating -= 1
                if not self._generating:
                    for future in list(self._in_flight):
                        future.cancel()

    @property
    def connected(self) -> bool:
        """Whether a trainer sends its weights through this policy."""
        return self._sender is not None

    def connect(self, weights: NamedWeights, transfer: Transfer = "file", *, rank: int = 0) -> None:
        """Take weights from a trainer: `update_weights` sends what `weights()` gives to all servers.

        Args:
            weights: Gives all weights under the names of the checkpoint.
            transfer: The backend that the servers were started with. For "file" they see the trainer's files.
            rank: Of this process among the trainer's; the first one sends.

        Raises:
            ConfigError: A server takes no weights.
        """
        with self._lock:
            for server in self._servers:
                server.weight_version()
            gpus = self._servers.count_gpus() if transfer == "nccl" else 1
            self._sender = open_sender(transfer, self._servers, weights, rank=rank, engine_gpus=gpus)

    def weights_changed(self) -> None:
        """Say that the servers' weights were updated, and their caches reset, by somebody else."""
        self.version += 1

    def update_weights(self) -> None:
        """Send the trainer's weights to the servers; cached prefixes are dropped, the version goes up.

        Raises:
            ConfigError: Submissions are in flight, or `connect` was not called.
            PolicyFault: A server is down.
        """
        with self._lock:
            if self._sender is None:
                raise ConfigError("no trainer is connected; call policy.connect(weights) first")
            if self._in_flight:
                raise ConfigError(f"weights changed while {len(self._in_flight)} submissions are in flight")
            self._sender.send(self.version + 1)
            self.version += 1

    def close(self) -> None:
        """Close connections and remove the weights' file; what is in flight is cancelled. Safe to call twice."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is None:
                return
            for future in list(self._in_flight):
                future.cancel()
            if self._sender is not None:
                self._sender.close()
            asyncio.run_coroutine_threadsafe(self._servers.hang_up(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()
        self._servers.close()

    async def _sample(self, prompt_ids: list[int], sampling: Sampling) -> Sample:
        room = min(sampling.max_tokens, self.max_model_len - len(prompt_ids))
        if room < 1:
            return Sample([], [], "length", self.version)
        version = self.version
        request = {
            "prompt": prompt_ids,
            "temperature": sampling.temperature,
            "max_tokens": room,
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
            except (httpx.TransportError, PolicyFault) as error:
                server.is_down(error)
                continue
            self._servers.remember(prompt_ids, ids, server)
            return Sample(ids, logprobs, "stop" if finish == "stop" else "length", version)

    async def _pick(self, prompt_ids: list[int], deadline: float) -> Server:
        """A server that answers; the one that knows the conversation, if it does."""
        while True:
            for server in self._servers.down():
                if server.should_be_asked():
                    await asyncio.to_thread(self._bring_up_to_date, server)
            if (chosen := self._servers.choose(prompt_ids)) is not None:
                return chosen
            if time.monotonic() > deadline:
                raise PolicyFault(f"no vLLM server answers: {self._servers.describe()}")
            await asyncio.sleep(0.2)

    def _bring_up_to_date(self, server: Server) -> None:
        """Ask a server how it is, and send it the last weights if it has others."""
        with self._lock:
            try:
                server.check()
                if self._sender is None or not self.version or server.weight_version() == str(self.version):
                    return
                if not self._sender.send_again(server):
                    raise PolicyFault(f"{server.url} has lost the trainer's weights; resume from a checkpoint")
            except (httpx.TransportError, PolicyFault) as error:
                server.is_down(error)
