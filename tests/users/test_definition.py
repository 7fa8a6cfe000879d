"""Promises about users: they speak where the agent calls nothing, their state is the episode's, they can end it."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import gymnasium
import pytest

import toolrl
from toolrl import (
    Award,
    ConfigError,
    Ended,
    Episode,
    InfrastructureError,
    Limits,
    Message,
    StopReason,
    Task,
    ToolEnv,
    ToolError,
    Trajectory,
    award,
    call,
    per_episode,
    say,
)
from toolrl.policy import ScriptedChatPolicy
from toolrl.rollout import RolloutEngine, RolloutRequest

TASK = Task("t", "Guess my number.", 7)


def higher_or_lower(task: Task, message: str, state: dict[str, int]) -> str | Ended:
    state["guesses"] = state.get("guesses", 0) + 1
    if int(message) == task.answer:
        return Ended("Yes!", "guessed")
    return "higher" if int(message) < task.answer else "lower"


def won(task: Task, episode: Episode) -> float:
    return float(episode.ending == "guessed")


def play(env: ToolEnv, *turns: Message) -> Trajectory:
    engine = RolloutEngine(ScriptedChatPolicy(turns), None, retries=1, backoff_seconds=0.01)
    return engine.run([RolloutRequest(env, env.tasks[0])])[0]


def reread(trajectory: Trajectory) -> Trajectory:
    """The trajectory as a file keeps it, with the times of this one, which are rounded in files."""
    read = Trajectory.from_row(trajectory.to_row())
    turns = [
        replace(
            turn,
            tool_seconds=own.tool_seconds,
            results=tuple(replace(a, seconds=b.seconds) for a, b in zip(turn.results, own.results, strict=True)),
        )
        for turn, own in zip(read.turns, trajectory.turns, strict=True)
    ]
    return replace(read, turns=tuple(turns), seconds=trajectory.seconds)


def guessing(user: Any = higher_or_lower, **settings: Any) -> ToolEnv:
    return ToolEnv(**{"tasks": [TASK], "reward": won, "user": user, **settings})


def test_the_user_answers_until_it_ends_the_episode() -> None:
    played = play(guessing(), say("3"), say("9"), say("7"))
    assert [turn.reply for turn in played.turns] == ["higher", "lower", "Yes!"]
    assert [(message.role, message.content) for message in played.messages[1:]] == [
        ("assistant", "3"), ("user", "higher"), ("assistant", "9"), ("user", "lower"), ("assistant", "7"),
        ("user", "Yes!"),
    ]  # fmt: skip
    assert (played.stop, played.ending, played.score.value) == (StopReason.USER, "guessed", 1.0)
    assert reread(played) == played


def test_the_reward_is_told_what_was_said_how_it_ended_and_what_the_user_knows() -> None:
    seen: list[Episode] = []

    def look(task: Task, episode: Episode) -> float:
        seen.append(episode)
        assert episode.state["user"] == {"guesses": 2}
        return 1.0

    play(guessing(reward=look), Message("assistant", "3", thinking="three?"), say("7"))
    assert (seen[0].said, seen[0].answer, seen[0].stop, seen[0].ending) == (("3", "7"), "7", StopReason.USER, "guessed")


def test_at_the_limit_of_turns_the_user_still_answers_and_the_episode_is_truncated() -> None:
    played = play(guessing(limits=Limits(turns=2)), say("3"))
    assert ([turn.reply for turn in played.turns], played.stop) == (["higher", "higher"], StopReason.TURNS)
    assert play(guessing(limits=Limits(turns=1)), say("7")).stop is StopReason.USER


class Customer:
    """Restarts the phone that the agent's tool looks at."""

    made: list[Customer] = []  # noqa: RUF012 - read by the tests

    def __init__(self, task: Task) -> None:
        self.task, self.is_closed = task, False
        self.made.append(self)

    async def __call__(self, message: str, phone: dict[str, bool]) -> str | Ended:
        await asyncio.sleep(0)
        phone["on"] = True
        return f"{self.task.id}: done"

    def close(self) -> None:
        self.is_closed = True


