"""Waiting for tools: 64 episodes with two calls of a tool that takes 100 ms, the same scripted tokens for both.

Ours is `RolloutEngine` with a `ScriptedPolicy`. Theirs is `GRPOTrainer(tools=[...])`, whose generation
alone is replaced by the script; timed is `GRPOTrainer._generate`, which has the whole tool loop in it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from tests.benchmarks.common import CALLS, EPISODES, make_env, make_tokenizer, make_trl_trainer, table, turns
from toolrl import Renderer, RolloutEngine, RolloutRequest, SamplingParams
from toolrl.policy import ScriptedPolicy

TOOL_SECONDS = 0.1
REPEATS = 5  # of ours; theirs takes long, and varies by less than a percent
SAMPLING = SamplingParams(max_tokens=8192)


def sync_tool() -> Callable[..., Any]:
    def lookup(query: str) -> str:
        """Look an entry up.

        Args:
            query: What to look for.
        """
        time.sleep(TOOL_SECONDS)
        return "17"

    return lookup


def async_tool() -> Callable[..., Any]:
    async def lookup(query: str) -> str:
        """Look an entry up.

        Args:
            query: What to look for.
        """
        await asyncio.sleep(TOOL_SECONDS)
        return "17"

    return lookup


def engine_seconds(lookup: Callable[..., Any], renderer: Renderer) -> float:
    env = make_env(lookup)
    engine = RolloutEngine(ScriptedPolicy(turns(renderer)), renderer, sampling=SAMPLING)
    requests = [RolloutRequest(env, task) for task in env.tasks]
    start = time.perf_counter()
    trajectories = engine.run(requests)
    seconds = time.perf_counter() - start
    assert all(t.score.value == 1.0 and len(t.tool_results) == CALLS for t in trajectories)
    return seconds


def trl_seconds(lookup: Callable[..., Any], renderer: Renderer) -> float:
    policy = ScriptedPolicy(turns(renderer))
    trainer = make_trl_trainer(lookup, renderer)
    seconds: list[float] = []
    generate = trainer._generate

    def scripted(prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        return [policy.submit(ids, SAMPLING).result().token_ids for ids in prompt_ids], None

    def timed(prompts: list[Any]) -> Any:
        start = time.perf_counter()
        output = generate(prompts)
        seconds.append(time.perf_counter() - start)
        assert all(len(completion) == 2 * CALLS + 1 for completion in output[3])  # calls, results, answer
        return output

    trainer._generate_single_turn, trainer._generate = scripted, timed
    trainer._generate_and_score_completions(list(trainer.train_dataset))
    return seconds[0]


def main() -> str:
    renderer = Renderer(make_tokenizer())
    rows = []
    for kind, make_tool in (("sync", sync_tool), ("async", async_tool)):
        engine_seconds(make_tool(), renderer)
        ours = median(engine_seconds(make_tool(), renderer) for _ in range(REPEATS))
        theirs = trl_seconds(make_tool(), renderer)
        rows.append([kind, f"{theirs:.2f} s", f"{ours:.2f} s", f"{theirs / ours:.0f}", f"{CALLS * TOOL_SECONDS:.2f} s"])
    title = f"{EPISODES} episodes, {CALLS} calls each of a tool that takes {TOOL_SECONDS:g} s"
    return table(title, ["tool", "TRL's tool loop", "toolrl's engine", "ratio", "the tools alone"], rows)
