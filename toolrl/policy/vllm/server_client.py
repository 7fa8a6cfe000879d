"""A client of one vLLM server: its routes, and whether it answers."""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
from transformers import PreTrainedTokenizerBase

from toolrl.errors import ConfigError, PolicyFault
from toolrl.support.waiting import TookTooLong, give_up

PAUSE_SECONDS = 1.0  # between two checks of a server that is down
_LOOKS = 20  # per timeout: how often a server's progress is polled
_TOKENS = re.compile(r"vllm:(prompt|generation)_tokens_total\b")
HOW_TO_START = """start it with VLLM_SERVER_DEV_MODE=1 and --weight-transfer-config '{"backend": "nccl"}' (or "file")"""


class VLLMServer:
    """One server: control routes are synchronous, completions asynchronous. A `WeightClient`."""

    def __init__(self, url: str, model: str, api_key: str | None, timeout_seconds: float):
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"a server's address must start with http:// or https://, got {url!r}")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = model
        self.in_flight = 0
        self.rank_offset = 0  # rank of its first GPU in the group with the trainer
        self._down_since: float | None = None
        self._why_down = ""
        self._checked = 0.0
        self._slots: asyncio.Semaphore | None = None
        self._timeout_seconds = timeout_seconds
        self._answers = 0
        self._looked, self._sampled = -math.inf, 0.0
        self.check_lock = threading.Lock()  # held while it is checked and sent the weights that it lacks
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._control = httpx.Client(base_url=self.url, headers=headers, timeout=timeout_seconds)
        limits = httpx.Limits(max_connections=None)
        self._completions = httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=httpx.Timeout(None, connect=10.0), limits=limits
        )

    # ---- checks at the start

    def inspect(self, tokenizer: PreTrainedTokenizerBase | None, probe: str) -> int:
        """Check its model, tokenizer and log-probabilities; return the length of its context.

        Raises:
            ConfigError: It does not answer, or a check fails.
        """
        try:
            models = {entry["id"]: entry for entry in self._get("/v1/models")["data"]}
        except (PolicyFault, LookupError, TypeError) as error:
            raise ConfigError(
                f"no vLLM server answers at {self.url} ({_reason(error)}); start one, or check the address"
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
                f"{answer['tokens'][:8]} there and {ours[:8]} here; use the same model on both sides"
            )

    def _compare_logprobs(self) -> None:
        """Check that log-probabilities are taken after the temperature, from the distribution that is sampled."""
        request = {"model": self.model, "prompt": [0], "max_tokens": 1, "logprobs": 1, "return_token_ids": True}
        first, second = (
            self._post("/v1/completions", {**request, "temperature": temperature}) for temperature in (1.0, 2.0)
        )
        for answer in (first, second):
            _read(answer)
        likeliest = [max(answer["choices"][0]["logprobs"]["top_logprobs"][0].values()) for answer in (first, second)]
        if abs(likeliest[0] - likeliest[1]) < 1e-3:
            raise ConfigError(
                f"the server at {self.url} returns log-probabilities from before the temperature; "
                "start it with --logprobs-mode processed_logprobs"
            )

    def check(self) -> None:
        """Check that it is healthy.

        Raises:
            PolicyFault: It is not.
        """
        self._checked = time.monotonic()
        self._get("/health")

    # ---- whether it answers

    @property
    def down(self) -> bool:
        """Whether it failed to answer the last request."""
        return self._down_since is not None

    def mark_up(self) -> None:
        """Note that it is healthy and has the current weights, so that it gets turns."""
        self._down_since = None

    def mark_down(self, error: Exception) -> None:
        """Note that it did not answer."""
        self._down_since = self._down_since or time.monotonic()
        self._checked = time.monotonic()
        self._why_down = _reason(error)

    def is_due_for_check(self) -> bool:
        """Whether the pause since its last check is over; True for one caller only."""
        if time.monotonic() - self._checked < PAUSE_SECONDS:
            return False
        self._checked = time.monotonic()
        return True

    def describe(self) -> str:
        """Its address, with its last error if it is down."""
        return f"{self.url} ({self._why_down})" if self.down else self.url

    # ---- turns

    @asynccontextmanager
    async def turn(self, max_concurrent: int) -> AsyncIterator[None]:
        """Hold one of its slots during a request."""
        if self._slots is None:
            self._slots = asyncio.Semaphore(max_concurrent)
        self.in_flight += 1
        try:
            async with self._slots:
                yield
        finally:
            self.in_flight -= 1

    async def complete(self, request: dict[str, Any]) -> tuple[list[int], list[float], str]:
        """Token ids, their log-probabilities and the finish reason.

        Raises:
            ConfigError: It refuses the request.
            PolicyFault: It failed.
            TookTooLong: It sampled nothing at all for its timeout. A single answer may take longer.
        """
        post = self._completions.post("/v1/completions", json={"model": self.model, **request})
        task = asyncio.ensure_future(post)
        try:
            seen, idle = await self.progress(), 0
            while idle <= _LOOKS:
                if (await asyncio.wait((task,), timeout=self._timeout_seconds / _LOOKS))[0]:
                    self._answers += 1
                    return _read(self._answer(task.result()))
                now = await self.progress()
                seen, idle = now, idle + 1 if now == seen else 0
        except httpx.RequestError as error:
            raise PolicyFault(_reason(error)) from error
        finally:
            await give_up(task)
        raise TookTooLong(f"{self.url} has sampled nothing for {self._timeout_seconds:g} seconds")

    async def progress(self) -> tuple[int, float]:
        """Answers so far, and tokens processed by its metrics, which are polled once for all turns in flight."""
        if time.monotonic() - self._looked > self._timeout_seconds / _LOOKS / 2:
            self._looked = time.monotonic()
            with suppress(httpx.RequestError, ValueError):  # then only its answers count
                text = (await self._completions.get("/metrics", timeout=10.0)).text
                self._sampled = sum(float(line.split()[-1]) for line in text.splitlines() if _TOKENS.match(line))
        return self._answers, self._sampled

    async def close_completions(self) -> None:
        """Close the connections of completions, on their loop."""
        await self._completions.aclose()

    def close(self) -> None:
        """Close the other connections."""
        self._control.close()

    # ---- weights

    def weight_version(self) -> str:
        """The version of its weights.

        Raises:
            ConfigError: It accepts no weights.
            PolicyFault: It does not answer.
        """
        response = self._request("GET", "/weight_info")
        if response.status_code == 404:
            raise ConfigError(f"the server at {self.url} accepts no weights; {HOW_TO_START}")
        return str(self._answer(response)["weight_version"])

    def count_gpus(self) -> int:
        """How many GPUs its engine has."""
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
        """See `WeightClient`; prefixes cached with the old weights are dropped."""
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
            raise PolicyFault(_reason(error)) from error

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
            raise PolicyFault(f"{response.request.url.path} answers without JSON: {response.text[:100]!r}") from None


def _read(answer: dict[str, Any]) -> tuple[list[int], list[float], str]:
    try:
        choice = answer["choices"][0]
        if not choice.get("token_ids") or not choice.get("logprobs"):
            raise ConfigError("the server returns no token ids with its completions; use vLLM 0.31 or newer")
        return choice["token_ids"], choice["logprobs"]["token_logprobs"], choice["finish_reason"]
    except (LookupError, TypeError, AttributeError) as error:
        raise PolicyFault(f"no completion in the answer: {error!r}") from error


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
