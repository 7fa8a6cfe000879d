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
    """The environment, with a conversation of its first task."""
    env = make(ENV_ID, split="test")
    env.reset(options={"task": 0})
    yield env
    env.close()


def test_the_customer_answers_what_is_asked(env: ToolEnv) -> None:
    """A question for the number gets the number."""
    observation, _, terminated, *_ = env.step("What is the number, please?")
    assert observation == f"It is {env.tasks[0].metadata['number']}."
    assert not terminated


def test_to_move_another_booking_too_is_worth_nothing(env: ToolEnv) -> None:
    """The whole state is graded, not only what had to change."""
    task = env.tasks[0]
    (wrong, day), new = task.metadata["bookings"][1], task.metadata["new"]
    other = next(name for name in ("Monday", "Sunday") if name != day)
    env.step(call("move", number=task.metadata["number"], day=new))
    env.step(call("move", number=wrong, day=other))
    _, reward, terminated, _, info = env.step("It is moved.")
    assert (reward, terminated) == (0, True)
    assert info["score"]["parts"] == {"correct": 0, "moved": 0, "told": 1}
