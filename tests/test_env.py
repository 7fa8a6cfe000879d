"""Promises about `ToolEnv`: the Gymnasium interface, limits, and when resources are closed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

import toolrl
from toolrl import (
    ConfigError,
    Episode,
    InfrastructureError,
    Limits,
    Score,
    Task,
    TaskError,
    TaskSet,
    ToolEnv,
    call,
    per_episode,
    per_run,
    say,
    tool,
)
from toolrl.chat import HermesDialect
from toolrl.env import MAX_TEXT_CHARACTERS
from toolrl.rewards import answer_reward
from toolrl.support.event_loop import run_sync

TASKS = TaskSet(Task(f"t{number}", f"Double {number}.", str(2 * number)) for number in range(10))
UNANSWERED = "<answer>?</answer>"


class Counter:
    """A resource that counts how many of its kind are open."""

    open = 0

    def __init__(self) -> None:
        Counter.open += 1

    def close(self) -> None:
        Counter.open -= 1


@tool
def double(x: int, own: Counter = per_episode(Counter), shared: Counter = per_run(Counter)) -> int:
    """Double a number.

    Args:
        x: The number.
    """
    return 2 * x


@tool
def long(characters: int) -> str:
    """Say much.

    Args:
        characters: How much.
    """
    return "x" * characters


@tool
def break_down() -> str:
    """Fail through no fault of the model's."""
    raise InfrastructureError("backend down")


def make_env(**settings: Any) -> ToolEnv:
    settings = {"tasks": TASKS, "reward": answer_reward(), "tools": [double, long, break_down], **settings}
    return ToolEnv(system_prompt="Be brief.", **settings)


def turn(*messages: Any) -> str:
    return "\n".join(HermesDialect().format(message) for message in messages)


DOUBLE = turn(call("double", x=4))


@pytest.fixture
def env() -> Iterator[ToolEnv]:
    Counter.open = 0
    env = make_env()
    yield env
    env.close()


# ---- reset


def test_reset_shows_the_prompt_and_what_the_template_needs_but_not_the_answer(env: ToolEnv) -> None:
    observation, info = env.reset(options={"task": "t4"})
    assert observation == "Double 4."
    assert info == {"task_id": "t4", "system_prompt": "Be brief.", "tools": env.toolbox.schemas}


