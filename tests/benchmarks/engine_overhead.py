"""Overhead of the engine: full rollouts compared with bare continuous batching of the same tokens.

A model of the embedded policy's size generates as many tokens as each scripted turn has, and the
script's tokens are handed on in their place. So both sides generate exactly the same numbers of tokens
after exactly the same prompts: the engine with parsing, a tool that does nothing, rendering and a
reward; the bare side submits an episode's next prompt, recorded before, as soon as the one before it is done.
Pairs run in turn, in alternating order, each from an empty prefix cache.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from statistics import median

from tests.benchmarks.common import make_env, make_tokenizer, table, turns
from toolrl import Renderer, RolloutEngine, RolloutRequest, Sample, SamplingParams
from toolrl.policy import ScriptedPolicy, TransformersPolicy
from toolrl.tiny.make import make_model

PAIRS = 7
UNKNOWN_TOKEN = 1_000_000  # no turn stops by itself


def lookup(query: str) -> str:
    """Look an entry up.

    Args:
        query: What to look for.
    """
    return "17"


class TimedScript:
    """Spends the model's time on each turn of a script, and records the submissions."""

    def __init__(self, model_policy: TransformersPolicy, script: list[list[int]]):
        self.submitted: list[tuple[list[int], int]] = []
        self._model_policy = model_policy
        self._script = ScriptedPolicy(script)

    def submit(self, prompt_ids: list[int], sampling: SamplingParams) -> Future[Sample]:
        scripted = self._script.submit(prompt_ids, sampling).result()
        length = len(scripted.token_ids)
        self.submitted.append((list(prompt_ids), length))
        future: Future[Sample] = Future()

        def deliver(done: Future[Sample]) -> None:
            future.set_result(Sample(scripted.token_ids, done.result().logprobs, scripted.finish))

        self._model_policy.submit(prompt_ids, SamplingParams(1.0, length)).add_done_callback(deliver)
        return future

    def generating(self) -> AbstractContextManager[None]:
        return self._model_policy.generating()

    def close(self) -> None:
        self._model_policy.close()


def bare_seconds(policy: TransformersPolicy, episodes: list[list[tuple[list[int], int]]]) -> float:
    """Generate the turns of episodes, each a list of (prompt, tokens to generate)."""
    finished = threading.Semaphore(0)

    def step(left: list[tuple[list[int], int]]) -> None:
        if not left:
            finished.release()
            return
        prompt_ids, length = left[0]
        policy.submit(prompt_ids, SamplingParams(1.0, length)).add_done_callback(lambda _: step(left[1:]))

    with policy.generating():
        start = time.perf_counter()
        for episode in episodes:
            step(episode)
        for _ in episodes:
            finished.acquire()
        return time.perf_counter() - start


def main() -> str:
    renderer = Renderer(make_tokenizer())
    script, env = turns(renderer), make_env(lookup)
    policy = TransformersPolicy(make_model(len(renderer.tokenizer)), stop_token_ids=[UNKNOWN_TOKEN], max_sequences=64)
    timed = TimedScript(policy, script)
    engine = RolloutEngine(timed, renderer, sampling=SamplingParams(max_tokens=8192))
    requests = [RolloutRequest(env, task) for task in env.tasks]

    def full() -> float:
        start = time.perf_counter()
        assert all(trajectory.score.value == 1.0 for trajectory in engine.run(requests))
        return time.perf_counter() - start

    full()
    episodes = []
    for task in env.tasks:
        opening = renderer.prompt_ids(env.open_episode(task).messages, env.toolbox.schemas)
        turns_of_task = [turn for turn in timed.submitted if turn[0][: len(opening)] == opening]
        episodes.append(sorted(turns_of_task, key=lambda turn: len(turn[0])))
    assert all(len(episode) == len(script) for episode in episodes)

    def bare() -> float:
        return bare_seconds(policy, episodes)

    pairs = []
    sides: list[Callable[[], float]] = [full, bare]
    for index in range(PAIRS):
        seconds = {}
        for side in sides if index % 2 else reversed(sides):
            policy.weights_changed()
            seconds[side] = side()
        pairs.append((seconds[full], seconds[bare]))
    policy.close()
    tokens = sum(length for episode in episodes for _, length in episode)
    ratios = sorted(with_engine / without for with_engine, without in pairs)
    quartiles = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    row = [
        f"{median(without for _, without in pairs):.2f} s",
        f"{median(with_engine for with_engine, _ in pairs):.2f} s",
        f"{(median(ratios) - 1) * 100:+.1f} %",
        f"{(quartiles[0] - 1) * 100:+.1f} to {(quartiles[1] - 1) * 100:+.1f} %",
    ]
    title = f"{len(episodes)} episodes of {len(script)} turns, {tokens} sampled tokens, {PAIRS} pairs"
    return table(title, ["bare generation", "with the engine", "added, median of pairs", "middle half"], [row])
