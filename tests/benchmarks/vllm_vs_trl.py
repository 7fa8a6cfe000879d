"""Rollouts on vLLM: TRL's tool loop, which keeps all episodes in step, compared with toolrl's engine. Needs .venv-vllm.

Both have vLLM generate as many tokens as the script's turn has, and go on with the script's: the same work and the same
conversations. TRL's is `GRPOTrainer(tools=[...])._generate` over `vllm.LLM.generate`, as `use_vllm` with "colocate"
calls it; ours is `RolloutEngine` over `VLLMPolicy`. The model is the embedded one's architecture with random weights.
"""

from __future__ import annotations

import importlib.util
import os
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from statistics import median
from typing import Any

from tests.benchmarks.common import CALLS, EPISODES, make_env, make_tokenizer, make_trl_trainer, table, turns
from toolrl import Renderer, RolloutEngine, RolloutRequest, Sample, SamplingParams
from toolrl.policy import ScriptedPolicy, VLLMPolicy
from toolrl.policy.vllm.policy import CPU_CACHE_BYTES, sampling_parameters
from toolrl.tiny.make import make_model

REPEATS = 3
SAMPLING = SamplingParams(max_tokens=8192)
SETTINGS: dict[str, Any] = {"max_num_seqs": EPISODES, "kv_cache_memory_bytes": CPU_CACHE_BYTES, "enforce_eager": True}


def latencies() -> dict[str, Callable[[random.Random], float]]:
    """Seconds of a call."""
    return {
        "0 ms": lambda rng: 0.0,
        "50 ms": lambda rng: 0.05,
        "long tail, 20 ms to 2 s": lambda rng: min(2.0, 0.02 * rng.paretovariate(0.9)),
    }


def make_tool(seconds: Callable[[random.Random], float]) -> Callable[..., Any]:
    rng = random.Random(0)
    drawn = iter([seconds(rng) for _ in range(EPISODES * CALLS * (2 * REPEATS + 2))])

    def lookup(query: str) -> str:
        """Look an entry up.

        Args:
            query: What to look for.
        """
        time.sleep(next(drawn))
        return "17"

    return lookup


class ScriptedOverVLLM:
    """A policy for which vLLM generates each turn, replaced by the script's. Counts the prompt tokens computed."""

    def __init__(self, policy: VLLMPolicy, script: ScriptedPolicy):
        self.prefilled = 0
        self._policy, self._script = policy, script
        self.generating, self.close = policy.generating, policy.close
        generate = policy._engine.generate

        async def counting(*arguments: Any) -> Any:
            async for output in generate(*arguments):
                self.prefilled += len(output.prompt_token_ids) - (output.num_cached_tokens or 0)
                yield output

        policy._engine.generate = counting

    def submit(self, prompt_ids: list[int], sampling: SamplingParams) -> Future[Sample]:
        turn = self._script.submit(prompt_ids, sampling).result()
        done: Future[Sample] = Future()
        generated = self._policy.submit(prompt_ids, replace(sampling, max_tokens=len(turn.token_ids)))
        generated.add_done_callback(lambda _: done.set_result(turn))
        return done


def engine_runs(tools: list[Callable[..., Any]], renderer: Renderer, model: str) -> list[tuple[float, int]]:
    """Median seconds and prefilled tokens for each tool."""
    found = []
    vllm = VLLMPolicy(model, stop_token_ids=[], engine=SETTINGS)
    with closing(vllm):
        policy = ScriptedOverVLLM(vllm, ScriptedPolicy(turns(renderer)))
        engine = RolloutEngine(policy, renderer, sampling=SAMPLING)
        for lookup in tools:
            env = make_env(lookup)
            runs = []
            for _ in range(REPEATS):
                vllm._call(vllm._engine.reset_prefix_cache())
                policy.prefilled, start = 0, time.perf_counter()
                trajectories = engine.run([RolloutRequest(env, task) for task in env.tasks])
                runs.append((time.perf_counter() - start, policy.prefilled))
                assert all(t.score.value == 1.0 and len(t.tool_results) == CALLS for t in trajectories)
            found.append((median(seconds for seconds, _ in runs), runs[-1][1]))
    return found


def trl_runs(tools: list[Callable[..., Any]], renderer: Renderer, model: str) -> list[tuple[float, int]]:
    """Seconds and prefilled tokens for each tool."""
    from vllm import LLM

    script = ScriptedPolicy(turns(renderer))
    llm = LLM(
        model, dtype="float32", generation_config="vllm", skip_tokenizer_init=True, use_tqdm_on_load=False, **SETTINGS
    )
    prefilled = 0

    def generate_turn(prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        nonlocal prefilled
        said = [script.submit(ids, SAMPLING).result().token_ids for ids in prompt_ids]
        parameters = [sampling_parameters(SamplingParams(1.0, len(ids)), []) for ids in said]
        prompts: Any = [{"prompt_token_ids": ids} for ids in prompt_ids]
        for output in llm.generate(prompts, parameters, use_tqdm=False):
            prefilled += len(output.prompt_token_ids or []) - (output.num_cached_tokens or 0)
        return said, None

    found: list[tuple[float, int]] = []
    for lookup in tools:
        trainer = make_trl_trainer(lookup, renderer)
        loop = trainer._generate

        def timed(prompts: list[Any], loop: Callable[..., Any] = loop) -> Any:
            nonlocal prefilled
            llm.reset_prefix_cache()
            prefilled, start = 0, time.perf_counter()
            output = loop(prompts)
            found.append((time.perf_counter() - start, prefilled))
            assert all(len(completion) == 2 * CALLS + 1 for completion in output[3])
            return output

        trainer._generate_single_turn, trainer._generate = generate_turn, timed
        trainer._generate_and_score_completions(list(trainer.train_dataset))
    llm.llm_engine.engine_core.shutdown()
    return found


def main() -> str:
    if importlib.util.find_spec("vllm") is None:
        return "vllm_vs_trl: vLLM is not installed here; make test-vllm sets up .venv-vllm, which has it\n"
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    renderer = Renderer(make_tokenizer())
    with tempfile.TemporaryDirectory() as model:
        make_model(len(renderer.tokenizer)).save_pretrained(model)
        theirs = trl_runs([make_tool(seconds) for seconds in latencies().values()], renderer, model)
        ours = engine_runs([make_tool(seconds) for seconds in latencies().values()], renderer, model)
    rows = [
        [name, f"{their[0]:.2f} s", f"{our[0]:.2f} s", f"{their[0] / our[0]:.1f}", f"{their[1]:,}", f"{our[1]:,}"]
        for name, their, our in zip(latencies(), theirs, ours, strict=True)
    ]
    title = f"vLLM on a CPU, {EPISODES} episodes with {CALLS} calls each"
    return table(title, ["a call takes", "TRL's loop", "toolrl", "ratio", "TRL prefills", "toolrl prefills"], rows)
