"""Loss and gradient of an agent's conversations: as a tree in which what they share is there once, and as rows.

The embedded model, four episodes. In each, an agent asks a helper (another system prompt), or forks a long conversation
after some turns; both sides have the same tokens, advantages and normaliser, and alternate. The gradients are compared.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from tests.benchmarks.common import table
from tests.training.rows import batch_of_conversations, batch_of_trees, run_for_rows
from toolrl import Message, Sample, Score, StopReason, Trajectory
from toolrl.trajectory import Turn

EPISODES, PAIRS = 4, 3


def conversation(rng: random.Random, prompt_ids: list[int], turns: int) -> Trajectory:
    """Turns of 40 tokens, each followed by an observation of 60."""

    def some(length: int) -> list[int]:
        return [rng.randrange(10, 300) for _ in range(length)]

    played = [
        Turn(Sample(some(40), [-1.0] * 40), Message("assistant", ""), observation_ids=tuple(some(60)))
        for _ in range(turns)
    ]
    return Trajectory("a", "e", "t", (), prompt_ids, tuple(played), Score(1.0), StopReason.ANSWER)


def forked(rng: random.Random, branches: int) -> Trajectory:
    """An agent that goes back to its sixth turn for each of its attempts."""
    main = conversation(rng, [rng.randrange(10, 300) for _ in range(300)], 8)
    shared = [*main.prompt_ids, *main.completion_ids[:600]]
    others = [conversation(rng, [*shared, rng.randrange(10, 300)], 2) for _ in range(branches)]
    return replace(main, branches=tuple(others))


def delegating(rng: random.Random, branches: int) -> Trajectory:
    """An agent whose helpers see another system prompt, so that nothing is shared."""
    prompts = [[rng.randrange(10, 300) for _ in range(300)] for _ in range(branches + 1)]
    main, *others = [conversation(rng, prompt, 4) for prompt in prompts]
    return replace(main, branches=tuple(others))


SHAPES: dict[str, Callable[[random.Random], Trajectory]] = {
    "two forks of a long conversation": lambda rng: forked(rng, 2),
    "six forks of a long conversation": lambda rng: forked(rng, 6),
    "two helpers, nothing shared": lambda rng: delegating(rng, 2),
}


def measure(trainer: Any, name: str) -> list[object]:
    rng = random.Random(0)
    episodes = [SHAPES[name](rng) for _ in range(EPISODES)]
    advantages = [1.0, -1.0] * (EPISODES // 2)
    whole, trees = batch_of_trees(episodes, advantages)
    apart = batch_of_conversations(episodes, advantages)
    sides: tuple[Any, ...] = (({**whole, "place": torch.arange(EPISODES)}, trees), (apart, ()))
    times: list[list[float]] = [[], []]
    gradients: list[torch.Tensor] = [torch.zeros(0), torch.zeros(0)]
    for pair in range(-1, PAIRS):  # the first is not counted
        for side in (0, 1) if pair % 2 else (1, 0):
            batch, trainer.trees = sides[side]
            trainer.model.zero_grad()
            start = time.perf_counter()
            trainer._compute_loss(trainer.model, batch).backward()
            if pair >= 0:
                times[side].append(time.perf_counter() - start)
            gradients[side] = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
    ratios = [row / tree for tree, row in zip(*times, strict=True)]
    differs = float((gradients[0] - gradients[1]).norm() / gradients[1].norm())
    tokens = int(apart["prompt_mask"].sum() + apart["completion_mask"].sum())
    return [
        name, f"{tokens:,}", f"{median(times[1]):.2f} s", f"{median(times[0]):.2f} s",
        f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", f"{differs:.1e}",
    ]  # fmt: skip


def main() -> str:
    with tempfile.TemporaryDirectory() as folder:
        run = run_for_rows(folder, loss_type="dapo")
        rows = []
        for name in SHAPES:
            rows.append(measure(run.trainer, name))
            print(rows[-1], flush=True)
        run.close()
    columns = ["an episode", "tokens as rows", "as rows", "as a tree", "ratio (all pairs)", "gradients differ by"]
    return table(f"Conversations of {EPISODES} episodes, loss and gradient", columns, rows)
