"""Promises of sampling with an engine that someone else made in this process, as TRL does; here on a CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.policy.vllm.checks import GREEDY, PROMPTS, STOPS, assert_same_model, play
from toolrl import ConfigError, PolicyFault
from toolrl.policy.models import load_model
from toolrl.policy.vllm.policy import ColocatedVLLMPolicy
from toolrl.tiny import PATH
from toolrl.types import SamplingParams

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def llm() -> Iterator[Any]:
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    from vllm import LLM

    llm = LLM(
        str(PATH),
        dtype="float32",
        enforce_eager=True,
        kv_cache_memory_bytes=1 << 28,
        skip_tokenizer_init=True,
        generation_config="vllm",
        logprobs_mode="processed_logprobs",
    )
    yield llm
    llm.llm_engine.engine_core.shutdown()


@pytest.fixture(scope="module")
def policy(llm: Any) -> Iterator[ColocatedVLLMPolicy]:
    policy = ColocatedVLLMPolicy(llm, stop_token_ids=STOPS)
    yield policy
    policy.close()


def test_tokens_and_logprobs_are_the_models(policy: ColocatedVLLMPolicy) -> None:
    assert_same_model(policy, load_model("tiny"))


def test_the_last_to_leave_cancels_what_is_in_flight(llm: Any, policy: ColocatedVLLMPolicy) -> None:
    with policy.generating():
        futures = [policy.submit(ids, SamplingParams(max_tokens=1500)) for ids in PROMPTS]
        futures[0].cancel()
    assert all(future.cancelled() for future in futures)
    assert not llm.llm_engine.has_unfinished_requests()
    assert_same_model(policy, load_model("tiny"))


def test_a_conversation_that_fills_the_context_is_cut(policy: ColocatedVLLMPolicy) -> None:
    (sample,) = play(policy, [[7] * policy.max_model_len], GREEDY)
    assert (sample.token_ids, sample.finish) == ([], "length")


def test_samples_say_after_how_many_updates_they_were_drawn(policy: ColocatedVLLMPolicy) -> None:
    version = policy.version
    policy.weights_changed()
    assert {sample.policy_version for sample in play(policy, PROMPTS, GREEDY)} == {version + 1}


def test_submissions_belong_inside_generating(policy: ColocatedVLLMPolicy) -> None:
    with pytest.raises(ConfigError, match="generating"):
        policy.submit(PROMPTS[0], GREEDY)


def test_it_shows_progress_before_the_first_answer(policy: ColocatedVLLMPolicy) -> None:
    seen = set()
    with policy.generating():
        future = policy.submit(PROMPTS[0], SamplingParams(max_tokens=1500))
        while not future.done():
            seen.add(policy.progress())
            time.sleep(0.002)
    assert len(seen) > 3


def test_a_failure_of_the_engine_is_a_fault(
    llm: Any, policy: ColocatedVLLMPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(llm.llm_engine, "step", fail)
    with policy.generating(), pytest.raises(PolicyFault, match="vLLM failed: RuntimeError: out of memory"):
        policy.submit(PROMPTS[0], GREEDY).result(timeout=60)