@pytest.mark.parametrize(
    "chosen",
    ["t4", 4, -6, np.int64(4), TASKS[4], Task("own", "Double 4.", "8")],
    ids=["id", "index", "negative", "numpy", "task", "foreign"],
)
def test_a_task_may_be_chosen_by_id_index_or_as_itself(env: ToolEnv, chosen: Any) -> None:
    assert env.reset(options={"task": chosen})[0] == "Double 4."
    assert env.step("<answer>8</answer>")[1] == 1.0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tusk": 1}, ConfigError, "unknown reset option 'tusk'; known: 'task'"),
        ({"task": "t99"}, TaskError, "no task has the id 't99'"),
        ({"task": 99}, TaskError, "no task has the index 99; there are 10"),
        ({"task": 1.5}, ConfigError, "takes a Task, an id or an index, got 1.5"),
    ],
)
def test_an_option_that_means_nothing_is_refused(
    env: ToolEnv, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        env.reset(options=options)


def test_the_same_seed_gives_the_same_tasks(env: ToolEnv) -> None:
    def draw(seed: int) -> list[str]:
        return [env.reset(seed=seed)[1]["task_id"], *(env.reset()[1]["task_id"] for _ in range(9))]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert len(set(draw(1))) > 3


# ---- step


def test_a_call_is_answered_and_an_answer_ends_the_episode(env: ToolEnv) -> None:
    env.reset(options={"task": "t4"})
    assert env.step(DOUBLE) == ("8", 0.0, False, False, {"tool_calls": 1, "failures": []})
    observation, reward, terminated, truncated, info = env.step("So it is <answer>8</answer>")
    assert (observation, reward, terminated, truncated) == ("", 1.0, True, False)
    assert info["stop"] == "answer"
    assert info["score"] == {"value": 1.0, "parts": {"correct": 1.0, "answered": 1.0}, "answer": "8", "reason": "right"}


def test_several_calls_in_one_turn_are_answered_line_by_line(env: ToolEnv) -> None:
    env.reset(seed=0)
    observation, *_, info = env.step(turn(call("double", x=1), call("double", x=2), call("triple", x=3)))
    assert observation.splitlines()[:2] == ["2", "4"]
    assert info == {"tool_calls": 3, "failures": ["unknown_tool"]}


@pytest.mark.parametrize(
    ("action", "failure"),
    [
        ("<tool_call>{broken</tool_call>", "malformed"),
        ("<tool_call>", "malformed"),
        ("</tool_call>", "malformed"),
        (turn(call("triple", x=1)), "unknown_tool"),
        (turn(call("double", x="1")), "invalid_arguments"),
        ('<tool_call>{"name": "double", "arguments": {"x": "\\ud800"}}</tool_call>', "invalid_arguments"),
    ],
)
def test_a_malformed_call_is_answered_and_the_episode_goes_on(env: ToolEnv, action: str, failure: str) -> None:
    env.reset(options={"task": "t4"})
    observation, reward, terminated, truncated, info = env.step(action)
    assert observation.startswith("error: ")
    assert observation in env.observation_space
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info == {"tool_calls": 1, "failures": [failure]}
    assert env.step("<answer>8</answer>")[1] == 1.0


def test_at_the_limit_of_turns_the_episode_is_truncated_and_scored() -> None:
    env = make_env(limits=Limits(turns=2), reward=lambda task, episode: 0.25)
    env.reset(seed=0)
    assert env.step(DOUBLE)[2:4] == (False, False)
    observation, reward, terminated, truncated, info = env.step(DOUBLE)
    assert (observation, reward, terminated, truncated) == ("", 0.25, False, True)
    assert info["stop"] == "turns"
    env.close()


def test_calls_beyond_the_limit_are_refused_and_the_episode_goes_on() -> None:
    env = make_env(limits=Limits(tool_calls=1))
    env.reset(seed=0)
    env.step(DOUBLE)
    observation, _, terminated, truncated, info = env.step(DOUBLE)
    assert observation == "error: no more than 1 tool calls are allowed; answer now"
    assert (terminated, truncated, info["failures"]) == (False, False, ["limit"])
    env.close()


@pytest.mark.parametrize(
    "action",
    [turn(*[call("long", characters=4000)] * 30), "<tool_call></tool_call>" * 4000],
    ids=["long results", "many calls"],
)
def test_an_observation_is_always_in_its_space(action: str) -> None:
    env = make_env(limits=Limits(tool_calls=100))
    env.reset(seed=0)
    assert action in env.action_space
    observation = env.step(action)[0]
    assert observation in env.observation_space
    assert len(observation) > MAX_TEXT_CHARACTERS // 2
    env.close()


@pytest.mark.parametrize("when", ["before reset", "after the end"])
def test_a_step_without_an_episode_is_refused(env: ToolEnv, when: str) -> None:
    if when == "after the end":
        env.reset(seed=0)
        env.step(UNANSWERED)
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"call reset\(\) before step\(\)"):
        env.step(UNANSWERED)


def fail_to_grade(task: Task, episode: Episode) -> float:
    raise InfrastructureError("judge unreachable")


@pytest.mark.parametrize("reward", [lambda task, episode: None, fail_to_grade], ids=["None", "fault"])
def test_an_unscored_episode_says_so_and_is_not_zero(reward: Any) -> None:
    env = make_env(reward=reward)
    env.reset(seed=0)
    _, value, terminated, _, info = env.step(UNANSWERED)
    assert (value, terminated) == (0.0, True)  # Gymnasium's reward cannot be None
    assert info["score"]["value"] is None
    env.close()


def test_a_fault_in_a_tool_propagates_and_the_next_episode_starts_clean(env: ToolEnv) -> None:
    env.reset(options={"task": "t4"})
    with pytest.raises(InfrastructureError, match="backend down"):
        env.step(turn(call("double", x=1), call("break_down")))
    assert Counter.open == 2
    env.reset(options={"task": "t4"})
    assert Counter.open == 1
    assert env.step("<answer>8</answer>")[1] == 1.0


# ---- what is opened is closed


def test_resources_close_with_their_episode_or_with_the_environment(env: ToolEnv) -> None:
    env.reset(seed=0)
    env.step(DOUBLE)
    assert Counter.open == 2
    env.step(UNANSWERED)
    assert Counter.open == 1, "the shared one stays"
    env.reset(seed=1)
    env.step(DOUBLE)
    assert Counter.open == 2
    env.close()
    assert Counter.open == 0
    env.close()


