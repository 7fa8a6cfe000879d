"""What the gateway costs: 64 agents at once, beside the engine on the same tasks, greedily: the tokens are the same.

The agents are `tests/gateway/agents.py`, a loop over HTTP without an SDK, in this process: their own work counts. Pairs
run in alternating order. The embedded model's turns take milliseconds, so it shows what a call costs. SmolLM2-135M
after the warm start of `make train-lm` shows what that is beside a small language model; LANGUAGE_MODEL is its folder.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median

from tests.benchmarks.common import table
from tests.gateway.agents import play
from toolrl import Renderer, RolloutEngine, RolloutRequest, SamplingParams, make
from toolrl.gateway import AgentProgram, ProgramEngine
from toolrl.policy import TransformersPolicy
from toolrl.policy.models import load_model, load_tokenizer
from toolrl.trajectory import Trajectory

AGENTS, PAIRS = 64, 5
MODELS = ("tiny", os.environ.get("LANGUAGE_MODEL", "runs/smollm2-sft/model"))
SAMPLING = SamplingParams(0.0, 64)


def main() -> str:
    rows = []
    for model in MODELS:
        if model != "tiny" and not Path(model).is_dir():
            print(f"gateway: {model!r} is missing; `make train-lm` writes it, or set LANGUAGE_MODEL")
            continue
        renderer = Renderer(load_tokenizer(model))
        policy = TransformersPolicy(load_model(model), stop_token_ids=renderer.stop_token_ids, seed=0)
        for env_id in ("toolrl/DocsSearch-v0", "toolrl/DocsCompute-v0"):
            rows.append(measure(env_id, model, policy, renderer))
            print(rows[-1], flush=True)
        policy.close()
    columns = [
        "environment",
        "model",
        "calls",
        "tokens",
        "engine, s",
        "gateway, s",
        "overhead, median",
        "lowest and highest",
    ]
    return table(f"{AGENTS} agents at once through the gateway, {PAIRS} pairs", columns, rows)


def measure(env_id: str, model: str, policy: TransformersPolicy, renderer: Renderer) -> list[str]:
    env = make(env_id, split="test", size=400)
    requests = [RolloutRequest(env, task, "e", task.id) for task in env.tasks.take(AGENTS)]
    engine = RolloutEngine(policy, renderer, sampling=SAMPLING)
    gateway = ProgramEngine(AgentProgram(play), policy, renderer, sampling=SAMPLING)
    times: dict[str, list[float]] = {"engine": [], "gateway": []}
    played: dict[str, list[Trajectory]] = {}
    for pair in range(PAIRS + 1):  # the first is not counted
        for name, one in sorted({"engine": engine, "gateway": gateway}.items(), reverse=bool(pair % 2)):
            start = time.perf_counter()
            played[name] = one.run(requests)
            times[name].append(time.perf_counter() - start)
    gateway.close()
    env.close()
    ratios = [b / a - 1 for a, b in zip(times["engine"][1:], times["gateway"][1:], strict=True)]
    tokens = {name: sum(map(sampled, episodes)) for name, episodes in played.items()}
    return [
        env_id, Path(model).parent.name or model, str(sum(len(one.turns) for one in played["gateway"])),
        f"{tokens['engine']:,} and {tokens['gateway']:,}", f"{median(times['engine'][1:]):.2f}",
        f"{median(times['gateway'][1:]):.2f}", f"{median(ratios):+.0%}", f"{min(ratios):+.0%} to {max(ratios):+.0%}",
    ]  # fmt: skip


def sampled(trajectory: Trajectory) -> int:
    return sum(len(turn.sample.token_ids) for turn in trajectory.turns)
