"""Overhead of the engine: whole rollouts compared with bare continuous batching of the same tokens.

Episodes are recorded once. Both sides then submit exactly the recorded prompts to the same model, which generates as
many tokens as each recorded turn has: the engine with parsing, tools, rendering and a reward, and with the recorded
tokens in the place of the generated ones; the bare side submits an episode's next prompt as soon as the one before it
is done. Tools return what they returned in the recording, so that their own work is on neither side. Pairs run in
turn, in alternating order, each from an empty prefix cache. Wall-clock time depends on what else the machine does, so
the CPU time of the process is measured too.
"""

from __future__ import annotations

import gc
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import replace
from statistics import median, quantiles
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, Qwen3ForCausalLM

import toolrl_envs  # noqa: F401 - registers the environments
from tests.benchmarks.common import make_tokenizer, table
from toolrl import Limits, Renderer, RolloutEngine, RolloutRequest, Sample, SamplingParams, Task, ToolEnv, call, say
from toolrl.env import make
from toolrl.policy import ScriptedPolicy, TransformersPolicy
from toolrl.tiny import PATH
from toolrl.tiny.make import make_model
from toolrl.trajectory import Trajectory

PAIRS = 5
UNKNOWN_TOKEN = 1_000_000  # no turn stops by itself
RECIPE = {"toolrl/PythonMath-v0": 2, "toolrl/DocsSearch-v0": 3, "toolrl/DocsCompute-v0": 1}
LONG = " ".join(f"Entry {n} stands between its neighbours." for n in range(60))

Submission = tuple[list[int], int]  # a prompt, and how many tokens to generate


class Replay:
    """A policy that spends a model's time on each recorded turn and answers with the recorded tokens."""

    def __init__(self, policy: TransformersPolicy, played: Sequence[Trajectory]):
        self._policy = policy
        recorded: dict[tuple[int, ...], list[Sample]] = {}
        for trajectory in played:
            for prompt_ids, sample in submissions(trajectory):
                recorded.setdefault(tuple(prompt_ids), []).append(sample)
        # Episodes of a group begin with the same prompt.
        self._recorded = {key: itertools.cycle(samples) for key, samples in recorded.items()}

    def submit(self, prompt_ids: list[int], sampling: SamplingParams) -> Future[Sample]:
        sample = next(self._recorded[tuple(prompt_ids)])
        answer: Future[Sample] = Future()
        generated = self._policy.submit(prompt_ids, SamplingParams(1.0, len(sample.token_ids)))
        generated.add_done_callback(lambda _: answer.set_result(sample))
        return answer

    def generating(self) -> AbstractContextManager[None]:
        return self._policy.generating()

    def close(self) -> None:
        self._policy.close()


def submissions(trajectory: Trajectory) -> Iterator[tuple[list[int], Sample]]:
    """The prompts of an episode and the turns that followed them."""
    ids = list(trajectory.prompt_ids)
    for turn in trajectory.turns:
        yield list(ids), turn.sample
        ids += [*turn.sample.token_ids, *turn.observation_ids]


def bare(policy: TransformersPolicy, episodes: Sequence[Sequence[Submission]]) -> None:
    """Generate the turns of all episodes."""
    finished = threading.Semaphore(0)

    def step(left: Sequence[Submission]) -> None:
        if not left:
            finished.release()
            return
        prompt_ids, length = left[0]
        policy.submit(prompt_ids, SamplingParams(1.0, length)).add_done_callback(lambda _: step(left[1:]))

    with policy.generating():
        for episode in episodes:
            step(episode)
        for _ in episodes:
            finished.acquire()


def lookup(query: str) -> str:
    """Look an entry up.

    Args:
        query: What to look for.
    """
    return f"{LONG if 'whole' in query else 'Found'}: {query[-8:]}"


def catalogue(episodes: int, calls: int, query: str) -> tuple[PreTrainedModel, Renderer, list[Trajectory], Any]:
    """Scripted episodes: some calls, then the answer. No two observations are the same."""
    renderer = Renderer(make_tokenizer())
    tasks = [Task(str(n), f"Which entry number follows entry number {n} in the catalogue?") for n in range(episodes)]
    limits = Limits(turns=calls + 2, tool_calls=calls, completion_tokens=65_536, turn_tokens=8192)
    env = ToolEnv(tasks=tasks, tools=[lookup], reward=lambda task, episode: 1.0, limits=limits)
    requests = [RolloutRequest(env, task) for task in env.tasks]

    def scripted(request: RolloutRequest) -> RolloutRequest:
        script = [*(call("lookup", query=f"{query} {part}, {request.task.id}") for part in range(calls)), say("42")]
        return replace(request, policy=ScriptedPolicy([renderer.assistant_ids(message) for message in script]))

    engine = RolloutEngine(ScriptedPolicy([[0]]), renderer, sampling=SamplingParams(max_tokens=8192))
    played = engine.run([scripted(request) for request in requests])
    assert all(len(trajectory.turns) == calls + 1 for trajectory in played)
    return make_model(len(renderer.tokenizer)), renderer, played, requests


