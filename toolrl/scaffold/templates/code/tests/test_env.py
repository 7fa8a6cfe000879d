"""Promises about the environment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from toolrl import ToolEnv, call, make
from toolrl.audit import EnvironmentTests

from my_env import ENV_ID
from my_env.env import KINDS


class TestMyEnv(EnvironmentTests):
    """Each check of `toolrl check`, and the audit, as a test."""

    environment = ENV_ID
    check_tasks = 6
    audit_tasks = 2


@pytest.fixture
def env() -> Iterator[ToolEnv]:
    """The environment."""
    env = make(ENV_ID, split="test")
    yield env
    env.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_program_of_a_task_computes_its_answer_in_the_sandbox(env: ToolEnv, kind: str) -> None:
    """So nothing in it depends on this process."""
    task = next(task for task in env.tasks if task.kind == kind)
    env.reset(options={"task": task})
    observation, *_ = env.step(call("python", code=task.metadata["code"]))
    assert observation == str(task.answer)


def test_variables_last_for_an_episode_and_no_longer(env: ToolEnv) -> None:
    """No episode sees what another one did."""
    env.reset(options={"task": 0})
    env.step(call("python", code="x = 1"))
    assert env.step(call("python", code="x"))[0] == "1"
    env.reset(options={"task": 0})
    assert "NameError" in env.step(call("python", code="x"))[0]
