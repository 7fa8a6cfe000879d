"""A small honest environment, and arguments that break it: one per leak."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from toolrl import Episode, Limits, Message, Task, TaskSet, ToolEnv, call, say, tool
from toolrl.rewards import answer_reward, exact_match, numbers_equal

CAPITALS = {"Norway": "Oslo", "Peru": "Lima", "Kenya": "Nairobi", "Japan": "Tokyo", "Cuba": "Havana", "Fiji": "Suva"}
SUMS = [(17, 25), (31, 8), (44, 19), (5, 68), (72, 11), (36, 27)]

Reward = Callable[[Task, Episode], Any]


@tool
def search(query: str) -> str:
    """Look a country up.

    Args:
        query: A country.
    """
    return f"The capital of {query} is {CAPITALS.get(query, 'not known')}."


def right(answer: str, expected: Any) -> bool:
    return exact_match(answer, expected) or numbers_equal(answer, expected)


def capital_tasks(prompt: str = "What is the capital of {country}?") -> TaskSet:
    return TaskSet(
        Task(country, prompt.format(country=country, capital=capital), capital, needs_tool=True)
        for country, capital in CAPITALS.items()
    )


def sum_tasks(as_number: bool = True) -> TaskSet:
    return TaskSet(Task(f"{a}-{b}", f"What is {a} + {b}?", a + b if as_number else str(a + b)) for a, b in SUMS)


def solve(task: Task) -> Sequence[Message]:
    answer = say(f"<answer>{task.answer}</answer>")
    return [call("search", query=task.id), answer] if task.needs_tool else [answer]


@pytest.fixture
def make_env() -> Callable[..., ToolEnv]:
    """Makes the honest environment, with some arguments replaced."""

    def make(**changes: Any) -> ToolEnv:
        settings = {
            "tasks": capital_tasks(),
            "tools": [search],
            "reward": answer_reward(right),
            "system_prompt": "End with <answer>...</answer>.",
            "limits": Limits(turns=5, tool_calls=4),
            "oracle": solve,
        }
        return ToolEnv(**{**settings, **changes})

    return make
