"""Promises about episodes with several conversations: as rows for training they are what separate rows are."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from rich.console import Console

from tests.training.rows import batch_of_conversations, batch_of_trees, differ, ours_and_theirs
from toolrl import ConfigError, Message, Sample, Score, StopReason, Trajectory, make, read_trajectories
from toolrl.gateway import AgentContext
from toolrl.training import train
from toolrl.training.credit import CreditSettings
from toolrl.training.trainer import SampledTokensTrainer
from toolrl.training.tree import turns_of
from toolrl.trajectory import Turn
from toolrl.view.metrics import read_metrics


def episode(rng: random.Random, forks: int) -> Trajectory:
    """A random tree: conversations that fork from others at some place, or begin anew, each token sampled in one."""

    def some(most: int) -> list[int]:
        return [rng.randrange(10, 300) for _ in range(rng.randint(1, most))]

    def turns() -> list[Turn]:
        return [
            Turn(Sample(ids := some(4), [-1.0] * len(ids)), Message("assistant", ""), observation_ids=tuple(some(3)))
            for _ in range(rng.randint(1, 3))
        ]

    def trajectory(prompt_ids: list[int], branches: Sequence[Trajectory] = ()) -> Trajectory:
        return Trajectory(
            "a", "e", "t", (), prompt_ids, tuple(turns()), Score(1.0), StopReason.ANSWER, branches=tuple(branches)
        )

    done = [trajectory(some(5))]
    for _ in range(forks):
        other = rng.choice(done)
        whole = [*other.prompt_ids, *other.completion_ids]
        begun = whole[: rng.randint(1, len(whole))] if rng.random() < 0.8 else []
        # An observation, or nothing where the same call was sampled twice.
        done.append(trajectory(begun + (some(3) if not begun or rng.random() < 0.7 else [])))
    main = done.pop(rng.randrange(len(done)))
    return Trajectory(
        "a", "e", "t", (), main.prompt_ids, main.turns, Score(1.0), StopReason.ANSWER, branches=tuple(done)
    )


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_a_tree_has_the_loss_and_gradient_of_separate_rows(
    trainer: Callable[..., SampledTokensTrainer], seed: int, share: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    episodes = [episode(rng, forks) for forks in (3, 0, 1, 5)]
    advantages = [0.7, -0.4, -0.9, 0.5]
    ours: Any = trainer(loss_type="dapo")
    monkeypatch.setattr(ours, "_shares", share)
    trees, found = batch_of_trees(episodes, advantages)
    monkeypatch.setattr(ours, "trees", found)
    order = torch.tensor([2, 0, 3, 1])  # as TRL shuffles them
    shuffled = {name: value[order] if value.dim() else value for name, value in trees.items()} | {"place": order}
    separate = batch_of_conversations(episodes, advantages)
    assert separate["num_items_in_batch"] == trees["num_items_in_batch"]
    mine, *_ = ours_and_theirs(ours, shuffled)
    ours._places = None
    monkeypatch.setattr(ours, "trees", ())
    _, theirs, *_ = ours_and_theirs(ours, separate)
    assert theirs[1:].norm() > 0
    assert differ(mine, theirs) < 1e-4


def test_what_conversations_share_is_computed_once(
    trainer: Callable[..., SampledTokensTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = episode(random.Random(0), 0)
    turns = list(base.turns)
    whole = [*base.prompt_ids, *base.completion_ids]
    branches = tuple(
        Trajectory("a", "e", "t", (), [*whole, 77 + n], base.turns, Score(1.0), StopReason.ANSWER) for n in range(4)
    )
    tree = Trajectory("a", "e", "t", (), base.prompt_ids, base.turns, Score(1.0), StopReason.ANSWER, branches=branches)
    ours: Any = trainer(loss_type="dapo")
    batch, trees = batch_of_trees([tree], [1.0])
    monkeypatch.setattr(ours, "trees", trees)
    computed: list[int] = []
    hook = ours.model.register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        ours._compute_loss(ours.model, batch | {"place": torch.arange(1)})
    finally:
        hook.remove()
    own = len(base.completion_ids)
    assert len(turns) > 0
    assert computed == [len(whole) + 4 * (1 + 1 + own)]  # at each fork the last shared token is repeated


def test_all_turns_are_turns_of_the_episode() -> None:
    tree = episode(random.Random(1), 3)
    assert len(turns_of(tree)) == len(tree.turns) + sum(len(branch.turns) for branch in tree.branches)


async def delegate(context: AgentContext) -> str:
    """Asks a helper first, then forgets what it said, and asks once more."""
    headers = {"Authorization": f"Bearer {context.api_key}"}
    async with httpx.AsyncClient(base_url=context.base_url, headers=headers, timeout=100.0, verify=False) as client:

        async def ask(*messages: dict[str, Any]) -> str:
            body = {"model": context.model, "messages": list(messages), "tools": list(context.tools)}
            answer = (await client.post("/chat/completions", json=body)).json()
            return json.dumps(answer["choices"][0]["message"].get("content") or "")

        user = {"role": "user", "content": context.prompt}
        await asyncio.gather(ask({"role": "system", "content": "You help."}, user), ask(user))
        return await ask({"role": "system", "content": context.system_prompt}, user)


def test_all_conversations_of_an_agent_are_trained_on(tmp_path: Path) -> None:
    """The log-probabilities that the loss computes are those of the sampler, for every conversation."""
    env = make("toolrl/PythonMath-v0", size=20)
    train(
        [env], "tiny", console=Console(quiet=True), output_dir=str(tmp_path / "run"), agent=f"{__file__}:delegate",
        max_steps=2, num_generations=4, per_device_train_batch_size=8, max_completion_length=128, max_turn_tokens=32,
        temperature=1.0, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no",
        eval_tasks=0, logging_steps=1, beta=0.0,
    )  # fmt: skip
    played = read_trajectories(tmp_path / "run" / "trajectories.jsonl")
    assert all(len(trajectory.branches) == 2 for trajectory in played)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "mismatch/mean" in row]
    assert len(rows) == 2
    assert all(row["mismatch/mean"] < 1e-3 for row in rows)


def test_credit_for_turns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an agent may have several"):
        train(
            "toolrl/PythonMath-v0", "tiny", console=Console(quiet=True), output_dir=str(tmp_path / "run"),
            agent=f"{__file__}:delegate", credit="turn", scale_rewards="none", loss_type="dr_grpo", max_steps=1,
            num_generations=4, per_device_train_batch_size=8, use_cpu=True, bf16=False, report_to="none",
        )  # fmt: skip
    assert CreditSettings("turn").credit == "turn"
