"""Promises of sampling from running vLLM servers, on a CPU; where a test says so, without one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from toolrl import ConfigError, PolicyFault
from toolrl.models import load_model
from toolrl.policy import VLLMServerPolicy
from toolrl.types import Sampling

from .vllm_checks import GREEDY, PROMPTS, STOPS, TOKENIZER, RunningServer, assert_same_model, gap, greedy, play, step

with_vllm = [pytest.mark.vllm, pytest.mark.timeout(300)]
LONG = Sampling(max_tokens=1500)


def with_servers(test):
    for mark in with_vllm:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningServer]]:
    """Two that take weights. Started together."""
    folder = tmp_path_factory.mktemp("servers")
    servers = [RunningServer(folder) for _ in range(2)]
    try:
        yield [server.wait() for server in servers]
    finally:
        for server in servers:
            server.kill()


@pytest.fixture
def policy(servers: list[RunningServer]) -> Iterator[VLLMServerPolicy]:
    policy = VLLMServerPolicy([server.url for server in servers], stop_token_ids=STOPS, tokenizer=TOKENIZER)
    yield policy
    policy.close()


@pytest.fixture
def model(policy: VLLMServerPolicy) -> PreTrainedModel:
    """The trainer's: the servers have its weights."""
    model = load_model("tiny")
    policy.connect(lambda: iter(model.named_parameters()))
    policy.update_weights()
    return model


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
        assert min(server.in_flight for server in policy._servers) > 0
        for future in futures:
            future.cancel()
        sample = policy.submit(PROMPTS[0], GREEDY).result()
    longer = [*PROMPTS[0], *sample.token_ids, 7, 8, 9]
    known = policy._servers.choose(longer)
    assert known is not None
    known.in_flight += 5  # it has more to do than the other
    assert policy._servers.choose(longer) is known
    assert policy._servers.choose(PROMPTS[1]) is not known
    known.in_flight -= 5


@with_servers
def test_a_conversation_that_fills_the_context_is_cut(policy: VLLMServerPolicy, model: PreTrainedModel) -> None:
    filling = (PROMPTS[0] * 500)[: policy.max_model_len - 5]
    nearly, full = play(policy, [filling, filling + [7] * 5], Sampling(max_tokens=50))
    assert len(nearly.token_ids) <= 5
    assert (full.token_ids, full.finish) == ([], "length")


@with_servers
def test_the_last_to_leave_cancels_what_is_in_flight(policy: VLLMServerPolicy, model: PreTrainedModel) -> None:
    with policy.generating():
        futures = [policy.submit(ids, LONG) for ids in PROMPTS]
        with pytest.raises(ConfigError, match="in flight"):
            policy.update_weights()
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
def test_logprobs_before_the_temperature_and_servers_without_weight_routes_are_refused(tmp_path: Path) -> None:
    raw = RunningServer(tmp_path, "--logprobs-mode", "raw_logprobs")
    fixed = RunningServer(tmp_path, takes_weights=False)
    try:
        raw.wait()
        with pytest.raises(ConfigError, match="--logprobs-mode processed_logprobs"):
            VLLMServerPolicy(raw.url, stop_token_ids=STOPS)
        policy = VLLMServerPolicy(fixed.wait().url, stop_token_ids=STOPS, tokenizer=TOKENIZER)
        with pytest.raises(ConfigError, match="takes no weights; start it with VLLM_SERVER_DEV_MODE=1"):
            policy.connect(lambda: iter(()))
        assert_same_model(policy, load_model("tiny"))  # to evaluate, no more is needed
        policy.close()
    finally:
        raw.kill()
        fixed.kill()


@with_servers
def test_when_a_server_dies_the_others_go_on_and_it_comes_back_with_the_trainers_weights(
    tmp_path: Path, servers: list[RunningServer]
) -> None:
    mortal = RunningServer(tmp_path).wait()
    policy = VLLMServerPolicy([mortal.url, servers[0].url], stop_token_ids=STOPS, tokenizer=TOKENIZER)
    model = load_model("tiny")
    policy.connect(lambda: iter(model.named_parameters()))
    step(model)
    policy.update_weights()
    try:
        with policy.generating():
            futures = [policy.submit(ids, GREEDY) for ids in PROMPTS * 20]
            mortal.kill()
            for ids, future in zip(PROMPTS * 20, futures, strict=True):
                assert future.result(timeout=60).token_ids == greedy(model, ids)
        mortal = RunningServer(tmp_path, port=mortal.port).wait()
        assert_same_model(policy, model)
        assert {server.url for server in policy._servers if not server.down} == {mortal.url, servers[0].url}
    finally:
        policy.close()
        mortal.kill()


@with_servers
def test_a_restart_of_the_only_server_in_the_middle_of_a_rollout_is_survived(tmp_path: Path) -> None:
    server = RunningServer(tmp_path).wait()
    policy = VLLMServerPolicy(server.url, stop_token_ids=STOPS, tokenizer=TOKENIZER)
    model = load_model("tiny")
    policy.connect(lambda: iter(model.named_parameters()))
    step(model)
    policy.update_weights()
    try:
        with policy.generating():
            futures = [policy.submit(ids, Sampling(max_tokens=800)) for ids in PROMPTS]
            server.kill()
            server = RunningServer(tmp_path, port=server.port)
            samples = [future.result(timeout=200) for future in futures]
        assert all(gap(model, ids, sample, 1.0) < 1e-3 for ids, sample in zip(PROMPTS, samples, strict=True))
    finally:
        policy.close()
        server.kill()


@with_servers
def test_when_no_server_comes_back_it_is_a_fault(tmp_path: Path) -> None:
    server = RunningServer(tmp_path).wait()
    policy = VLLMServerPolicy(server.url, stop_token_ids=STOPS, patience_seconds=2)
    server.kill()
    with policy.generating(), pytest.raises(PolicyFault, match="no vLLM server answers: http"):
        policy.submit(PROMPTS[0], GREEDY).result(timeout=60)
    policy.close()


def test_a_server_that_is_down_at_the_start_is_one_clear_error() -> None:
    threads = threading.active_count()
    with pytest.raises(ConfigError, match=r"no vLLM server answers at http://127.0.0.1:9 \(.*refused.*\); start one"):
        VLLMServerPolicy("http://127.0.0.1:9", stop_token_ids=STOPS)
    with pytest.raises(ConfigError, match="must start with http"):
        VLLMServerPolicy("localhost:8000", stop_token_ids=STOPS)
    with pytest.raises(ConfigError, match="no server to ask"):
        VLLMServerPolicy([], stop_token_ids=STOPS)
    assert threading.active_count() == threads
