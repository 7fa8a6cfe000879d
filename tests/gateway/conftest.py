"""A gateway in front of the embedded model, and real clients of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from toolrl import Renderer, SamplingParams
from toolrl.gateway import Gateway, GatewayLimits
from toolrl.gateway.gateway import Client
from toolrl.gateway.server import GatewayServer
from toolrl.policy import Policy, TransformersPolicy
from toolrl.policy.models import load_model, load_tokenizer

GREEDY = SamplingParams(0.0, 64)


class Served:
    """A gateway, its server, and its episodes."""

    def __init__(self, policy: Policy, renderer: Renderer, **options: Any):
        self.gateway = Gateway(policy, renderer, **options)
        self.server = GatewayServer(self.gateway)
        self.renderer = renderer
        self._clients: list[Any] = []

    def open(self, sampling: SamplingParams = GREEDY, **limits: Any) -> Client:
        return self.gateway.open(sampling, GatewayLimits(**limits))

    @property
    def url(self) -> str:
        return f"{self.server.url}/v1"

    def openai(self, client: Client | str, **options: Any) -> Any:
        openai = pytest.importorskip("openai")
        key = client if isinstance(client, str) else client.key
        self._clients.append(openai.OpenAI(base_url=self.url, api_key=key, **{"max_retries": 0, **options}))
        return self._clients[-1]

    def anthropic(self, client: Client | str) -> Any:
        anthropic = pytest.importorskip("anthropic")
        key = client if isinstance(client, str) else client.key
        self._clients.append(anthropic.Anthropic(base_url=self.server.url, api_key=key, max_retries=0))
        return self._clients[-1]

    def close(self) -> None:
        for client in self._clients:  # a collector that finds one may warn of its socket first
            client.close()
        self.server.close()


Serve = Callable[..., Served]


@pytest.fixture(scope="session")
def renderer() -> Renderer:
    return Renderer(load_tokenizer("tiny"))


@pytest.fixture
def serve(renderer: Renderer) -> Iterator[Serve]:
    opened: list[Served] = []

    def start(policy: Policy, **options: Any) -> Served:
        opened.append(Served(policy, renderer, **options))
        return opened[-1]

    yield start
    for served in opened:
        served.close()


@pytest.fixture
def tiny(renderer: Renderer) -> Iterator[TransformersPolicy]:
    policy = TransformersPolicy(load_model("tiny"), stop_token_ids=renderer.stop_token_ids, seed=0)
    with policy.generating():
        yield policy
    policy.close()


@pytest.fixture
def served(serve: Serve, tiny: TransformersPolicy) -> Served:
    return serve(tiny)
