"""Promises of sampling from running vLLM servers, on a CPU; a few tests need no vLLM."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.policy.vllm.checks import (
    GREEDY,
    PROMPTS,
    STOPS,
    TOKENIZER,
    RunningServer,
    assert_agents_tokens_are_the_models,
    assert_same_model,
    connect,
    gap,
    greedy,
    play,
    step,
)
from toolrl import ConfigError, PolicyFault
from toolrl.policy import VLLMServerPolicy
from toolrl.policy.models import load_model
from toolrl.policy.vllm.server_client import VLLMServer
from toolrl.policy.vllm.weights_sender import FileSender, WeightClient
from toolrl.support.waiting import TookTooLong
from toolrl.types import SamplingParams

Test = TypeVar("Test", bound=Callable[..., None])
LONG = SamplingParams(max_tokens=1500)


def with_servers(test: Test) -> Test:
    """Mark a test that needs vLLM."""
    return pytest.mark.vllm(pytest.mark.timeout(300)(test))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningServer]]:
    """Two servers that accept weights, started together."""
    folder = tmp_path_factory.mktemp("servers")
    servers = [RunningServer(folder).start() for _ in range(2)]
    try:
        yield [server.wait() for server in servers]
    finally:
        for server in servers:
            server.kill()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[RunningServer]:
    """A server for a test to kill."""
    server = RunningServer(tmp_path).start()
    try:
        yield server.wait()
    finally:
        server.kill()


@pytest.fixture
def opened() -> Iterator[Callable[..., VLLMServerPolicy]]:
    """Open policies on servers, and close them after the test."""
    policies: list[VLLMServerPolicy] = []

    def open_policy(*servers: RunningServer, **settings: float) -> VLLMServerPolicy:
        urls = [server.url for server in servers]
        policies.append(VLLMServerPolicy(urls, stop_token_ids=STOPS, tokenizer=TOKENIZER, **settings))
        return policies[-1]

    yield open_policy
    for policy in policies:
        policy.close()


@pytest.fixture
def policy(servers: list[RunningServer], opened: Callable[..., VLLMServerPolicy]) -> VLLMServerPolicy:
    return opened(*servers)


@pytest.fixture
def model(policy: VLLMServerPolicy) -> PreTrainedModel:
    """The trainer's model, whose weights the servers have."""
    return connect(policy)


@with_servers
def test_agents_play_with_servers_behind_the_gateway(policy: VLLMServerPolicy, model: PreTrainedModel) -> None:
    assert_agents_tokens_are_the_models(policy, model)


@with_servers
def test_tokens_and_logprobs_are_the_models_before_and_after_updates(
    policy: VLLMServerPolicy, model: PreTrainedModel
) -> None:
    assert_same_model(policy, model)
    for update in (2, 3):
        step(model)
        policy.update_weights()
        assert_same_model(policy, model)
        assert {sample.policy_version for sample in play(policy, PROMPTS, GREEDY)} == {update}


@with_servers
def test_a_conversation_goes_on_where_it_is_known_and_work_is_shared(
    policy: VLLMServerPolicy, model: PreTrainedModel
) -> None:
    with policy.generating():
        futures = [policy.submit(ids, LONG) for ids in PROMPTS]
        time.sleep(0.3)
        assert min(server.in_flight for server in policy.servers) > 0
        for future in futures:
            future.cancel()
        sample = policy.submit(PROMPTS[0], GREEDY).result()
    longer = [*PROMPTS[0], *sample.token_ids, 7, 8, 9]
    known = policy.servers.choose(longer)
    assert known is not None
    known.in_flight += 5  # it is busier than the other
    assert policy.servers.choose(longer) is known
    assert policy.servers.choose(PROMPTS[1]) is not known
    known.in_flight -= 5


@with_servers
def test_a_conversation_that_fills_the_context_is_cut(policy: VLLMServerPolicy, model: PreTrainedModel) -> None:
    filling = (PROMPTS[0] * 500)[: policy.max_model_len - 5]
    nearly, full = play(policy, [filling, filling + [7] * 5], SamplingParams(max_tokens=50))
    assert len(nearly.token_ids) <= 5
    assert (full.token_ids, full.finish) == ([], "length")


@with_servers
def test_the_last_to_leave_cancels_what_is_in_flight(policy: VLLMServerPolicy, model: PreTrainedModel) -> None:
    with policy.generating():
        futures = [policy.submit(ids, LONG) for ids in PROMPTS]
    assert all(future.done() for future in futures)
    policy.update_weights()


@with_servers
def test_another_tokenizer_or_model_is_refused(
    servers: list[RunningServer], byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ConfigError, match="has another tokenizer than 'byte-tokenizer'"):
        VLLMServerPolicy(servers[0].url, stop_token_ids=STOPS, tokenizer=byte_tokenizer)
    with pytest.raises(ConfigError, match="no model 'qwen'; it has tiny"):
        VLLMServerPolicy(servers[0].url, stop_token_ids=STOPS, model="qwen")


@with_servers
def test_logprobs_before_the_temperature_and_servers_without_weight_routes_are_refused(
    tmp_path: Path, opened: Callable[..., VLLMServerPolicy]
) -> None:
    raw = RunningServer(tmp_path, "--logprobs-mode", "raw_logprobs").start()
    fixed = RunningServer(tmp_path, takes_weights=False).start()
    try:
        with pytest.raises(ConfigError, match="--logprobs-mode processed_logprobs"):
            opened(raw.wait())
        policy = opened(fixed.wait())
        with pytest.raises(ConfigError, match="accepts no weights; start it with VLLM_SERVER_DEV_MODE=1"):
            policy.connect(lambda: iter(()))
        assert_same_model(policy, load_model("tiny"))  # evaluation needs no more
    finally:
        raw.kill()
        fixed.kill()


