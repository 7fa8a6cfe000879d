"""Promises about the environment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from toolrl import ToolEnv, make
from toolrl.audit import EnvironmentTests

from my_env import ENV_ID
from my_env.env import COINS


class TestMyEnv(EnvironmentTests):
    """Each check of `toolrl check`, and the audit, as a test."""

    environment = ENV_ID
    check_tasks = 6
    audit_tasks = 2


@pytest.fixture
def env() -> Iterator[ToolEnv]:
    """The environment, with a game of its first task."""
    env = make(ENV_ID, split="test")
    env.reset(options={"task": 0})
    yield env
    env.close()


def test_each_coin_is_paid_when_it_is_collected(env: ToolEnv) -> None:
    """The rewards of a game that is won add up to 1."""
    rewards = [env.step(message.content)[1] for message in env.oracle(env.tasks[0])]
    assert sum(reward > 0 for reward in rewards) == COINS
    assert sum(rewards) == pytest.approx(1)


def test_what_is_not_a_move_changes_nothing(env: ToolEnv) -> None:
    """The player is told so, and stays in place."""
    observation, reward, terminated, truncated, _ = env.step("I shall fly.")
    assert observation.startswith("error: your message names no move")
    assert (reward, terminated, truncated) == (0, False, False)
    first, *others = (message.content for message in env.oracle(env.tasks[0]))
    assert env.step(first)[0].startswith("You are at")
    assert [env.step(move)[2] for move in others][-1]
