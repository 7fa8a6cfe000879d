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

AGENTS = 64
LANGUAGE_MODEL = os.environ.get("LANGUAGE_MODEL", "runs/smollm2-sft/model")
# The model, the environment, and the pairs.
SHAPES = [
    ("tiny", "toolrl/DocsSearch-v0", 5),
    ("tiny", "toolrl/DocsCompute-v0", 5),
    (LANGUAGE_MODEL, "toolrl/DocsSearch-v0", 4),
]
SAMPLING = SamplingParams(0.0, 64)


def main() -> str:
    rows = []
    for model, env_id, pairs in SHAPES:
        if model != "tiny" and not Path(model).is_dir():
            print(f"gateway: {model!r} is missing; `make train-lm` writes it, or set LANGUAGE_MODEL")
            continue
        rows.append(measure(env_id, model, pairs))
        print(rows[-1], flush=True)
    columns = [
        "model",
        "environment",
        "calls",
        "tokens",
        "engine, s",
        "gateway, s",
        "more time a token: median",
        "range",
    ]
    return table(f"{AGENTS} agents at once through the gateway, in pairs", columns, rows)


def measure(env_id: str, model: str, pairs: int) -> list[str]:
    renderer = Renderer(load_tokenizer(model))
    policy = TransformersPolicy(load_model(model), stop_token_ids=renderer.stop_token_ids, seed=0)
    env = make(env_id, split="test", size=400)
    requests = [RolloutRequest(env, task, "e", task.id) for task in env.tasks.take(AGENTS)]
    engine = RolloutEngine(policy, renderer, sampling=SAMPLING)
    gateway = ProgramEngine(AgentProgram(play), policy, renderer, sampling=SAMPLING)
    times: dict[str, list[float]] = {"engine": [], "gateway": []}
    tokens: dict[str, list[int]] = {"engine": [], "gateway": []}
    for pair in range(pairs + 1):
        for name, one in sorted({"engine": engine, "gateway": gateway}.items(), reverse=bool(pair % 2)):
            start = time.perf_counter()
            played = one.run(requests)
            if pair:  # the first is not counted
                times[name].append(time.perf_counter() - start)
                tokens[name].append(sum(map(sampled, played)))
    gateway.close()
    env.close()
    policy.close()
    each = {name: [second / count for second, count in zip(times[name], tokens[name], strict=True)] for name in times}
    ratios = [b / a - 1 for a, b in zip(each["engine"], each["gateway"], strict=True)]
    return [
        Path(model).parent.name or model, env_id, str(sum(len(one.turns) for one in played)),
        f"{median(tokens['engine']):,.0f} and {median(tokens['gateway']):,.0f}", f"{median(times['engine']):.2f}",
        f"{median(times['gateway']):.2f}", f"{median(ratios):+.0%}", f"{min(ratios):+.0%} to {max(ratios):+.0%}",
    ]  # fmt: skip


def sampled(trajectory: Trajectory) -> int:
    return sum(len(turn.sample.token_ids) for turn in trajectory.turns)
