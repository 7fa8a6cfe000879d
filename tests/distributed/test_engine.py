"""Promises of engines that sample for workers, here without Ray: exact tokens, and a turn survives its engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from toolrl import Message, Renderer, SamplingParams, make
from toolrl.distributed import Playing
from toolrl.distributed.cluster import WorkerLost
from toolrl.distributed.engine import InferenceEngine, RemotePolicy
from toolrl.errors import PolicyFault
from toolrl.evaluation import evaluate
from toolrl.policy import PolicySettings, TransformersPolicy
from toolrl.policy.models import load_model, load_tokenizer

GREEDY = SamplingParams(0.0, 24)


class Method:
    """A method of an actor, as Ray has it; `broken` says why it cannot be called."""

    def __init__(self, method: Callable[..., Any]):
        self._method = method
        self.broken: Exception | None = None
        self.calls = 0

    async def _call(self, *arguments: Any) -> Any:
        if self.broken is not None:
            raise self.broken
        return await self._method(*arguments)

    def remote(self, *arguments: Any) -> Any:
        self.calls += 1
        return self._call(*arguments)


class Handle:
    """An engine as a worker sees it."""

    def __init__(self, engine: InferenceEngine):
        self.sample, self.alive = Method(engine.sample), Method(engine.alive)


@pytest.fixture
def renderer() -> Renderer:
    return Renderer(load_tokenizer("tiny"))


@pytest.fixture
def engines(renderer: Renderer) -> Iterator[list[InferenceEngine]]:
    playing = Playing(PolicySettings(model="tiny", seed=0), renderer.parts(), SamplingParams(0.6, 32))
    opened = [InferenceEngine(playing.of_worker(number)) for number in range(2)]
    for engine in opened:
        assert asyncio.run(engine.start())["pid"] > 0
    yield opened
    for engine in opened:
        asyncio.run(engine.close())


def test_turns_are_those_of_the_policy_itself(renderer: Renderer, engines: list[InferenceEngine]) -> None:
    prompt = renderer.prompt_ids([Message("user", "What is 12 * 34?")])
    here = TransformersPolicy(load_model("tiny"), stop_token_ids=renderer.stop_token_ids, seed=0)
    with here.generating():
        expected = here.submit(prompt, GREEDY).result()
    here.close()
    policy = RemotePolicy()
    policy.set_engines([(0, Handle(engines[0]))])
    sample = policy.submit(prompt, GREEDY).result()
    assert (sample.token_ids, sample.finish) == (expected.token_ids, expected.finish)
    assert sample.logprobs == pytest.approx(expected.logprobs, abs=1e-5)
    assert policy.progress() >= 1


def test_new_weights_are_stamped_on_what_they_sample(renderer: Renderer, engines: list[InferenceEngine]) -> None:
    prompt = renderer.prompt_ids([Message("user", "What is 12 * 34?")])
    policy = RemotePolicy()
    policy.set_engines([(0, Handle(engines[0]))])
    zeros = {name: torch.zeros_like(weight) for name, weight in load_model("tiny").named_parameters()}
    asyncio.run(engines[0].load(zeros, 7))
    sample = policy.submit(prompt, GREEDY).result()
    assert sample.policy_version == 7
    assert sample.logprobs[0] == pytest.approx(-float(torch.tensor(float(len(renderer.tokenizer))).log()), abs=0.05)


def test_a_turn_whose_engine_dies_is_sampled_by_another(renderer: Renderer, engines: list[InferenceEngine]) -> None:
    dying, living = Handle(engines[0]), Handle(engines[1])
    dying.sample.broken = WorkerLost("the node is gone")
    policy = RemotePolicy()
    policy.set_engines([(0, dying), (1, living)])
    env = make("toolrl/PythonMath-v0", split="test", size=20)
    report = evaluate({"e": env}, policy, renderer, tasks=12, sampling=SamplingParams(0.6, 48))["e"]
    env.close()
    assert (report.samples, report.unscored) == (12, 0)
    assert dying.sample.calls <= 12 < living.sample.calls  # once it is known to be gone, nobody asks it


def test_a_turn_waits_for_an_engine_and_gives_up_in_the_end(renderer: Renderer, engines: list[InferenceEngine]) -> None:
    prompt = renderer.prompt_ids([Message("user", "Hello")])
    with pytest.raises(PolicyFault, match=r"no engine has joined within 0\.1 s"):
        RemotePolicy(patience_seconds=0.1).submit(prompt, GREEDY).result()
    policy = RemotePolicy()
    waiting = policy.submit(prompt, GREEDY)
    policy.set_engines([(0, Handle(engines[0]))])
    assert waiting.result(30).token_ids


def test_an_engine_that_fails_is_a_fault_and_keeps_its_seat(renderer: Renderer, engines: list[InferenceEngine]) -> None:
    handle = Handle(engines[0])
    handle.sample.broken = PolicyFault("out of memory")
    policy = RemotePolicy()
    policy.set_engines([(0, handle)])
    prompt = renderer.prompt_ids([Message("user", "Hello")])
    with pytest.raises(PolicyFault, match="out of memory"):
        policy.submit(prompt, GREEDY).result()
    handle.sample.broken = None
    assert policy.submit(prompt, GREEDY).result().token_ids


def test_a_conversation_stays_with_the_engine_that_has_it_in_its_cache(
    renderer: Renderer, engines: list[InferenceEngine]
) -> None:
    first, second = Handle(engines[0]), Handle(engines[1])
    policy = RemotePolicy()
    policy.set_engines([(0, first), (1, second)])
    ids = renderer.prompt_ids([Message("user", "What is 12 * 34?")])
    for _ in range(4):
        ids = [*ids, *policy.submit(ids, SamplingParams(0.0, 4)).result().token_ids, ids[-1]]
    assert sorted([first.sample.calls, second.sample.calls]) == [0, 4]
