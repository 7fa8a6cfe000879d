"""`toolrl/PythonMath-v0` where the python tool is down in half of the tasks: the answers there are guesses.

An agent that knows what it knows is sure of an answer that the tool gave, and not of a guess.
"""

from __future__ import annotations

import inspect
import zlib
from dataclasses import replace
from typing import Any

import gymnasium

from toolrl import Task, ToolEnv, make
from toolrl.errors import ToolError
from toolrl.tools.resources import Resource

ENV_ID = "tests/UnreliableMath-v0"
_DOWN = "(down)"  # injected under a name that no parameter has


def is_down(task: Task) -> bool:
    """Whether the tool fails in this task."""
    return zlib.crc32(task.id.encode()) % 2 == 0


def make_unreliable(**settings: Any) -> ToolEnv:
    """The environment; settings are those of `toolrl/PythonMath-v0`."""
    env = make("toolrl/PythonMath-v0", **settings)
    (tool,) = env.toolbox.tools.values()

    async def call(**arguments: Any) -> Any:
        if arguments.pop(_DOWN):
            raise ToolError("python is not available")
        result = tool.function(**arguments)
        return await result if inspect.isawaitable(result) else result

    resources = {**tool.resources, _DOWN: Resource(is_down, "episode")}
    return env.with_tools([replace(tool, function=call, resources=resources)])


if ENV_ID not in gymnasium.registry:
    gymnasium.register(ENV_ID, entry_point=make_unreliable)
