"""Promises about the environment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from toolrl import ToolEnv, call, make
from toolrl.audit import EnvironmentTests

from my_env import ENV_ID
from my_env.env import TEMPERATURES


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


def test_the_server_says_what_the_answers_are_made_from(env: ToolEnv) -> None:
    """Tasks and server count the days alike."""
    observation, *_ = env.step(call("temperature", city="Oslo", day=7))
    assert observation == str(TEMPERATURES["Oslo"][6])


def test_an_unknown_city_is_a_mistake_that_the_model_can_correct(env: ToolEnv) -> None:
    """The episode goes on after it."""
    observation, _, terminated, truncated, info = env.step(call("temperature", city="Atlantis", day=7))
    assert "nothing is known about 'Atlantis'" in observation
    assert info["failures"] == ["raised"]
    assert not terminated
    assert not truncated
