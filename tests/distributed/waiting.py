"""An environment whose tool waits, for a time with a long tail: what rollouts on a cluster are about."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import gymnasium

from toolrl import Limits, Task, ToolEnv, call, say

ENV_ID = "tests/Waiting-v0"
SHORTEST, LONGEST = 0.1, 2.0


def seconds_of(number: int) -> float:
    """How long the tool of a task takes: log-normal around 0.3 s, between a tenth of a second and two."""
    return min(max(random.Random(number).lognormvariate(-1.2, 0.8), SHORTEST), LONGEST)


async def wait(seconds: float) -> str:
    """Wait.

    Args:
        seconds: How long.
    """
    await asyncio.sleep(seconds)
    return "done"


def make_waiting(count: int = 40, seconds: float | None = None, **_: Any) -> ToolEnv:
    """Tasks whose tool waits for `seconds`, or for a time of its own."""
    return ToolEnv(
        tasks=[Task(f"t{n}", f"Wait, then say {n}.", str(n), {"n": n}) for n in range(count)],
        tools=[wait],
        reward=lambda task, episode: float(episode.answer == task.answer),
        oracle=lambda task: [
            call("wait", seconds=seconds_of(task.metadata["n"]) if seconds is None else seconds),
            say(task.answer),
        ],
        limits=Limits(turns=3),
    )


if ENV_ID not in gymnasium.registry:
    gymnasium.register(ENV_ID, entry_point=make_waiting)
