"""Questions about the weather, and the tools of an MCP server."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from toolrl import Limits, Message, Task, TaskSet, ToolEnv, call, say
from toolrl.rewards import answer_reward, numbers_equal
from toolrl.tools import mcp_tools

SERVER = Path(__file__).with_name("server.py")
# What the server knows, for the answers.
DATA = Path(__file__).parent / "data" / "temperatures.json"
TEMPERATURES: dict[str, list[int]] = json.loads(DATA.read_text("utf-8"))
SYSTEM_PROMPT = "Ask for temperatures. End with <answer>...</answer>."


# A task is a prompt and the right answer. Draw everything from `rng`, so that the same seed gives the same tasks.
def make_task(rng: random.Random, index: int) -> Task:
    """Make a question about two cities on a day."""
    (first, second), day = rng.sample(sorted(TEMPERATURES), 2), rng.randint(1, 60)
    prompt = f"How many degrees warmer than {second} was {first} on day {day}? Write a minus if it was colder."
    answer = TEMPERATURES[first][day - 1] - TEMPERATURES[second][day - 1]
    return Task(f"weather-{index}", prompt, answer, {"cities": [first, second], "day": day}, needs_tool=True)


# The solution shows that a task can be solved, and makes demonstrations. It uses the tools as a good model would.
def solve(task: Task) -> Sequence[Message]:
    """Ask for both temperatures, then answer."""
    day = task.metadata["day"]
    calls = [call("temperature", city=city, day=day) for city in task.metadata["cities"]]
    return [*calls, say(f"<answer>{task.answer}</answer>")]


class MyEnv(ToolEnv):
    """Questions about the weather with the tools of an MCP server."""

    def __init__(self, split: str = "train", *, size: int = 1000, seed: int = 0, render_mode: str | None = None):
        """Make the environment.

        Args:
            split: "train" or "test"; about a fifth of the prompts is held out.
            size: Number of tasks of both splits together.
            seed: Fixes the tasks.
            render_mode: See `ToolEnv`.
        """
        # One server for all episodes, which is right only while it remembers nothing. A server with a state needs
        # lifetime="episode", and `prepare=` fills it with the task's data; that starts a process for each episode.
        tools = mcp_tools(command=[sys.executable, str(SERVER)], name="weather", lifetime="run")
        super().__init__(
            tasks=TaskSet.generate(make_task, size, seed).of_split(split),
            tools=tools,
            # 1 for the right number between the tags, less a little for each call; 0 for anything else.
            reward=answer_reward(numbers_equal, call_cost=0.05),
            system_prompt=SYSTEM_PROMPT,
            limits=Limits(turns=5, tool_calls=5, completion_tokens=1024),
            oracle=solve,
            render_mode=render_mode,
        )
