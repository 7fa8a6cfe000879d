"""Promises about the environment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from toolrl import ToolEnv, call, make
from toolrl.audit import EnvironmentTests

from my_env import ENV_ID


class TestMyEnv(EnvironmentTests):
    """Each check of `toolrl check`, and the audit, as a test."""

    environment = ENV_ID
    check_tasks = 6
    audit_tasks = 2


@pytest.fixture
def env() -> Iterator[ToolEnv]:
    """The environment, with an episode of its first task."""
    env = make(ENV_ID, split="test")
    env.reset(options={"task": 0})
    yield env
    env.close()


def test_the_tool_tells_the_prices_of_the_task(env: ToolEnv) -> None:
    """It reads them from the task, not from a list that all tasks share."""
    assert env.task is not None
    for item, cents in env.task.metadata["prices"].items():
        observation, *_ = env.step(call("price", item=item))
        assert observation == str(cents)
        env.reset(options={"task": 0})  # more calls than an episode may have


def test_an_unknown_item_is_a_mistake_that_the_model_can_correct(env: ToolEnv) -> None:
    """The episode goes on after it."""
    observation, _, terminated, truncated, info = env.step(call("price", item="unicorn"))
    assert observation == "error: no item is called 'unicorn'"
    assert info["failures"] == ["raised"]
    assert not terminated
    assert not truncated
