"""Promises of sampling with transformers' continuous batching: the tokens and logprobs are the model's own."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

import pytest
import torch
from transformers import Qwen3ForCausalLM
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager

from toolrl.errors import ConfigError, PolicyFault
from toolrl.policy import TransformersPolicy
from toolrl.policy.watchdog import Watchdog
from toolrl.types import Sample, SamplingParams

MakePolicy = Callable[..., TransformersPolicy]
GREEDY = SamplingParams(temperature=0.0, max_tokens=12)
LONG = SamplingParams(max_tokens=3000)  # longer than whatever the test does in the meantime
NEVER = 63_000  # stands for a stop token that is not in the vocabulary


def prompt(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(2, 64), k=length)


def branching_prompts() -> list[list[int]]:
    """40 prompts of 1 to 97 tokens; most share prefixes, some of them longer than a page or a batch."""
    trunk = prompt(70)
    branches = [trunk[:length] + prompt(5, seed=length + i) for length in (0, 15, 16, 33, 64) for i in range(5)]
    return [*branches, *(prompt(n, seed=n) for n in (1, 2, 16, 17, 64, 97)), *([trunk[:48]] * 4), *([trunk] * 5)]


def play(policy: TransformersPolicy, prompts: list[list[int]], sampling: SamplingParams) -> list[Sample]:
    with policy.generating():
        return [future.result(timeout=60) for future in [policy.submit(ids, sampling) for ids in prompts]]


@torch.no_grad()
def own_logprobs(model: Qwen3ForCausalLM, ids: list[int], sample: Sample, temperature: float = 1.0) -> torch.Tensor:
    logits = model(torch.tensor([ids + sample.token_ids])).logits[0, len(ids) - 1 : -1] / temperature
    return logits.log_softmax(-1)[torch.arange(len(sample.token_ids)), sample.token_ids]


def gap(model: Qwen3ForCausalLM, ids: list[int], sample: Sample, temperature: float = 1.0) -> float:
    """The largest difference between a sample's logprobs and the model's."""
    return float((own_logprobs(model, ids, sample, temperature) - torch.tensor(sample.logprobs)).abs().max())


def hold_forward(model: Qwen3ForCausalLM) -> threading.Event:
    """Make the model wait at each forward pass until the event is set."""
    gate = threading.Event()
    model.register_forward_pre_hook(lambda *_: gate.wait(30) and None)
    return gate


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_greedy_tokens_equal_those_of_generate(
    model: Qwen3ForCausalLM, make_policy: MakePolicy, attention: str
) -> None:
    model.config._attn_implementation = attention
    prompts = branching_prompts()
    for ids, sample in zip(prompts, play(make_policy(), prompts, GREEDY), strict=True):
        tensor = torch.tensor([ids])
        whole = model.generate(
            tensor, attention_mask=torch.ones_like(tensor), do_sample=False, max_new_tokens=12, eos_token_id=1,
            pad_token_id=0,
        )  # fmt: skip
        assert sample.token_ids == whole[0, len(ids) :].tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_the_models_own_with_shared_prefixes_and_more_prompts_than_slots(
    model: Qwen3ForCausalLM, policy: TransformersPolicy, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    shared = []
    search = PagedAttentionCache.search_prefix_match
    monkeypatch.setattr(PagedAttentionCache, "search_prefix_match", lambda *a: shared.append(search(*a)) or shared[-1])
    prompts = branching_prompts()
    samples = play(policy, prompts, SamplingParams(temperature, 24))
    assert len({tuple(sample.token_ids) for sample in samples}) > 35  # sampled, not argmax
    assert max(gap(model, ids, s, temperature) for ids, s in zip(prompts, samples, strict=True)) < 1e-4
    assert max(shared) >= 48  # otherwise the test would not cover shared prefixes


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_tokens_are_drawn_with_the_models_probabilities(
    model: Qwen3ForCausalLM, make_policy: MakePolicy, temperature: float
) -> None:
    draws, ids = 3000, prompt(4)
    with torch.no_grad():
        expected = (model(torch.tensor([ids])).logits[0, -1] / temperature).softmax(-1)
    samples = play(make_policy(seed=3, max_sequences=256), [ids] * draws, SamplingParams(temperature, max_tokens=1))
    drawn = torch.tensor([sample.token_ids[0] for sample in samples]).bincount(minlength=len(expected))
    deviation = (drawn - draws * expected) / (draws * expected * (1 - expected)).sqrt()
    assert deviation[draws * expected > 5].abs().max() < 4.5
    assert drawn[draws * expected < 1e-3].sum() == 0


def test_a_full_cache_delays_submissions_without_changing_them(
    model: Qwen3ForCausalLM, make_policy: MakePolicy
) -> None:
    policy = make_policy(cache_tokens=320, stop_token_ids=[NEVER])
    prompts = [prompt(30, seed) for seed in range(10)]
    samples = play(policy, prompts, SamplingParams(max_tokens=70))
    assert [len(sample.token_ids) for sample in samples] == [70] * 10
    assert max(gap(model, ids, sample) for ids, sample in zip(prompts, samples, strict=True)) < 1e-4


def test_a_turn_ends_with_a_stop_token_or_is_cut(make_policy: MakePolicy) -> None:
    ids = prompt(20)
    (cut,) = play(make_policy(stop_token_ids=[NEVER]), [ids], GREEDY)
    assert (cut.finish, len(cut.token_ids), len(cut.logprobs)) == ("length", 12, 12)
    stop = cut.token_ids[7]
    first = cut.token_ids.index(stop)
    (stopped,) = play(make_policy(stop_token_ids=[NEVER, stop]), [ids], GREEDY)
    assert (stopped.finish, stopped.token_ids) == ("stop", cut.token_ids[: first + 1])


def test_a_stop_token_in_the_last_position_is_a_stop(make_policy: MakePolicy) -> None:
    ids = prompt(20)
    (cut,) = play(make_policy(stop_token_ids=[NEVER]), [ids], GREEDY)
    length = cut.token_ids.index(cut.token_ids[7]) + 1
    (stopped,) = play(make_policy(stop_token_ids=[cut.token_ids[7]]), [ids], SamplingParams(0.0, length))
    assert (stopped.finish, len(stopped.token_ids)) == ("stop", length)


def test_after_a_weight_change_samples_come_from_the_new_weights_and_say_so(
    model: Qwen3ForCausalLM, policy: TransformersPolicy
) -> None:
    ids = prompt(40)
    (before,) = play(policy, [ids], GREEDY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.2)
    (stale,) = play(policy, [ids], GREEDY)
    policy.weights_changed()
    (fresh,) = play(policy, [ids], GREEDY)
    assert gap(model, ids, stale) > 1e-2  # not announced: the cached prefix is from the old weights
    assert gap(model, ids, fresh) < 1e-4
    assert [s.policy_version for s in (before, stale, fresh)] == [0, 0, 1]


def test_weights_cannot_change_under_a_submission(model: Qwen3ForCausalLM, policy: TransformersPolicy) -> None:
    gate = hold_forward(model)
    with policy.generating():
        future = policy.submit(prompt(5), GREEDY)
        with pytest.raises(ConfigError, match="1 submissions are in flight"):
            policy.weights_changed()
        gate.set()
        assert future.result(timeout=30).policy_version == policy.version == 0


def test_the_temperature_changes_only_while_nothing_is_in_flight(
    model: Qwen3ForCausalLM, policy: TransformersPolicy
) -> None:
    gate = hold_forward(model)
    with policy.generating():
        future = policy.submit(prompt(5), SamplingParams(1.0, 4))
        with pytest.raises(ConfigError, match=r"temperature 0\.5 while others with 1\.0 are in flight"):
            policy.submit(prompt(5), SamplingParams(0.5, 4))
        gate.set()
        future.result(timeout=30)
        sample = policy.submit(prompt(5), SamplingParams(0.5, 4)).result(timeout=30)
    assert gap(model, prompt(5), sample, 0.5) < 1e-4


def test_a_cancelled_submission_is_no_longer_in_flight(model: Qwen3ForCausalLM, policy: TransformersPolicy) -> None:
    gate = hold_forward(model)
    with policy.generating():
        running = policy.submit(prompt(5), LONG)
        assert running.cancel()
        gate.set()
        policy.submit(prompt(5), GREEDY).result(timeout=30)  # another temperature
        policy.weights_changed()


@pytest.mark.parametrize("training", [True, False])
def test_training_mode_and_attention_return_after_generation(
    model: Qwen3ForCausalLM, policy: TransformersPolicy, training: bool
) -> None:
    model.train(training)
    with suppress(KeyError), policy.generating():
        policy.submit(prompt(5), GREEDY).result(timeout=30)
        with policy.generating():
            assert not model.training
        assert not model.training
        assert model.config._attn_implementation != "sdpa"
        raise KeyError
    assert (model.training, model.config._attn_implementation) == (training, "sdpa")


def test_generation_has_released_the_model_when_the_context_is_left(
    model: Qwen3ForCausalLM, policy: TransformersPolicy
) -> None:
    passes: list[str] = []
    model.register_forward_pre_hook(lambda *_: passes.append(model.config._attn_implementation))
    with policy.generating():
        policy.submit(prompt(5), SamplingParams(max_tokens=1)).result(timeout=30)
        abandoned = policy.submit(prompt(5), LONG)
    seen = len(passes)
    assert abandoned.cancelled()
    play(policy, [prompt(5)], SamplingParams(max_tokens=3))
    assert len(passes) <= seen + 3
    assert "sdpa" not in passes


def test_a_submission_outside_of_generating_is_refused(policy: TransformersPolicy) -> None:
    with pytest.raises(ConfigError, match=r"with policy\.generating\(\)"):
        policy.submit(prompt(5), GREEDY)


def test_closing_fails_what_is_in_flight_and_leaves_no_thread(make_policy: MakePolicy) -> None:
    before = set(threading.enumerate())
    policy = make_policy()
    with policy.generating():
        futures = [policy.submit(prompt(5, seed), LONG) for seed in range(12)]
        policy.close()
        faults = [future.exception(timeout=30) for future in futures]
    policy.close()
    assert [repr(fault) for fault in faults] == ["PolicyFault('the policy was closed')"] * 12
    assert set(threading.enumerate()) <= before


def test_the_death_of_the_generation_thread_is_a_fault_and_the_next_submission_works(
    model: Qwen3ForCausalLM, policy: TransformersPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("injected")

    def die_slowly(*arguments: object) -> None:
        handle(*arguments)
        threading.Event().wait(0.3)  # the requests have failed, the thread still runs

    handle = ContinuousBatchingManager._handle_critical_error
    monkeypatch.setattr(ContinuousBatchingManager, "_handle_critical_error", die_slowly)
    with policy.generating():
        hook = model.register_forward_pre_hook(fail)
        futures: list[Future[Sample]] = [policy.submit(prompt(5, seed), GREEDY) for seed in range(12)]
        faults = [future.exception(timeout=30) for future in futures]
        hook.remove()
        sample = policy.submit(prompt(5), GREEDY).result(timeout=30)
    assert all(isinstance(fault, PolicyFault) and "injected" in str(fault) for fault in faults)
    assert gap(model, prompt(5), sample) < 1e-4


def test_one_seed_gives_the_same_samples(make_policy: MakePolicy) -> None:
    first, second, other = (
        play(make_policy(seed=seed), [prompt(9)], SamplingParams(max_tokens=20)) for seed in (7, 7, 8)
    )
    assert first == second != other


@pytest.mark.slow
def test_a_process_that_forgets_to_close_exits(model: Qwen3ForCausalLM, tmp_path: object) -> None:
    model.save_pretrained(str(tmp_path))
    script = f"""
