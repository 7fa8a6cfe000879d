"""Environments that are served: a shelf with state, an answer, and a shopkeeper who replies."""

from __future__ import annotations

import time
from typing import Any

from toolrl import (
    Ended,
    Episode,
    InfrastructureError,
    Limits,
    Score,
    Task,
    ToolEnv,
    ToolError,
    award,
    call,
    per_episode,
    say,
)

closed: list[list[str]] = []
LIBRARY_ANSWERS = [f"secret-train-{n}" for n in range(3)]


class Shelf(list[str]):
    def close(self) -> None:
        closed.append(list(self))


def put(book: str, shelf: Shelf = per_episode(Shelf)) -> str:
    """Put a book on the shelf.

    Args:
        book: Its title.
    """
    if book == "nothing":
        raise ToolError("there is no such book")
    if book == "fire":
        raise InfrastructureError("the library burns")
    if book == "bug":
        raise KeyError("secret")
    if book == "slow":
        time.sleep(0.3)
    shelf.append(book)
    award(0.1, "a book")
    return f"{len(shelf)} books"


def stop() -> Ended:
    """Stop at once."""
    return Ended("stopped", "enough")


def library(split: str = "train", size: int = 3) -> ToolEnv:
    """A library of some books."""

    def reward(task: Task, episode: Episode) -> Score:
        right = episode.answer == task.answer
        return Score(float(right), {"correct": float(right)}, reason=f"expected {task.answer}, got {episode.answer}")

    tasks = [
        Task(f"{split}-{n}", f"Which number is {split} {n}?", f"secret-{split}-{n}", {"hidden": "secret"}, kind="count")
        for n in range(size)
    ]
    return ToolEnv(
        tasks=tasks, tools=[put, stop], reward=reward, system_prompt="You keep books.", limits=Limits(turns=6),
        oracle=lambda task: [call("put", book="a"), say(task.answer)],
    )  # fmt: skip


def shop(split: str = "train") -> ToolEnv:
    """A shop whose keeper haggles."""

    def keeper(message: str, state: dict[str, Any]) -> str | Ended:
        state["heard"] = state.get("heard", 0) + 1
        return Ended("sold", "sold") if "please" in message else f"no ({state['heard']})"

    def reward(task: Task, episode: Episode) -> float:
        return float(episode.ending == "sold")

    tasks = [Task(f"{split}-{n}", f"Buy a hat, customer {n}.") for n in range(2)]
    return ToolEnv(tasks=tasks, tools=[], user=keeper, reward=reward, limits=Limits(turns=4))


MAKERS = {"test/Library-v0": library, "shop.py:Shop": shop}


def make(name: str, split: str) -> ToolEnv:
    return MAKERS[name](split)
