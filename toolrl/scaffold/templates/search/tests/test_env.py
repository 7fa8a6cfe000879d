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


@pytest.fixture(params=["train", "test"])
def env(request: pytest.FixtureRequest) -> Iterator[ToolEnv]:
    """The environment, once for each split."""
    env = make(ENV_ID, split=request.param)
    yield env
    env.close()


def test_every_answer_is_in_what_the_search_shows(env: ToolEnv) -> None:
    """A model that searches for the right thing can answer."""
    for task in env.tasks:
        env.reset(options={"task": task})
        observation, *_ = env.step(call("search", query=task.metadata["document"]))
        assert task.answer in observation.casefold() or task.answer in observation


def test_a_search_that_finds_nothing_says_so(env: ToolEnv) -> None:
    """It is not an error."""
    env.reset(options={"task": 0})
    observation, *_, info = env.step(call("search", query="xylophone"))
    assert observation == "No results."
    assert info["failures"] == []
