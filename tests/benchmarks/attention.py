"""Ragged attention against sdpa in transformers' continuous batching, with a model of the embedded policy's size."""

from __future__ import annotations

import random
import time
from statistics import median

from tests.benchmarks.common import table
from toolrl import SamplingParams
from toolrl.policy import TransformersPolicy
from toolrl.policy.ragged_attention import RAGGED_ATTENTION
from toolrl.tiny.make import make_model

REPEATS = 3
VOCABULARY = 1024
WORKLOADS = {  # sequences, tokens of each prompt, tokens to generate
    "32 sequences, 100 new tokens each": (32, 50, 100),
    "64 sequences, 100 new tokens each": (64, 50, 100),
    "64 prompts of 200 tokens": (64, 200, 1),
}


def tokens_per_second(policy: TransformersPolicy, sequences: int, prompt_tokens: int, new_tokens: int) -> float:
    """Generated tokens per second, or prompt tokens if none are generated."""
    rng = random.Random(0)
    prompts = [rng.choices(range(VOCABULARY), k=prompt_tokens) for _ in range(sequences)]
    policy.weights_changed()
    with policy.generating():
        start = time.perf_counter()
        futures = [policy.submit(ids, SamplingParams(1.0, new_tokens)) for ids in prompts]
        for future in futures:
            future.result()
        seconds = time.perf_counter() - start
    return sequences * (new_tokens if new_tokens > 1 else prompt_tokens) / seconds


def main() -> str:
    model = make_model(VOCABULARY)
    policies = []
    for attention in ("sdpa", RAGGED_ATTENTION):
        policies.append(TransformersPolicy(model, stop_token_ids=[VOCABULARY], max_sequences=64))
        policies[-1]._attention = attention
        tokens_per_second(policies[-1], 4, 20, 4)
    rows = []
    for name, workload in WORKLOADS.items():
        speeds = [[tokens_per_second(policy, *workload) for policy in policies] for _ in range(REPEATS)]
        sdpa, ragged = (median(column) for column in zip(*speeds, strict=True))
        ratio = median(fast / slow for slow, fast in speeds)
        rows.append([name, f"{sdpa:,.0f}", f"{ragged:,.0f}", f"{ratio:.1f}"])
    for policy in policies:
        policy.close()
    return table("Attention in continuous batching", ["work", "sdpa, tokens/s", "ragged, tokens/s", "ratio"], rows)
