"""What the gateway costs: 64 agents at once, beside the engine on the same tasks, greedily: the tokens are the same.

The agents are `tests/gateway/agents.py`, a loop over HTTP without an SDK. Pairs run in alternating order.
"""

from __future__ import annotations

import time
from statistics import median

from tests.benchmarks.common import table
from tests.gateway.agents import play
from toolrl import Renderer, RolloutEngine, RolloutRequest, SamplingParams, make
from toolrl.gateway import AgentProgram, ProgramEngine
from toolrl.policy import TransformersPolicy
from toolrl.policy.models import load_model, load_tokenizer
from toolrl.trajectory import Trajectory

AGENTS, PAIRS = 64, 5
SAMPLING = SamplingParams(0.0, 64)


def main() -> str:
    renderer = Renderer(load_tokenizer("tiny"))
    policy = TransformersPolicy(load_model("tiny"), stop_token_ids=renderer.stop_token_ids, seed=0)
    rows = [measure(env_id, policy, renderer) for env_id in ("toolrl/DocsSearch-v0", "toolrl/DocsCompute-v0")]
    policy.close()
    columns = ["environment", "tokens", "engine, s", "gateway, s", "overhead, median", "lowest and highest"]
    return table(f"{AGENTS} agents at once through the gateway, {PAIRS} pairs", columns, rows)


def measure(env_id: str, policy: TransformersPolicy, renderer: Renderer) -> list[str]:
    env = make(env_id, split="test", size=400)
    requests = [RolloutRequest(env, task, "e", task.id) for task in env.tasks.take(AGENTS)]
    engine = RolloutEngine(policy, renderer, sampling=SAMPLING)
    gateway = ProgramEngine(AgentProgram(play), policy, renderer, sampling=SAMPLING)
    times: dict[str, list[float]] = {"engine": [], "gateway": []}
    tokens = {"engine": 0, "gateway": 0}
    for pair in range(PAIRS + 1):
        for name, one in sorted({"engine": engine, "gateway": gateway}.items(), reverse=bool(pair % 2)):
            start = time.perf_counter()
            played = one.run(requests)
            times[name].append(time.perf_counter() - start)
            tokens[name] = sum(map(sampled, played))
    gateway.close()
    env.close()
    ratios = [b / a - 1 for a, b in zip(times["engine"][1:], times["gateway"][1:], strict=True)]
    return [
        env_id, f"{tokens['engine']:,} and {tokens['gateway']:,}", f"{median(times['engine'][1:]):.2f}",
        f"{median(times['gateway'][1:]):.2f}", f"{median(ratios):+.0%}", f"{min(ratios):+.0%} to {max(ratios):+.0%}",
    ]  # fmt: skip


def sampled(trajectory: Trajectory) -> int:
    return sum(len(turn.sample.token_ids) for turn in trajectory.turns)
