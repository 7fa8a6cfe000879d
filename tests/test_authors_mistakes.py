"""Promises about authors' mistakes outside tasks and tools: one error, at the source, that says what to write."""

from __future__ import annotations

from typing import Any

import pytest

import toolrl
from toolrl import ConfigError, Limits, Task, ToolEnv, say
from toolrl.evaluation import evaluate

TASKS = [Task("a", "p", "x")]


def right(task: Task, episode: Any) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"reward": 1.0}, "reward must be a function of a task and an episode, got 1.0"),
        ({"reward": None}, "reward must be a function of a task and an episode, got None"),
        ({"reward": lambda episode: 1.0}, "reward is called with a task and an episode: too many positional"),
        ({"reward": lambda task, episode, more: 1.0}, "reward is called with a task and an episode: missing .*'more'"),
        ({"oracle": "solve"}, "oracle must be a function of a task, got 'solve'"),
        ({"oracle": lambda: [say("x")]}, "oracle is called with a task: too many positional"),
        ({"system_prompt": ["be kind"]}, r"system_prompt must be text, got \['be kind'\]"),
        ({"limits": {"turns": 3}}, r"limits must be Limits\(turns=..., ...\), got"),
        ({"split": "dev"}, "split must be 'train' or 'test'"),
    ],
)
def test_parts_of_the_wrong_type_are_refused_when_the_environment_is_made(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ToolEnv(**{"tasks": TASKS, "reward": right, **parts})


@pytest.mark.parametrize("limits", [{"turns": "3"}, {"turns": 2.5}, {"tool_calls": None}, {"reward_seconds": "60"}])
def test_limits_that_are_not_numbers_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"Limits\.{next(iter(limits))} must be a (whole )?number, got"):
        Limits(**limits)


@pytest.mark.parametrize(
    "given", ["x", ["x"], say("x"), None, [], [{"role": "assistant", "content": "x"}], {"content": "x"}], ids=repr
)
def test_an_oracle_that_gives_no_messages_is_told_what_to_give(given: Any) -> None:
    env = ToolEnv(tasks=TASKS, reward=right, oracle=lambda task: given)
    with pytest.raises(ConfigError, match=r"an oracle must return a list of assistant messages, as call\(...\) and"):
        evaluate({"e": env}, None, None, tasks=1)


def test_an_oracle_may_give_its_messages_one_by_one() -> None:
    env = ToolEnv(tasks=TASKS, reward=right, oracle=lambda task: (message for message in [say("x")]))
    assert evaluate({"e": env}, None, None, tasks=1)["e"].success == 1.0


@pytest.mark.parametrize("action", [5, None, {"role": "assistant"}, ["x"]], ids=lambda action: type(action).__name__)
def test_an_action_that_is_neither_text_nor_a_message_is_refused(action: Any) -> None:
    env = ToolEnv(tasks=TASKS, reward=right)
    env.reset()
    with pytest.raises(ConfigError, match="an action is the text of an assistant turn, or a message, got"):
        env.step(action)
    assert env.step("x")[1] == 1.0


@pytest.mark.parametrize("verdict", ["good", {"value": 1.0}, (1.0, "why"), b"1"])
def test_a_reward_that_is_not_a_number_is_a_bug_that_names_it(verdict: Any) -> None:
    def judge(task: Task, episode: Any) -> Any:
        return verdict

    env = ToolEnv(tasks=TASKS, reward=judge)
    env.reset()
    with pytest.raises(TypeError, match=r"Score\.value must be a number, got") as caught:
        env.step("x")
    assert "judge" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("given", [None, 5, ToolEnv, ["toolrl/PythonMath-v0"]])
def test_an_id_that_is_not_text_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="an environment's id is text such as 'toolrl/PythonMath-v0', got"):
        toolrl.make(given)