import torch
from transformers import AutoModelForCausalLM
from toolrl.policy import TransformersPolicy
from toolrl.types import SamplingParams
torch.set_num_threads(1)
policy = TransformersPolicy(AutoModelForCausalLM.from_pretrained({str(tmp_path)!r}), stop_token_ids=[{NEVER}])
with policy.generating():
    print(len(policy.submit([5, 6, 7], SamplingParams(max_tokens=4)).result().token_ids))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.returncode) == ("4\n", 0), done.stderr


def test_a_long_turn_on_a_slow_machine_shows_that_the_policy_works(
    model: Qwen3ForCausalLM, make_policy: MakePolicy
) -> None:
    model.register_forward_pre_hook(lambda *_: time.sleep(0.05))
    policy = make_policy(stop_token_ids=[NEVER])
    with policy.generating():  # 40 steps, 2 seconds
        sample = asyncio.run(Watchdog(policy, 0.5).sample(prompt(5), SamplingParams(max_tokens=40)))
    assert len(sample.token_ids) == 40


def test_a_model_that_hangs_in_a_step_is_a_fault_and_blocks_nobody(
    model: Qwen3ForCausalLM, make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolrl.policy.transformers.STEP_SECONDS", 0.2)
    gate, policy = hold_forward(model), make_policy()
    training = model.training

    def hang() -> None:
        with policy.generating(), pytest.raises(PolicyFault, match=r"has done nothing for 0\.3 seconds"):
            asyncio.run(Watchdog(policy, 0.3).sample(prompt(5), GREEDY))

    with pytest.raises(PolicyFault, match=r"a step of generation did not end within 0\.2 seconds"):
        hang()
    assert model.training is training
    gate.set()
    monkeypatch.undo()
    assert len(play(policy, [prompt(5)], GREEDY)) == 1
