"""vLLM servers as `VLLMServerPolicy` sees them: their routes, which of them answer, and who knows a conversation."""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
from transformers import PreTrainedTokenizerBase

from toolrl.errors import ConfigError, PolicyFault
from toolrl.support.waiting import TookTooLong, give_up

# How long a server that did not answer is left alone.
PAUSE_SECONDS = 1.0
# How often within its timeout a server is asked whether it still samples, and by which of its metrics.
_LOOKS = 20
_TOKENS = re.compile(r"vllm:(prompt|generation)_tokens_total\b")
CONVERSATIONS_REMEMBERED = 20_000
HOW_TO_START = """start it with VLLM_SERVER_DEV_MODE=1 and --weight-transfer-config '{"backend": "nccl"}' (or "file")"""


class Server:
    """One server. Its control routes are synchronous, its completions asynchronous. A `WeightClient`."""

    def __init__(self, url: str, model: str, api_key: str | None, timeout_seconds: float):
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"a server's address must start with http:// or https://, got {url!r}")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = model
        self.in_flight = 0
        self.rank_offset = 0  # of its first GPU in a group with the trainer
        self._down_since: float | None = None
        self._why_down = ""
        self._asked = 0.0
        self._places: asyncio.Semaphore | None = None
        self._timeout_seconds = timeout_seconds
        self._answers = 0
        self._looked, self._sampled = -math.inf, 0.0
        self.being_asked = threading.Lock()  # held while it is asked how it is, and sent what it lacks
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._control = httpx.Client(base_url=self.url, headers=headers, timeout=timeout_seconds)
        limits = httpx.Limits(max_connections=None)
        self._completions = httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=httpx.Timeout(None, connect=10.0), limits=limits
        )

    # ---- what it has

    def inspect(self, tokenizer: PreTrainedTokenizerBase | None, probe: str) -> int:
        """Compare the server with what is wanted; return the length of its context.

        Raises:
            ConfigError: It does not answer, or does not fit.
        """
        try:
            models = {entry["id"]: entry for entry in self._get("/v1/models")["data"]}
        except (PolicyFault, LookupError, TypeError) as error:
            raise ConfigError(
                f"no vLLM server answers at {self.url} ({_said(error)}); start one, or check the address"
            ) from None
        if not self.model and len(models) == 1:
            self.model = next(iter(models))
        if self.model not in models:
            raise ConfigError(f"{self.url} has no model {self.model!r}; it has {', '.join(sorted(models))}")
        if tokenizer is not None:
            self._compare_tokenizers(tokenizer, probe)
        self._compare_logprobs()
        return int(models[self.model]["max_model_len"])

    def _compare_tokenizers(self, tokenizer: PreTrainedTokenizerBase, probe: str) -> None:
        answer = self._post("/tokenize", {"model": self.model, "prompt": probe, "add_special_tokens": False})
        ours = tokenizer.encode(probe, add_special_tokens=False)
        if answer["tokens"] != ours:
            raise ConfigError(
                f"the server at {self.url} has another tokenizer than {tokenizer.name_or_path!r}: {probe[:12]!r}... is "
                f"{answer['tokens'][:8]} there and {ours[:8]} here; give both the same model"
            )

    def _compare_logprobs(self) -> None:
        """Log-probabilities must be those of the distribution that is sampled from, after the temperature."""
        request = {"model": self.model, "prompt": [0], "max_tokens": 1, "logprobs": 1, "return_token_ids": True}
        first, second = (self._post("/v1/completions", {**request, "temperature": heat}) for heat in (1.0, 2.0))
        for answer in (first, second):
            _read(answer)
        likeliest = [max(answer["choices"][0]["logprobs"]["top_logprobs"][0].values()) for answer in (first, second)]
        if abs(likeliest[0] - likeliest[1]) < 1e-3:
            raise ConfigError(
                f"the server at {self.url} gives log-probabilities before the temperature; "
                "start it with --logprobs-mode processed_logprobs"
            )

    def check(self) -> None:
        """Ask whether it is healthy.

        Raises:
            PolicyFault: It is not.
        """
        self._asked = time.monotonic()
        self._get("/health")

    # ---- whether it answers

    @property
    def down(self) -> bool:
        """Whether its last answer was none."""
        return self._down_since is not None

    def is_up(self) -> None:
        """Take note that it is healthy and has the weights that it should have: turns may be sent to it."""
        self._down_since = None

    def is_down(self, error: Exception) -> None:
        """Take note that it did not answer."""
        self._down_since = self._down_since or time.monotonic()
        self._asked = time.monotonic()
        self._why_down = _said(error)

    def should_be_asked(self) -> bool:
        """Whether it has been left alone for long enough; True for one caller only."""
        if time.monotonic() - self._asked < PAUSE_SECONDS:
            return False
        self._asked = time.monotonic()
        return True

    def describe(self) -> str:
        """Its address and what it said last."""
        return f"{self.url} ({self._why_down})" if self.down else self.url

    # ---- turns

    @asynccontextmanager
    async def turn(self, places: int) -> AsyncIterator[None]:
        """One of its places, for as long as a request takes."""
        if self._places is None:
            self._places = asyncio.Semaphore(places)
        self.in_flight += 1
        try:
            async with self._places:
                yield
        finally:
            self.in_flight -= 1

    async def complete(self, request: dict[str, Any]) -> tuple[list[int], list[float], str]:
        """Token ids, their log-probabilities and the reason for the end.

        Raises:
            ConfigError: It refuses the request.
            PolicyFault: It failed.
            TookTooLong: It has sampled nothing for anybody for its timeout. One answer alone may take any time.
        """
        post = self._completions.post("/v1/completions", json={"model": self.model, **request})
        task = asyncio.ensure_future(post)
        try:
            seen, idle = await self._progress(), 0
            while idle <= _LOOKS:
                if (await asyncio.wait((task,), timeout=self._timeout_seconds / _LOOKS))[0]:
                    self._answers += 1
                    return _read(self._answer(task.result()))
                now = await self._progress()
                seen, idle = now, idle + 1 if now == seen else 0
        except httpx.RequestError as error:
            raise PolicyFault(_said(error)) from error
        finally:
            await give_up(task)
        raise TookTooLong(f"{self.url} has sampled nothing for {self._timeout_seconds:g} seconds")

    async def _progress(self) -> tuple[int, float]:
        """Answers so far, and the tokens it says to have seen and sampled, asked for once for all turns in flight."""
        if time.monotonic() - self._looked > self._timeout_seconds / _LOOKS / 2:
            self._looked = time.monotonic()
            with suppress(httpx.RequestError, ValueError):  # then its answers alone count
                text = (await self._completions.get("/metrics", timeout=10.0)).text
                self._sampled = sum(float(line.split()[-1]) for line in text.splitlines() if _TOKENS.match(line))
        return self._answers, self._sampled

    async def hang_up(self) -> None:
        """Close the connections that completions use."""
        await self._completions.aclose()

    # ---- weights

    def weight_version(self) -> str:
        """The version of its weights.

        Raises:
            ConfigError: It takes no weights.
            PolicyFault: It does not answer.
        """
        response = self._request("GET", "/weight_info")
        if response.status_code == 404:
            raise ConfigError(f"the server at {self.url} takes no weights; {HOW_TO_START}")
        return str(self._answer(response)["weight_version"])

    def count_gpus(self) -> int:
        """GPUs of its engine."""
        return int(self._get("/get_world_size")["world_size"])

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """See `WeightClient`."""
        if "rank_offset" in init_info:
            init_info = {**init_info, "rank_offset": init_info["rank_offset"] + self.rank_offset}
        self._post("/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        """See `WeightClient`."""
        self._post("/start_weight_update", {})

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """See `WeightClient`."""
        self._post("/update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """See `WeightClient`; what was cached with the old weights is dropped."""
        self._post("/finish_weight_update", {"weight_version": weight_version})
        self._post("/reset_prefix_cache", {})

    # ---- requests

    def _get(self, path: str) -> Any:
        return self._answer(self._request("GET", path))

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._answer(self._request("POST", path, json=body))

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._control.request(method, path, **options)
        except httpx.RequestError as error:
            raise PolicyFault(_said(error)) from error

    def _answer(self, response: httpx.Response) -> Any:
        if response.status_code >= 500 or response.status_code in (408, 429):
            raise PolicyFault(f"{response.request.url.path} answers {response.status_code}: {response.text[:300]!r}")
        if response.status_code >= 400:
            raise ConfigError(
                f"the vLLM server at {self.url} refuses {response.request.url.path} with status "
                f"{response.status_code}: {response.text[:300]!r}"
            )
        try:
            return response.json() if response.content else {}
        except ValueError:
            raise PolicyFault(f"{response.request.url.path} answers no JSON: {response.text[:100]!r}") from None


class Servers:
    """All servers of a policy. A `WeightClient`: an update goes to each of them at once.

    Attributes:
        may_miss_updates: Whether one that is down is left out of an update, since it will be sent it later.
    """

    may_miss_updates = False

    def __init__(self, urls: Sequence[str], model: str, api_key: str | None, timeout_seconds: float):
        if not urls:
            raise ConfigError("no server to ask; pass its address, such as http://localhost:8000")
        self._servers = [Server(url, model, api_key, timeout_seconds) for url in urls]
        self._threads = ThreadPoolExecutor(len(urls), thread_name_prefix="toolrl-vllm-control")
        self._conversations: OrderedDict[int, Server] = OrderedDict()

    def __iter__(self) -> Iterator[Server]:
        """All of them."""
        return iter(self._servers)

    def down(self) -> list[Server]:
        """Those that did not answer."""
        return [server for server in self._servers if server.down]

    def describe(self) -> str:
        """Addresses and what they said last."""
        return ", ".join(server.describe() for server in self._servers)

    def choose(self, prompt_ids: list[int]) -> Server | None:
        """The server that has the conversation in its cache, else the one with least to do; None if all are down."""
        up = [server for server in self._servers if not server.down]
        if len(up) < 2:
            return up[0] if up else None
        known = None
        if self._conversations:
            for key in _prefixes(prompt_ids):
                known = self._conversations.get(key, known)
        return known if known in up else min(up, key=lambda server: server.in_flight)

    def remember(self, prompt_ids: list[int], ids: list[int], server: Server) -> None:
        """Who has a conversation up to here in its cache."""
        if len(self._servers) > 1:
            *_, key = _prefixes([*prompt_ids, *ids])
            self._conversations[key] = server
            if len(self._conversations) > CONVERSATIONS_REMEMBERED:
                self._conversations.popitem(last=False)

    async def hang_up(self) -> None:
        """Close the connections that completions use."""
        for server in self._servers:
            await server.hang_up()

    def close(self) -> None:
        """Close the other connections."""
        self._threads.shutdown()
        for server in self._servers:
            server._control.close()

    def count_gpus(self) -> int:
        """GPUs of all engines; each server learns where its own begin."""
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
        """Call all servers at once: some backends meet each other inside a call."""
        asked = [server for server in self._servers if not (server.down and self.may_miss_updates)]
        calls = [(server, self._threads.submit(getattr(server, method), *arguments)) for server in asked]
        failure: PolicyFault | None = None
        for server, call in calls:
            try:
                call.result()
            except PolicyFault as error:
                server.is_down(error)
                failure = error
        if failure is not None and not (self.may_miss_updates and any(not server.down for server in self._servers)):
            raise PolicyFault(f"a weight update failed: {self.describe()}") from failure


def _read(answer: dict[str, Any]) -> tuple[list[int], list[float], str]:
    try:
        choice = answer["choices"][0]
        if not choice.get("token_ids") or not choice.get("logprobs"):
            raise ConfigError("the server gives no token ids with its completions: take vLLM 0.31 or newer")
        return choice["token_ids"], choice["logprobs"]["token_logprobs"], choice["finish_reason"]
    except (LookupError, TypeError, AttributeError) as error:
        raise PolicyFault(f"no completion in the answer: {error!r}") from error


def _prefixes(ids: list[int]) -> Iterator[int]:
    """A number for each beginning of a conversation (len(ids),)."""
    key = 0
    for id in ids:
        key = hash((key, id))
        yield key


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
