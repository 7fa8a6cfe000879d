r"""A policy on running vLLM servers: tokens in and out over `/v1/completions`, weights where a server accepts them.

Start a server with, for example,

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs --generation-config vllm \
        --weight-transfer-config '{"backend": "nccl"}'

The first and the last setting are only for training: they open the routes that accept weights.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from transformers import PreTrainedTokenizerBase

from toolrl.errors import ConfigError, PolicyFault
from toolrl.policy.conversations import Conversations
from toolrl.policy.vllm.base import CLOSING_SECONDS, EnginePolicy
from toolrl.policy.vllm.server_client import VLLMServer
from toolrl.policy.vllm.weights_sender import NamedWeights, Transfer, open_sender
from toolrl.support.waiting import TookTooLong
from toolrl.types import SamplingParams

# A text that different tokenizers split differently: spaces, digits, case, scripts.
PROBE = "  The 1,234th répétition: x_1 = {'a': 5.50}\n\t漢字 🙂"


class VLLMServerPolicy(EnginePolicy):
    """Samples from one or several servers of the same model.

    A server that does not answer gets no turns until it does; the others take them. A server that comes back without
    the trainer's weights is sent them first.

    Attributes:
        servers: The pool of servers.
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
        """Connect to the servers and check their model, tokenizer and log-probabilities.

        Args:
            urls: Addresses, such as "http://localhost:8000".
            stop_token_ids: Tokens that end a turn.
            tokenizer: Must agree with the servers' own.
            model: Its name on the servers; by default their only model.
            api_key: The `--api-key` of the servers.
            timeout_seconds: A server counts as down if, by its answers and its `/metrics`, it samples nothing for this
                long. One turn may take longer.
            patience_seconds: How long a turn or a weight update waits for a server to come back when none answers.
            max_concurrent: Requests in flight to one server.

        Raises:
            ConfigError: A server does not answer, has another model or tokenizer, or returns no token ids.
        """
        self.servers = ServerPool([urls] if isinstance(urls, str) else urls, model, api_key, timeout_seconds)
        try:
            self.max_model_len = min(server.inspect(tokenizer, PROBE) for server in self.servers)
        except BaseException:
            self.servers.close()
            raise
        super().__init__(stop_token_ids)
        self._patience_seconds = patience_seconds
        self._max_concurrent = max_concurrent

    def connect(self, weights: NamedWeights, transfer: Transfer = "file", *, rank: int = 0) -> None:
        """Connect a trainer: `update_weights` then sends the weights to all servers.

        Args:
            weights: Yields all weights under the names of the checkpoint.
            transfer: The backend that the servers were started with. With "file" they must see the trainer's files.
            rank: Of this process among the trainer's; rank 0 sends.

        Raises:
            ConfigError: A server accepts no weights.
            PolicyFault: A server does not answer.
        """
        with self._lock:
            if self._sender is not None:
                self._sender.close()
            for server in self.servers:
                server.weight_version()
            # A server that misses a file is sent it later; one that misses a broadcast keeps the others waiting.
            self.servers.may_miss_updates = transfer == "file"
            gpus = self.servers.count_gpus() if transfer == "nccl" else 1
            self._sender = open_sender(transfer, self.servers, weights, rank=rank, engine_gpus=gpus)

    def progress(self) -> float:
        """The current time: `complete` itself ends a turn whose server hangs. See `ShowsProgress`."""
        return time.monotonic()

    async def _turn(self, prompt_ids: list[int], sampling: SamplingParams) -> tuple[list[int], list[float], bool]:
        request = {
            "prompt": prompt_ids,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "logprobs": 0,  # of the sampled token only
            "stop_token_ids": self._stop_token_ids,
            "ignore_eos": True,  # only the renderer's stop tokens end a turn
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
                server.mark_down(error)
                raise PolicyFault(str(error)) from None
            except PolicyFault as error:
                server.mark_down(error)
                continue
            self.servers.remember(prompt_ids, ids, server)
            return ids, logprobs, finish == "stop"

    async def _pick(self, prompt_ids: list[int], deadline: float) -> VLLMServer:
        """A server that answers; preferably the one that has the conversation in its cache."""
        while True:
            for server in self.servers.down():
                if server.is_due_for_check():
                    await asyncio.to_thread(self._bring_up_to_date, server, wait=False)
            if (chosen := self.servers.choose(prompt_ids)) is not None:
                return chosen
            if time.monotonic() > deadline:
                raise PolicyFault(f"no vLLM server answers: {self.servers.describe()}")
            await asyncio.sleep(0.2)

    def _make_ready(self) -> None:
        """Wait until a server answers; every server that answers has the trainer's weights."""
        for server in self.servers:
            self._bring_up_to_date(server)
        self._wait(self._pick([], time.monotonic() + self._patience_seconds))

    def _bring_up_to_date(self, server: VLLMServer, *, wait: bool = True) -> None:
        """Check a server's health and weights, and send it the latest if it lacks them, before it gets turns.

        A turn in the middle of an update would run on half-loaded weights, and can crash vLLM's engine.

        Args:
            server: The server.
            wait: Whether to wait for another thread that is already checking it.
        """
        if not server.check_lock.acquire(blocking=wait):
            return
        try:
            server.check()
            sender = self._sender if self.version else None
            if sender and server.weight_version() != str(self.version) and not sender.send_again(server):
                raise PolicyFault(f"{server.url} has lost the trainer's weights; resume from a checkpoint")
            server.mark_up()
        except PolicyFault as error:
            server.mark_down(error)
        finally:
            server.check_lock.release()

    def _release(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.run_coroutine_threadsafe(self.servers.close_completions(), loop).result(CLOSING_SECONDS)
        self.servers.close()


class ServerPool:
    """All servers of a policy. A `WeightClient`: an update goes to all of them at once.

    Attributes:
        may_miss_updates: Whether an update leaves out servers that are down, since they can be sent it later.
    """

    may_miss_updates = False

    def __init__(self, urls: Sequence[str], model: str, api_key: str | None, timeout_seconds: float):
        if not urls:
            raise ConfigError("no server to ask; pass an address, such as http://localhost:8000")
        self._servers = [VLLMServer(url, model, api_key, timeout_seconds) for url in urls]
        self._threads = ThreadPoolExecutor(len(urls), thread_name_prefix="toolrl-vllm-control")
        self._conversations: Conversations[VLLMServer] = Conversations()

    def __iter__(self) -> Iterator[VLLMServer]:
        """Iterate over the servers, in order."""
        return iter(self._servers)

    def down(self) -> list[VLLMServer]:
        """Servers that did not answer."""
        return [server for server in self._servers if server.down]

    def describe(self) -> str:
        """Addresses, with the last error of those that are down."""
        return ", ".join(server.describe() for server in self._servers)

    def choose(self, prompt_ids: list[int]) -> VLLMServer | None:
        """The server that has the conversation in its cache, else the least busy one; None if all are down."""
        up = [server for server in self._servers if not server.down]
        if len(up) < 2:
            return up[0] if up else None
        known = self._conversations.find(prompt_ids)
        return known if known in up else min(up, key=lambda server: server.in_flight)

    def remember(self, prompt_ids: list[int], ids: list[int], server: VLLMServer) -> None:
        """Note which server has a conversation up to here in its cache."""
        if len(self._servers) > 1:
            self._conversations.remember(prompt_ids, ids, server)

    async def close_completions(self) -> None:
        """Close the connections of completions, on their loop."""
        for server in self._servers:
            await server.close_completions()

    def close(self) -> None:
        """Close the other connections."""
        self._threads.shutdown()
        for server in self._servers:
            server.close()

    def count_gpus(self) -> int:
        """GPUs of all engines; gives each server the rank of its first one."""
        total = 0
        for server in self._servers:
            server.rank_offset = total
            total += server.count_gpus()
        return total

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """See `WeightClient`."""
        self._each("init_weight_transfer_engine", init_info)

    def start_weight_update(self) -> None:
        """See `WeightClient`."""
        self._each("start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """See `WeightClient`."""
        self._each("update_weights", update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """See `WeightClient`."""
        self._each("finish_weight_update", weight_version)

    def _each(self, method: str, *arguments: Any) -> None:
        """Call all servers at once: some backends wait for each other inside a call."""
        included = [server for server in self._servers if not (server.down and self.may_miss_updates)]
        calls = [(server, self._threads.submit(getattr(server, method), *arguments)) for server in included]
        failure: PolicyFault | None = None
        for server, call in calls:
            try:
                call.result()
            except PolicyFault as error:
                server.mark_down(error)
                failure = error
        if failure is not None and not (self.may_miss_updates and any(not server.down for server in self._servers)):
            raise PolicyFault(f"a weight update failed: {self.describe()}") from failure
