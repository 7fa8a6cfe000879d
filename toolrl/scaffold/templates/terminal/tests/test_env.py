"""Promises about the environment."""

from __future__ import annotations

import pytest
from toolrl import call
from toolrl.audit import EnvironmentTests
from toolrl.interop import HarborEnv

from my_env import ENV_ID
from my_env.env import TASKS


class TestMyEnv(EnvironmentTests):
    """Each check of `toolrl check`, and the audit, as a test."""

    environment = ENV_ID
    check_tasks = 2
    audit_tasks = 1


def score_after(name: str, command: str) -> float:
    """The reward for one command in a task."""
    env = HarborEnv(TASKS / name)
    try:
        env.reset()
        env.step(call("shell", command=command))
        return env.step("It is done.")[1]
    finally:
        env.close()


@pytest.mark.parametrize("name", sorted(path.name for path in TASKS.iterdir()))
def test_every_task_can_be_solved_and_is_not_solved_already(name: str) -> None:
    """The tests accept the solution, and refuse the files as they were."""
    solution = (TASKS / name / "solution" / "solve.sh").read_text("utf-8")
    assert score_after(name, "true") == 0
    assert score_after(name, solution) == 1


def test_files_that_should_stay_must_stay() -> None:
    """What is nearly right is wrong."""
    assert score_after("tidy-photos", "mkdir photos && mv *.jpg notes.txt photos") == 0
