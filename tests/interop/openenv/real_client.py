"""Runs in an environment of its own that has openenv: its clients, unchanged, play what toolrl serves.

`python real_client.py URL CALLS ANSWER`: a JSON list of (tool, arguments), and words. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from openenv.core.env_server.mcp_types import CallToolAction  # type: ignore[import-not-found]
from openenv.core.generic_client import GenericEnvClient  # type: ignore[import-not-found]
from openenv.core.mcp_client import MCPToolClient  # type: ignore[import-not-found]

SESSIONS = 16


def by_actions(url: str, calls: list[Any], words: str) -> dict[str, Any]:
    with GenericEnvClient(base_url=url).sync() as env:
        first = env.reset(split="test", index=0)
        results = [
            env.step({"type": "call_tool", "tool_name": name, "arguments": arguments}).observation["result"]
            for name, arguments in calls
        ]
        last = env.step({"type": "message", "content": words})
        state = env.state()
    return {
        "prompt": first.observation["prompt"], "results": results, "reward": last.reward, "done": last.done,
        "steps": state["step_count"],
    }  # fmt: skip


async def by_tools(url: str, calls: list[Any], words: str) -> dict[str, Any]:
    async with MCPToolClient(base_url=url) as env:
        await env.reset(split="test", index=0)
        tools = [tool.name for tool in await env.list_tools()]
        results = [await env.call_tool(name, **arguments) for name, arguments in calls]
        last = await env.step(CallToolAction(tool_name=tools[-1], arguments={"text": words}))
    return {"tools": tools, "results": results, "reward": last.reward, "done": last.done}


async def at_once(url: str, calls: list[Any]) -> list[Any]:
    async def play(index: int) -> str:
        async with GenericEnvClient(base_url=url) as env:
            first = await env.reset(split="train", index=index)
            for name, arguments in calls:
                await env.step({"type": "call_tool", "tool_name": name, "arguments": arguments})
            state = await env.state()
            return f"{first.observation['task_id']} {state['task_id']} {state['step_count']}"

    return list(await asyncio.gather(*(play(index) for index in range(SESSIONS))))


def main() -> None:
    url, calls, words = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    found = {
        "actions": by_actions(url, calls, words),
        "tools": asyncio.run(by_tools(url, calls, words)),
        "at_once": asyncio.run(at_once(url, calls)),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