def recipe() -> tuple[PreTrainedModel, Renderer, list[Trajectory], Any]:
    """A batch of `make train`, twice: the embedded policy in groups of 8 episodes. No rewards are computed."""
    renderer = Renderer(AutoTokenizer.from_pretrained(PATH))
    model = Qwen3ForCausalLM.from_pretrained(PATH, dtype="float32")
    environments = {env_id: make(env_id) for env_id in RECIPE}
    requests = []
    for env_id, weight in RECIPE.items():
        env = environments[env_id]
        env.limits = replace(env.limits, completion_tokens=256, turn_tokens=64)
        some = itertools.islice(env.tasks, (16 * weight + 5) // 6)
        requests += [RolloutRequest(env, task, env_id) for task in some for _ in range(8)]
    policy = TransformersPolicy(model, stop_token_ids=renderer.stop_token_ids, seed=0)
    played = RolloutEngine(policy, renderer, sampling=SamplingParams(temperature=0.6)).run(requests)
    policy.close()
    results = {
        (trajectory.env_id, result.call.name, json.dumps(dict(result.call.arguments))): result.content
        for trajectory in played
        for result in trajectory.tool_results
    }

    def replayed(env_id: str) -> ToolEnv:
        def recorded(name: str) -> Callable[..., str]:
            return lambda **arguments: results[env_id, name, json.dumps(arguments)]

        env = environments[env_id]
        tools = [replace(tool, function=recorded(tool.name), resources={}) for tool in env.toolbox.tools.values()]
        return ToolEnv(
            tasks=env.tasks, tools=tools, reward=lambda task, episode: 0.0,
            system_prompt=env.system_prompt, limits=env.limits,
        )  # fmt: skip

    replays = {env_id: replayed(env_id) for env_id in RECIPE}
    for env in environments.values():
        env.close()
    return model, renderer, played, [replace(request, env=replays[request.env_id]) for request in requests]


SHAPES: dict[str, Callable[[], tuple[PreTrainedModel, Renderer, list[Trajectory], Any]]] = {
    "64 episodes of 3 turns": lambda: catalogue(64, 2, "the catalogue's entry for part"),
    "256 episodes of 3 turns": lambda: catalogue(256, 2, "the catalogue's entry for part"),
    "64 episodes of 12 short turns": lambda: catalogue(64, 11, "part"),
    "64 episodes with long observations": lambda: catalogue(64, 3, "the whole catalogue from part"),
    "two batches of `make train`": recipe,
}


def measure(name: str) -> list[object]:
    """A row of the table."""
    model, renderer, played, requests = SHAPES[name]()
    policy = TransformersPolicy(model, stop_token_ids=[UNKNOWN_TOKEN], max_sequences=64)
    engine = RolloutEngine(Replay(policy, played), renderer, sampling=SamplingParams(max_tokens=8192))
    episodes = [[(ids, len(sample.token_ids)) for ids, sample in submissions(trajectory)] for trajectory in played]
    sampled = sum(length for episode in episodes for _, length in episode)

    def full() -> None:
        assert sum(len(turn.sample.token_ids) for t in engine.run(requests) for turn in t.turns) == sampled

    sides: list[Callable[[], None]] = [full, lambda: bare(policy, episodes)]
    wall: list[list[float]] = [[], []]
    cpu: list[list[float]] = [[], []]
    for pair in range(-1, PAIRS):  # the first is not counted
        for side in (0, 1) if pair % 2 else (1, 0):
            policy.weights_changed()
            gc.collect()
            start, cpu_start = time.perf_counter(), time.process_time()
            sides[side]()
            if pair >= 0:
                wall[side].append(time.perf_counter() - start)
                cpu[side].append(time.process_time() - cpu_start)
    policy.close()

    def added(times: list[list[float]]) -> list[float]:
        return [(whole / alone - 1) * 100 for whole, alone in zip(*times, strict=True)]

    quarter, _, three_quarters = quantiles(added(wall), n=4, method="inclusive")
    return [
        name,
        f"{sampled:,}",
        f"{median(wall[1]):.2f} s",
        f"{median(added(wall)):+.1f} %",
        f"{quarter:+.1f} to {three_quarters:+.1f} %",
        f"{min(added(wall)):+.1f} to {max(added(wall)):+.1f} %",
        f"{median(added(cpu)):+.1f} %",
    ]


def main() -> str:
    title = f"What the engine adds to bare continuous batching ({PAIRS} pairs, {torch.get_num_threads()} torch threads)"
    columns = ["episodes", "sampled tokens", "bare", "added, median", "middle half", "all", "added CPU time, median"]
    rows = []
    for name in SHAPES:
        rows.append(measure(name))
        print(rows[-1], flush=True)
    return table(title, columns, rows)
