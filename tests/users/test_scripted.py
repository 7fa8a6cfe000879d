"""Promises about scripted users: replies in order or by rule, from the task if it has them, and an end."""

from __future__ import annotations

from typing import Any

import pytest

from toolrl import ConfigError, Ended, RolloutEngine, RolloutRequest, StopReason, Task, ToolEnv, Trajectory, say
from toolrl.policy import ScriptedChatPolicy
from toolrl.users import ScriptedUser

TASK = Task("t", "Hi.", metadata={"user": ["one", Ended("two", "bye")]})


def play(user: Any, *said: str, task: Task = TASK) -> Trajectory:
    env = ToolEnv(tasks=[task], user=user, reward=lambda task, episode: 1.0)
    engine = RolloutEngine(ScriptedChatPolicy([say(text) for text in said]), None)
    return engine.run([RolloutRequest(env, task)])[0]


def replies(trajectory: Trajectory) -> list[str | None]:
    return [turn.reply for turn in trajectory.turns]


def test_replies_come_in_order_and_then_the_episode_ends() -> None:
    user = ScriptedUser(["one", "two"])
    for _ in range(2):  # the place is the episode's
        played = play(user, "a", "b", "c")
        assert replies(played) == ["one", "two", None]
        assert (played.stop, played.ending) == (StopReason.USER, "the script is over")


def test_what_follows_the_script_is_a_choice() -> None:
    assert replies(play(ScriptedUser(["one"], otherwise="Well?"), "a"))[:3] == ["one", "Well?", "Well?"]


@pytest.mark.parametrize("script", ["user", lambda task: task.metadata["user"]])
def test_a_task_may_have_the_script(script: Any) -> None:
    played = play(ScriptedUser(script), "a", "b")
    assert (replies(played), played.ending) == (["one", "two"], "bye")


def test_the_first_rule_found_in_the_agents_words_decides() -> None:
    rules = {r"\brestart": "I did.", "phone|line": "It is dead.", "good ?bye": Ended("Bye.", "done")}
    played = play(ScriptedUser(rules, otherwise="What?"), "What of the line?", "RESTART the phone", "?", "Goodbye!")
    assert replies(played) == ["It is dead.", "I did.", "What?", "Bye."]
    assert played.ending == "done"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (5, "must be a list of replies"),
        (["one", 2], "reply 2 must be text or Ended"),
        ({"(": "one"}, "not a regular expression"),
        ({"a": None}, "rule 'a' must be text"),
        ("turns", "no user's script under 'turns'"),
        (lambda task: "one", "for task 't' must be a list"),
    ],
)
def test_what_is_no_script_is_refused(script: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        play(ScriptedUser(script), "a")