def test_a_reset_closes_the_episode_it_interrupts(env: ToolEnv) -> None:
    for _ in range(3):
        env.reset(seed=0)
        env.step(DOUBLE)
    assert Counter.open == 2


# ---- render


def test_render_shows_the_conversation_even_after_it_has_ended() -> None:
    env = make_env(render_mode="ansi")
    assert env.render() == ""
    env.reset(options={"task": "t4"})
    env.step(DOUBLE)
    env.step("<tool_call>{broken")
    env.step("<answer>8</answer>")
    rendered = env.render()
    assert rendered is not None
    lines = rendered.splitlines()
    assert lines[:3] == ["system: Be brief.", "user: Double 4.", "assistant: <tool_call>"]
    assert lines[5] == "tool: 8"
    assert "assistant: <tool_call>{broken" in lines
    assert lines[-1] == "assistant: <answer>8</answer>"
    env.reset(options={"task": "t5"})
    assert env.render() == "system: Be brief.\nuser: Double 5."
    env.close()


def test_a_call_that_the_dialect_cannot_write_is_rendered_as_it_was_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env(render_mode="ansi")
    env.reset(options={"task": "t4"})
    env.step(DOUBLE)
    monkeypatch.setattr(type(env.dialect), "write", lambda *_: "no call")
    assert f"assistant: {DOUBLE}\ntool: 8" in str(env.render())
    env.close()


def test_without_a_render_mode_nothing_is_rendered(env: ToolEnv) -> None:
    env.reset(seed=0)
    assert env.render() is None


# ---- for the rollout engine


def test_concurrent_episodes_do_not_mix(env: ToolEnv) -> None:
    async def play() -> list[float | None]:
        async with env.open_episode(TASKS[1]) as first, env.open_episode(TASKS[2]) as second:
            await asyncio.gather(first.advance(call("double", x=1)), second.advance(call("double", x=2)))
            assert [len(first.messages), len(second.messages), Counter.open] == [4, 4, 3]
            scores = []
            for session, answer in ((first, "2"), (second, "2")):
                step = await session.advance(say(f"<answer>{answer}</answer>"))
                assert step.stop is not None
                scores.append((await session.score(step.stop)).value)
            return scores

    assert run_sync(play()) == [1.0, 0.0]
    assert Counter.open == 1


def test_an_environment_without_an_oracle_says_how_to_get_one(env: ToolEnv) -> None:
    with pytest.raises(ConfigError, match="ToolEnv has no oracle; pass oracle= to ToolEnv"):
        env.oracle(TASKS[0])
    assert make_env(oracle=lambda task: [say("x")]).oracle(TASKS[0]) == [say("x")]


def test_tasks_may_be_any_iterable_and_tools_plain_functions() -> None:
    env = ToolEnv(tasks=[Task("a", "p")], reward=lambda task, episode: 1.0, tools=[double.function])
    assert env.tasks[0].id == "a"
    assert list(env.toolbox.tools) == ["double"]


# ---- vector environments


def test_scores_of_a_vector_environment_are_arrays_and_an_unscored_one_is_not_zero() -> None:
    verdicts: dict[str, Score | None] = {"t1": Score(1), "t2": Score(0.5), "t3": None}

    def reward(task: Task, episode: Episode) -> Score | None:
        return verdicts[task.id]

    makers = [partial(make_env, reward=reward, tasks=[TASKS.by_id(name)]) for name in verdicts]
    envs: Any = SyncVectorEnv(makers)
    envs.reset(seed=0)
    _, rewards, terminated, _, infos = envs.step([UNANSWERED] * 3)
    assert rewards.tolist() == [1.0, 0.5, 0.0]
    assert terminated.all()
    values = infos["score"]["value"]
    assert values[:2].tolist() == [1.0, 0.5]
    assert np.isnan(values[2])
    envs.close()


def test_a_step_takes_a_message_too() -> None:
    env = toolrl.make("toolrl/PythonMath-v0", size=5)
    env.reset(seed=0)
    observation, _, _, _, info = env.step(call("python", code="print(6 * 7)"))
    assert (observation.strip(), info["tool_calls"]) == ("42", 1)
    _, _, terminated, _, _ = env.step(say("<answer>1</answer>"))
    assert terminated
    env.close()
