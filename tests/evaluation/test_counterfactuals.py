"""Promises about counterfactuals: each habit of using tools is told apart, and stand-ins do as their condition says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from toolrl import Ended, Message, Task, ToolEnv, Trajectory, call, per_episode, say
from toolrl.errors import ConfigError
from toolrl.evaluation import CONDITIONS, Counterfactuals, compare, counterfactual_tables, counterfactuals
from toolrl.policy import ChatReply
from toolrl.types import SamplingParams

opened: list[str] = []


class Machine:
    """What the real tool opens."""

    def __init__(self) -> None:
        opened.append("machine")


def double(number: int, machine: Machine = per_episode(Machine)) -> str:
    """Double a number.

    Args:
        number: It.
    """
    return f"twice {number} is {2 * number}"


def submit(answer: str) -> Ended:
    """Give the answer.

    Args:
        answer: It.
    """
    return Ended("done", answer=answer)


def make_env(**settings: Any) -> ToolEnv:
    """Twenty tasks, of which those with a number below 10 are easy."""
    return ToolEnv(
        tasks=[Task(f"t{n}", f"What is twice {n}?", str(2 * n), kind="easy" if n < 10 else "hard") for n in range(20)],
        **{"tools": [double], "reward": lambda task, episode: float(episode.answer == task.answer), **settings},
    )


Agent = Callable[[int, list[str], bool], Message]


class Playing:
    """A chat policy from a function of the number, of what tools said, and of whether there are tools."""

    def __init__(self, agent: Agent):
        self._agent = agent

    async def reply(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], sampling: SamplingParams
    ) -> ChatReply:
        number = int(re.findall(r"\d+", next(m.content for m in messages if m.role == "user"))[0])
        said = [message.content for message in messages if message.role == "tool"]
        return ChatReply(self._agent(number, said, bool(tools)))

    def close(self) -> None:
        """Nothing to release."""


def in_the_head(number: int) -> Message:
    return say(str(2 * number) if number < 10 else "no idea")


def read(said: list[str]) -> Message:
    return say(said[-1].split()[-1].strip("."))


def honest(number: int, said: list[str], has_tools: bool) -> Message:
    """Calls where it does not know, and believes what the tool says."""
    if number < 10 or not has_tools:
        return in_the_head(number)
    return read(said) if said else call("double", number=number)


def over_user(number: int, said: list[str], has_tools: bool) -> Message:
    if not has_tools:
        return in_the_head(number)
    return read(said) if said else call("double", number=number)


def under_user(number: int, said: list[str], has_tools: bool) -> Message:
    return in_the_head(number)


def sceptic(number: int, said: list[str], has_tools: bool) -> Message:
    """Checks what the tool says against what it knows of the question."""
    if number < 10 or not has_tools:
        return in_the_head(number)
    if not said:
        return call("double", number=number)
    return say(str(2 * number)) if str(2 * number) in said[-1].split() else say("the tool is wrong")


def measure(agent: Agent, env: ToolEnv | None = None, **settings: Any) -> Counterfactuals:
    return counterfactuals({"my/Env-v0": env or make_env()}, Playing(agent), None, **settings)["my/Env-v0"]


def test_an_agent_that_calls_where_it_does_not_know_uses_its_tool_right() -> None:
    found = measure(honest)
    assert {name: report.success for name, report in found.reports.items()} == {
        "tools": 1.0, "none": 0.5, "empty": 0.5, "random": 0.5, "hostile": 0.5, "broken": 0.5,
    }  # fmt: skip
    assert (found.need.value, found.over_use.value, found.under_use.value, found.trust.value) == (0.5, 0.0, 0.0, 1.0)
    benefit, (low, high) = found.differences["none"]
    assert benefit == 0.5
    assert 0.2 < low < 0.5 < high < 0.8
    assert found.productivity == 2.0
    assert found.need.tasks == 20
    assert set(found.tasks["use"]) == {"right"}
    assert found.tasks.groupby("kind")["none"].mean().to_dict() == {"easy": 1.0, "hard": 0.0}


def test_over_use_under_use_and_trust_are_told_apart() -> None:
    over, under, doubt = measure(over_user), measure(under_user), measure(sceptic)
    assert (over.over_use.value, over.under_use.value, over.trust.value) == (1.0, 0.0, 1.0)
    assert over.tasks["use"].tolist().count("over") == 10
    assert over.reports["hostile"].success == 0.0  # it asks also where it knows
    assert (under.over_use.value, under.under_use.value) == (0.0, 1.0)
    assert under.trust.value is None  # it asked nobody
    assert under.differences["none"][0] == 0.0
    assert under.productivity is None
    assert (doubt.over_use.value, doubt.under_use.value, doubt.trust.value) == (0.0, 0.0, 0.0)


def test_stand_ins_open_nothing_and_say_what_their_condition_says() -> None:
    played: list[Trajectory] = []
    opened.clear()
    measure(honest, on_trajectory=played.append, info={"model": "m"})
    assert opened == ["machine"] * 10
    said = {
        name: {t.task_id: t.tool_results[0].content for t in played if t.info["condition"] == name and t.tool_results}
        for name in CONDITIONS
    }
    assert said["none"] == {}
    assert set(said["empty"].values()) == {"(no output)"}
    assert set(said["broken"].values()) == {"error: double is not available"}
    assert set(said["random"].values()) <= set(said["tools"].values())
    for task, real in said["tools"].items():
        assert said["random"][task] != real
        assert said["hostile"][task] != real
        assert said["hostile"][task].rsplit(" ", 1)[0] == real.rsplit(" ", 1)[0]
    assert {t.info["model"] for t in played} == {"m"}
    assert len({t.id for t in played}) == len(played) == 6 * 20


def test_each_of_several_tools_has_a_stand_in() -> None:
    def halve(number: int) -> str:
        """Halve a number.

        Args:
            number: It.
        """
        return f"half of {number} is {number / 2:g}"

    def doubtful(number: int, said: list[str], has_tools: bool) -> Message:
        """Doubles, and halves what it was told."""
        if not has_tools or len(said) == 2:
            return say(said[0].split()[-1] if said else "no idea")
        return call("halve", number=2 * number) if said else call("double", number=number)

    played: list[Trajectory] = []
    measure(doubtful, make_env(tools=[double, halve]), on_trajectory=played.append)
    said: dict[str, list[str]] = {}
    for trajectory in played:
        if trajectory.task_id == "t3":
            said[trajectory.info["condition"]] = [result.content for result in trajectory.tool_results]
    assert said["tools"] == ["twice 3 is 6", "half of 6 is 3"]
    assert said["empty"] == ["(no output)", "(no output)"]
    assert re.fullmatch(r"twice \d+ is \d+, half of \d+ is \d+", ", ".join(said["random"]))
    assert "twice 3 is 6" not in said["hostile"]
    assert said["broken"] == ["error: double is not available", "error: halve is not available"]


def test_a_tool_that_ends_the_episode_stays_and_is_no_tool_use() -> None:
    def submits(number: int, said: list[str], has_tools: bool) -> Message:
        answer = honest(number, said, has_tools) if said or number < 10 else call("double", number=number)
        return answer if answer.tool_calls else call("submit", answer=answer.content)

    found = measure(submits, make_env(tools=[double, submit]))
    assert found.reports["tools"].success == 1.0
    assert found.reports["broken"].success == 0.5
    assert (found.over_use.value, found.under_use.value) == (0.0, 0.0)


def test_samples_of_a_task_are_not_independent() -> None:
    one, four = measure(honest), measure(honest, samples=4)
    assert four.need.value == one.need.value
    assert four.need.interval[1] - four.need.interval[0] > 0.8 * (one.need.interval[1] - one.need.interval[0])


def test_answers_that_are_not_words_or_numbers_cannot_be_lied_about() -> None:
    tasks = [Task(f"t{n}", f"What is twice {n}?", {"value": 2 * n}) for n in range(4)]
    env = ToolEnv(tasks=tasks, tools=[double], reward=lambda task, episode: 1.0)
    assert "hostile" not in measure(honest, env).reports


async def slow_reward(task: Task, episode: Any) -> float:
    return float(episode.answer == task.answer)


def test_belief_is_noted_with_an_async_reward_and_only_some_conditions_are_played() -> None:
    found = measure(honest, make_env(reward=slow_reward), conditions=["hostile"])
    assert list(found.reports) == ["tools", "none", "hostile"]
    assert found.trust.value == 1.0


def test_an_environment_without_tools_and_an_unknown_condition_are_refused() -> None:
    with pytest.raises(ConfigError, match="my/Env-v0 has no tools"):
        measure(honest, make_env(tools=[]))
    with pytest.raises(ConfigError, match="no condition 'upside down'; the conditions are tools, none"):
        measure(honest, conditions=["upside down"])


def test_tables_show_every_condition_and_share() -> None:
    first, second, third = counterfactual_tables({"my/Env-v0": measure(honest)})
    assert [column.header for column in first.columns] == ["environment", *CONDITIONS]
    assert next(iter(first.columns[2].cells)) == "0.50 [0.30, 0.70]\n+0.50 [+0.21, +0.70]"
    assert [next(iter(column.cells)) for column in second.columns] == [
        "Env", "0.50 [0.30, 0.70] of 20", "0.00 [0.00, 0.28] of 10", "0.00 [0.00, 0.28] of 10",
        "1.00 [0.72, 1.00] of 10", "2.00",
    ]  # fmt: skip
    rows = list(zip(*(column.cells for column in third.columns), strict=True))
    assert rows == [
        ("Env", "easy", "10", "1.00", "1.00", "1.00", "1.00", "1.00", "1.00", "0.00", "0", "0"),
        ("Env", "hard", "10", "1.00", "0.00", "0.00", "0.00", "0.00", "0.00", "1.00", "0", "0"),
    ]


def test_the_tasks_of_two_agents_can_be_compared() -> None:
    honest_tasks, under_tasks = (
        measure(agent).tasks.assign(success=lambda f: f["tools"] > 0.5) for agent in (honest, under_user)
    )
    row = compare({"honest": honest_tasks, "under": under_tasks}).differences[0]
    assert (row.difference, row.is_shown) == (-0.5, True)
