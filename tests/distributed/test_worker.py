"""Promises of a rollout worker, here without Ray: it plays what it is sent, and says what is wrong with the rest."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import pytest
import torch

from tests.gateway.test_training import AGENT
from toolrl import Message, Renderer, RolloutRequest, SamplingParams, Task, ToolEnv, make, say
from toolrl.distributed import Playing, PoolSettings
from toolrl.distributed.gate import Gate
from toolrl.distributed.work import Played, Work
from toolrl.distributed.worker import RolloutWorker
from toolrl.errors import ConfigError
from toolrl.gateway import GatewayLimits, parse_agent
from toolrl.policy import PolicySettings, ScriptedPolicy, TransformersPolicy
from toolrl.policy.models import load_model, load_tokenizer

BROKEN = "tests/BrokenReward-v0"


def make_broken(**_: Any) -> ToolEnv:
    return ToolEnv(
        tasks=[Task("t", "Call it.", "x")],
        reward=lambda task, episode: 1 / 0,
        oracle=lambda task: [say("x")],
    )


if BROKEN not in gymnasium.registry:
    gymnasium.register(BROKEN, entry_point=make_broken)


def oracle() -> Playing:
    return Playing(None, Renderer(load_tokenizer("tiny")).parts(), SamplingParams(1.0, 10_000))


def work(env: ToolEnv, count: int = 3, episodes: int = 1) -> list[Work]:
    return [
        Work.of([RolloutRequest(env, task, "e", f"{task.id}/{n}", info={"n": n}) for n in range(episodes)])
        for task in env.tasks.take(count)
    ]


def played(playing: Playing, works: Sequence[Work]) -> dict[int, Played]:
    async def run() -> dict[int, Played]:
        worker = RolloutWorker(pickle.loads(pickle.dumps(playing)))
        about = await worker.start()
        assert about["pid"] > 0
        found = {place: one async for place, one in worker.play(pickle.loads(pickle.dumps(works)))}
        assert await worker.alive() == 0
        await worker.close()
        return found

    return asyncio.run(run())


def test_a_worker_plays_what_it_is_sent() -> None:
    env = make("toolrl/PythonMath-v0", split="test", size=20)
    works = work(env, 4, episodes=2)
    found = played(oracle(), works)
    env.close()
    assert sorted(found) == [0, 1, 2, 3]
    for place, one in enumerate(works):
        trajectories = found[place].trajectories
        assert [t.id for t in trajectories] == [id for id, _ in one.episodes]
        assert all(t.score.success and t.has_tokens and t.env_id == "e" for t in trajectories)
        assert trajectories[1].info == {"n": 1}


def test_a_worker_has_an_agent_play() -> None:
    env = make("toolrl/PythonMath-v0", split="test", size=20)
    works = work(env, 4)
    program = parse_agent(AGENT, limits=GatewayLimits(calls=5))
    playing = replace(
        oracle(), policy=PolicySettings(seed=0), sampling=SamplingParams(0.0, 64), agent=program.made_from
    )
    found = played(playing, works)
    env.close()
    trajectories = [found[place].trajectories[0] for place in range(4)]
    assert all(t.has_tokens and t.score.value is not None for t in trajectories)
    assert any(len(t.turns) > 1 for t in trajectories)


def test_a_worker_with_another_version_of_an_environment_says_so() -> None:
    env = make("toolrl/PythonMath-v0", size=5)
    (one, *_) = work(env)
    env.close()
    other = replace(one, digest=one.digest + 1)
    unknown = replace(one, task_id="nobody")
    nowhere = replace(one, made_from=("nowhere/Env-v0", {}))
    found = played(oracle(), [other, unknown, nowhere, one])
    for place, message in ((0, "no task .* with the same prompt"), (1, "no task 'nobody'"), (2, "cannot be made")):
        error = found[place].error
        assert isinstance(error, ConfigError)
        with pytest.raises(ConfigError, match=f"on node .*{message}"):
            raise error
    assert found[3].trajectories[0].score.success


def test_a_bug_comes_back_with_its_place() -> None:
    env = make(BROKEN)
    error = played(oracle(), work(env))[0].error
    env.close()
    assert error is not None
    said = "\n".join([str(error), *getattr(error, "__notes__", [])])
    assert "division by zero" in said
    assert "reward=lambda task, episode: 1 / 0" in said
    assert "on node " in said


def test_only_environments_that_a_worker_can_make_are_sent() -> None:
    env = make("toolrl/PythonMath-v0", size=5)
    task = env.tasks[0]
    by_hand = ToolEnv(tasks=[Task("t", "?", "1")], reward=lambda task, episode: 1.0)
    for request, message in (
        (RolloutRequest(by_hand, by_hand.tasks[0]), "was not made by toolrl.make"),
        (RolloutRequest(env.with_tools([]), task), "was not made by toolrl.make"),
        (RolloutRequest(env, task, policy=ScriptedPolicy([[1]])), "a policy of its own"),
    ):
        with pytest.raises(ConfigError, match=message):
            Work.of([request])
    assert Work.of([RolloutRequest(env, task)]).made_from == ("toolrl/PythonMath-v0", {"size": 5})
    env.close()


def test_a_confidence_that_was_asked_for_is_asked_for_there_too() -> None:
    env = make("toolrl/PythonMath-v0", size=5, confidence=0.2)
    assert env.made_from == ("toolrl/PythonMath-v0", {"size": 5, "confidence": 0.2})
    (trajectory,) = played(oracle(), work(env, 1))[0].trajectories
    env.close()
    assert "confidence" in trajectory.score.parts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "workers must be positive, got 0"),
        ({"workers": 1, "concurrency": -1}, "concurrency must be positive"),
        ({"workers": 1, "resources": {"CPU": "many"}}, "'CPU' must be a number from 0, got 'many'"),
        ({"workers": 1, "resources": [1]}, "worker_resources must be like"),
    ],
)
def test_settings_of_a_pool_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PoolSettings(**settings)


def test_workers_do_not_draw_the_same_numbers() -> None:
    playing = replace(oracle(), policy=PolicySettings(seed=7))
    assert [getattr(playing.of_worker(n).policy, "seed", None) for n in range(3)] == [7, 8, 9]
    plain = oracle()
    assert plain.of_worker(3) is plain


# ---- weights


def test_weights_change_between_turns_and_waiting_turns_are_sampled_with_the_new_ones() -> None:
    tokenizer = load_tokenizer("tiny")
    renderer = Renderer(tokenizer)
    policy = TransformersPolicy(load_model("tiny"), stop_token_ids=renderer.stop_token_ids, seed=0)
    prompt = renderer.prompt_ids([Message("user", "What is 2 + 2?")])
    with policy.generating():
        gate = Gate(policy)
        first = gate.submit(prompt, SamplingParams(0.0, 16)).result()
        long = [gate.submit(prompt, SamplingParams(0.0, 16)) for _ in range(8)]
        zeros = {name: torch.zeros_like(weight) for name, weight in policy.model.named_parameters()}
        gate.load(zeros, 5)
        after = gate.submit(prompt, SamplingParams(0.0, 16)).result()
    policy.close()
    assert {tuple(future.result().token_ids) for future in long} == {tuple(first.token_ids)}
    assert {future.result().policy_version for future in long} == {0}
    assert after.policy_version == 5
    assert after.token_ids != first.token_ids
    assert after.logprobs[0] == pytest.approx(-float(torch.tensor(float(len(tokenizer))).log()), abs=0.05)


def test_a_policy_without_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match="ScriptedPolicy has no weights"):
        Gate(ScriptedPolicy([[1]])).load({}, 1)