def test_a_class_is_made_for_each_episode_and_shares_what_the_tools_are_given() -> None:
    phone = per_episode(dict)

    class Owner(Customer):
        async def __call__(self, message: str, phone: dict[str, bool] = phone) -> str | Ended:
            return await super().__call__(message, phone)

    def status(phone: dict[str, bool] = phone) -> str:
        """Look at the phone."""
        return "on" if phone.get("on") else "off"

    def judge(task: Task, episode: Episode) -> float:
        assert isinstance(episode.state["user"], Owner)
        assert not episode.state["user"].is_closed
        return 1.0

    Customer.made.clear()
    env = guessing(Owner, tools=[status], reward=judge, limits=Limits(turns=4))
    for _ in range(2):
        played = play(env, call("status"), say("Please restart it."), call("status"), say("Bye"))
        assert [result.content for result in played.tool_results] == ["off", "on"]
        assert played.turns[1].reply == "t: done"
    assert [customer.is_closed for customer in Customer.made] == [True, True]


@pytest.mark.parametrize("user", [lambda: "hm", lambda message: message, lambda state: str(len(state))])
def test_a_user_takes_any_of_task_message_and_state(user: Any) -> None:
    assert play(guessing(user, limits=Limits(turns=1)), say("0")).turns[0].reply in ("hm", "0")


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (5, "user must be a function"),
        (lambda question: "", "parameter 'question'"),
        (type("NoCall", (), {}), "class with __call__"),
        (
            type("Needs", (), {"__init__": lambda self, a, b: None, "__call__": lambda self: ""}),
            "at most the episode's",
        ),
        (lambda user=per_episode(dict): "", "its own state"),
    ],
)
def test_a_user_that_cannot_be_called_is_refused(user: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        guessing(user)


def test_a_resource_of_the_user_may_not_take_the_name_of_another() -> None:
    def look(phone: dict[str, bool] = per_episode(dict)) -> str:
        """Look."""
        return ""

    def user(phone: dict[str, bool] = per_episode(dict)) -> str:
        return ""

    with pytest.raises(ConfigError, match="different resources under the name 'phone'"):
        guessing(user, tools=[look])


def test_a_user_that_returns_something_else_is_a_bug() -> None:
    with pytest.raises(TypeError, match="must return text or Ended"):
        play(guessing(lambda: 5), say("1"))


@pytest.mark.parametrize("error", [ConnectionRefusedError("refused"), ToolError("say please")])
def test_an_exception_that_a_user_should_not_raise_is_a_bug_and_says_what_to_do(error: Exception) -> None:
    def fails() -> str:
        raise error

    with pytest.raises(type(error)) as raised:
        play(guessing(fails), say("1"))
    assert any("raise InfrastructureError for a service that fails" in note for note in raised.value.__notes__)


def test_an_unreachable_or_silent_user_is_a_fault_and_leaves_the_episode_unscored() -> None:
    def unreachable() -> str:
        raise InfrastructureError("the line is dead")

    async def silent() -> str:
        await asyncio.Event().wait()
        return ""

    for user, error in ((unreachable, "the line is dead"), (silent, "has not ended within 0.05 seconds")):
        played = play(guessing(user, limits=Limits(user_seconds=0.05)), say("1"))
        assert (played.stop, played.attempts, played.score.value) == (StopReason.FAULT, 2, None)
        assert error in played.error


def test_what_a_user_says_fits_into_a_conversation() -> None:
    for said, shown in (("", ""), ("\ud800", "\\ud800"), ("x" * 50_000, None)):
        reply = play(guessing(lambda said=said: said, limits=Limits(turns=1)), say("1")).turns[0].reply
        assert reply == shown if shown is not None else reply is not None and len(reply) < 20_100


# ---- ends by tools


def submit(answer: str) -> Ended:
    """Submit.

    Args:
        answer: The answer.
    """
    return Ended("Thanks.", "submitted", answer)


def test_a_tool_ends_the_episode_and_later_calls_of_the_turn_do_not_run() -> None:
    env = ToolEnv(tasks=[TASK], tools=[submit], reward=lambda task, episode: float(episode.answer == "7"))
    two = Message("assistant", "", (*call("submit", answer="7").tool_calls, *call("submit", answer="8").tool_calls))
    played = play(env, two)
    assert (played.stop, played.ending, played.score.value) == (StopReason.TOOL, "submitted", 1.0)
    assert [result.content for result in played.tool_results] == ["Thanks."]
    assert [result and result.content for _, result in played.turns[0].calls] == ["Thanks.", None]
    assert reread(played) == played


# ---- awards


def dig(depth: int) -> str:
    """Dig.

    Args:
        depth: How deep.
    """
    award(depth / 10, "a find")
    return "found"


def digging(**settings: Any) -> ToolEnv:
    reward = settings.pop("reward", lambda task, episode: episode.awarded)
    return ToolEnv(tasks=[TASK], tools=[dig], reward=reward, **settings)


def test_awards_are_kept_with_the_turn_and_worth_what_the_reward_says() -> None:
    turns = (call("dig", depth=2), call("dig", depth=3), say("done"))
    played = play(digging(), *turns)
    assert [turn.awards for turn in played.turns] == [(Award(0.2, "a find"),), (Award(0.3, "a find"),), ()]
    assert played.score.value == pytest.approx(0.5)
    assert reread(played) == played
    assert play(digging(reward=lambda task, episode: 0.0), *turns).score.value == 0.0


def test_an_award_cannot_be_farmed_beyond_the_bound() -> None:
    played = play(digging(limits=Limits(awards=0.5, turns=5)), call("dig", depth=4))
    assert [turn.awards[0].value for turn in played.turns] == pytest.approx([0.4, 0.1, 0.0, 0.0, 0.0])
    played = play(digging(limits=Limits(awards=0.5, turns=3)), call("dig", depth=-4), call("dig", depth=9))
    assert [turn.awards[0].value for turn in played.turns] == pytest.approx([-0.4, 0.9, 0.0])


@pytest.mark.parametrize("reward", [lambda task, episode: episode.awarded, lambda task, episode: 1.0])
def test_the_rewards_of_gymnasiums_steps_sum_up_to_the_score(reward: Any) -> None:
    env = digging(reward=reward)
    env.reset()
    rewards = []
    for action in (env.dialect.format(call("dig", depth=2)), env.dialect.format(call("dig", depth=3)), "done"):
        _, given, terminated, _, info = env.step(action)
        rewards.append(given)
    assert terminated
    assert rewards[:2] == pytest.approx([0.2, 0.3])
    assert sum(rewards) == pytest.approx(info["score"]["value"])


def test_gymnasium_shows_what_the_user_says() -> None:
    env = guessing()
    env.reset()
    assert env.step("3")[:4] == ("higher", 0.0, False, False)
    observation, reward, terminated, truncated, info = env.step("7")
    assert (observation, reward, terminated, truncated) == ("Yes!", 1.0, True, False)
    assert (info["stop"], info["ending"]) == ("user", "guessed")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("7")


@pytest.mark.parametrize(("value", "error"), [(math.nan, ValueError), (math.inf, ValueError), ("1", TypeError)])
def test_an_award_that_is_not_a_finite_number_is_a_bug(value: Any, error: type[Exception]) -> None:
    def give(task: Task) -> str:
        award(value)
        return ""

    with pytest.raises(error, match="an award must be"):
        play(guessing(give), say("1"))


def test_an_award_outside_of_an_episode_is_refused() -> None:
    with pytest.raises(RuntimeError, match="outside of an episode"):
        toolrl.award(1.0)
