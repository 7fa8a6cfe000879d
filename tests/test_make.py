"""Promises about `toolrl.make`: an environment by its id, or an error that helps."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest

import toolrl
from toolrl import ConfigError, ToolEnv
from toolrl.errors import EnvironmentNotFound
from toolrl_envs import ENTRY_POINTS


def test_make_gives_the_environment_without_wrappers() -> None:
    env = toolrl.make("toolrl/PythonMath-v0", size=5)
    assert isinstance(env, ToolEnv)
    assert len(env.tasks) == 5
    env.close()


@pytest.mark.parametrize(
    ("env_id", "near"),
    [
        ("toolrl/PythonMaths-v0", "did you mean toolrl/PythonMath-v0"),
        ("toolrl/PythonMath-v7", "did you mean toolrl/PythonMath-v0"),
        ("python_math", "toolrl/PythonMath-v0"),
        ("nothing like it at all", ", ".join(sorted(ENTRY_POINTS))),
        ("", ", ".join(sorted(ENTRY_POINTS))),
    ],
)
def test_an_unknown_id_is_an_error_that_names_near_matches(env_id: str, near: str) -> None:
    with pytest.raises(EnvironmentNotFound, match=f"no environment {env_id!r}; .*{near}"):
        toolrl.make(env_id)


def test_settings_that_the_environment_does_not_take_are_named() -> None:
    with pytest.raises(ConfigError, match=r"toolrl/PythonMath-v0 does not take these settings: .*'speed'"):
        toolrl.make("toolrl/PythonMath-v0", speed=3)
    with pytest.raises(ConfigError, match="split must be 'train' or 'test', got 'dev'"):
        toolrl.make("toolrl/PythonMath-v0", split="dev")


def test_an_environment_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"CartPole-v1 is a CartPoleEnv, not a toolrl\.ToolEnv"):
        toolrl.make("CartPole-v1")


def test_an_error_inside_a_known_environment_is_not_taken_for_an_unknown_id(monkeypatch: pytest.MonkeyPatch) -> None:
    def needs_more(**settings: Any) -> ToolEnv:
        raise gymnasium.error.DependencyNotInstalled("pip install more")

    monkeypatch.setattr("gymnasium.envs.registration.registry", registry := dict(gymnasium.registry))
    monkeypatch.setattr(gymnasium, "registry", registry)
    gymnasium.register("toolrl-tests/NeedsMore-v0", entry_point=needs_more)
    with pytest.raises(gymnasium.error.DependencyNotInstalled, match="pip install more"):
        toolrl.make("toolrl-tests/NeedsMore-v0")