@with_servers
def test_when_a_server_dies_the_others_go_on_and_it_comes_back_with_the_trainers_weights(
    mortal: RunningServer, servers: list[RunningServer], opened: Callable[..., VLLMServerPolicy]
) -> None:
    policy = opened(mortal, servers[0])
    model = connect(policy)
    with policy.generating():
        futures = [policy.submit(ids, GREEDY) for ids in PROMPTS * 20]
        mortal.kill()
        for ids, future in zip(PROMPTS * 20, futures, strict=True):
            assert future.result(timeout=60).token_ids == greedy(model, ids, STOPS)
    step(model)
    policy.update_weights()  # it misses this one
    assert_same_model(policy, model)
    assert [server.url for server in policy.servers.down()] == [mortal.url]
    mortal.start().wait()
    assert_same_model(policy, model)
    assert policy.servers.down() == []
    assert {server.weight_version() for server in policy.servers} == {str(policy.version)}


@with_servers
def test_a_restart_of_the_only_server_is_survived_in_a_rollout_and_in_an_update(
    mortal: RunningServer, opened: Callable[..., VLLMServerPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = opened(mortal)
    model = connect(policy)
    step(model)
    policy.update_weights()
    send_again, given_turns = FileSender.send_again, []

    def watched(sender: FileSender, client: WeightClient) -> bool:
        if isinstance(client, VLLMServer):
            given_turns.append(not client.down)
        return send_again(sender, client)

    monkeypatch.setattr(FileSender, "send_again", watched)
    with policy.generating():
        futures = [policy.submit(ids, SamplingParams(max_tokens=800)) for ids in PROMPTS]
        mortal.kill()
        mortal.start()
        samples = [future.result(timeout=200) for future in futures]
    assert given_turns == [False]  # a turn in the middle of an update would crash the engine
    assert all(gap(model, ids, sample, 1.0) < 1e-3 for ids, sample in zip(PROMPTS, samples, strict=True))
    mortal.kill()
    mortal.start()
    step(model)
    policy.update_weights()
    assert_same_model(policy, model)


@with_servers
def test_when_no_server_comes_back_it_is_a_fault(
    mortal: RunningServer, opened: Callable[..., VLLMServerPolicy]
) -> None:
    policy = opened(mortal, patience_seconds=2)
    connect(policy)
    with policy.generating():
        mortal.kill()
        with pytest.raises(PolicyFault, match="no vLLM server answers: http"):
            policy.submit(PROMPTS[0], GREEDY).result(timeout=60)
    with pytest.raises(PolicyFault, match="no vLLM server answers: http"):
        policy.update_weights()


class SomeServer(BaseHTTPRequestHandler):
    """Answers everything with an empty JSON object."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def test_a_server_of_something_else_is_one_clear_error() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), SomeServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ConfigError, match="no vLLM server answers at http"):
            VLLMServerPolicy(f"http://127.0.0.1:{server.server_port}", stop_token_ids=STOPS)
        server.shutdown()


def test_a_server_that_is_down_at_the_start_is_one_clear_error() -> None:
    before = set(threading.enumerate())
    with pytest.raises(ConfigError, match=r"no vLLM server answers at http://127.0.0.1:9 \(.*refused.*\); start one"):
        VLLMServerPolicy("http://127.0.0.1:9", stop_token_ids=STOPS)
    with pytest.raises(ConfigError, match="must start with http"):
        VLLMServerPolicy("localhost:8000", stop_token_ids=STOPS)
    with pytest.raises(ConfigError, match="no server to ask"):
        VLLMServerPolicy([], stop_token_ids=STOPS)
    assert set(threading.enumerate()) <= before


@with_servers
def test_a_servers_metrics_tell_that_it_samples(policy: VLLMServerPolicy, model: PreTrainedModel) -> None:
    async def tokens_of(url: str) -> float:
        server = VLLMServer(url, "tiny", None, timeout_seconds=10.0)
        try:
            return (await server.progress())[1]
        finally:
            await server.close_completions()
            server.close()

    def tokens() -> list[float]:
        return [asyncio.run(tokens_of(server.url)) for server in policy.servers]

    before = tokens()
    play(policy, PROMPTS, GREEDY)
    time.sleep(0.5)
    assert all(now > then for now, then in zip(tokens(), before, strict=True))


class SlowServer(BaseHTTPRequestHandler):
    """Answers after a second and a half; meanwhile its metrics may say that it samples for others."""

    works = True

    def do_GET(self) -> None:
        self._send(f'vllm:generation_tokens_total{{engine="0"}} {time.monotonic() if self.works else 7.0}\n')

    def do_POST(self) -> None:
        time.sleep(1.5)
        self._send('{"choices": [{"token_ids": [5], "logprobs": {"token_logprobs": [-1.0]}, "finish_reason": "stop"}]}')

    def _send(self, body: str) -> None:
        with suppress(OSError):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.mark.parametrize("works", [True, False])
def test_a_server_that_samples_for_others_is_alive_and_one_that_does_not_is_a_fault(
    works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SlowServer, "works", works)

    async def complete(url: str) -> object:
        server = VLLMServer(url, "m", None, timeout_seconds=0.4)
        try:
            return await server.complete({"prompt": [1]})
        finally:
            await server.close_completions()

    with ThreadingHTTPServer(("127.0.0.1", 0), SlowServer) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{http.server_port}"
        if works:
            assert asyncio.run(complete(url)) == ([5], [-1.0], "stop")
        else:
            with pytest.raises(TookTooLong, match=r"has sampled nothing for 0\.4 seconds"):
                asyncio.run(complete(url))
        http.shutdown()
