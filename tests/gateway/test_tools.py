"""Promises about the environment's tools over MCP: an agent's own client finds them, and its key is the episode's."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client

from tests.gateway.test_command import agent
from tests.gateway.test_conversations import scripted
from tests.gateway.test_program import CLIENT, played
from toolrl import ConfigError, Renderer, RolloutRequest, SamplingParams, Task, ToolEnv, make
from toolrl.errors import SandboxFault
from toolrl.gateway import AgentContext, AgentProgram, ProgramEngine
from toolrl.policy import TransformersPolicy
from toolrl.support.event_loop import run_sync
from toolrl.trajectory import Trajectory
from toolrl.types import Ended, StopReason

# A client of the standard library alone.
CALL = f"""{CLIENT}
def call(name, **arguments):
    body = {{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {{"name": name, "arguments": arguments}}}}
    request = urllib.request.Request(os.environ["TOOLRL_MCP_URL"], json.dumps(body).encode(), {{
        "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
    }})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["result"]["content"][0]["text"]

number = int(os.environ["TOOLRL_TASK"].split()[2])
print(call("double", number=number))
"""


@contextlib.asynccontextmanager
async def connected(context: AgentContext, key: str = "") -> Any:
    headers = {"Authorization": f"Bearer {key or context.api_key}"}
    async with (
        httpx2.AsyncClient(headers=headers) as http,
        McpClient(streamable_http_client(context.mcp_url, http_client=http)) as client,
    ):
        yield client


async def call(context: AgentContext, name: str, **arguments: Any) -> Any:
    async with connected(context) as client:
        return await client.call_tool(name, arguments)


def play(env: ToolEnv, function: Any, renderer: Renderer, **options: Any) -> Trajectory:
    engine = ProgramEngine(AgentProgram(function), scripted(renderer, "8"), renderer, retries=0, **options)
    try:
        return engine.run([RolloutRequest(env, env.tasks[0], "e", "1")])[0]
    finally:
        engine.close()
        env.close()


def with_tool(tool: Any) -> ToolEnv:
    return ToolEnv(
        tasks=[Task("t", "?", "8")], tools=[tool], reward=lambda task, episode: float(episode.answer == task.answer)
    )


def test_a_client_of_the_protocol_finds_the_tools_of_its_episode(renderer: Renderer) -> None:
    async def function(context: AgentContext) -> str:
        number = int(context.prompt.split()[2])
        async with connected(context) as client:
            (tool,) = (await client.list_tools()).tools
            assert tool.input_schema == context.tools[0]["function"]["parameters"]
            wrong = await client.call_tool("double", {"number": -number})
            assert (wrong.is_error, "only positive numbers" in wrong.content[0].text) == (True, True)
            assert (await client.call_tool("no_such_tool", {})).is_error
            assert (await client.call_tool("double", {"number": "many"})).is_error
            results = await asyncio.gather(*(client.call_tool("double", {"number": number}) for _ in range(4)))
        assert {one.content[0].text for one in results} == {str(2 * number)}
        return str(results[0].content[0].text)

    trajectories = played(AgentProgram(function), scripted(renderer, "unused"), renderer, count=8)
    assert all(trajectory.score.success for trajectory in trajectories)


def test_a_command_calls_them_without_a_package(tmp_path: Path, renderer: Renderer) -> None:
    trajectories = played(agent(tmp_path, CALL), scripted(renderer, "unused"), renderer, count=3)
    assert all(trajectory.score.success for trajectory in trajectories)


def test_the_manuals_command_plays(tmp_path: Path, tiny: TransformersPolicy, renderer: Renderer) -> None:
    page = (Path(__file__).parents[2] / "docs" / "agents.md").read_text("utf-8")
    code = page.partition('```python title="my_agent.py"\n')[2].partition("```")[0]
    env = make("toolrl/DocsSearch-v0", split="test", size=40)
    engine = ProgramEngine(agent(tmp_path, code), tiny, renderer, sampling=SamplingParams(0.0, 64))
    trajectories = engine.run([RolloutRequest(env, task, "e", task.id) for task in env.tasks.take(4)])
    engine.close()
    env.close()
    assert all(t.score.value is not None and "program" not in t.info for t in trajectories)
    assert any(result.call.name == "search" for t in trajectories for result in t.tool_results)


def test_only_the_key_of_an_episode_in_progress_opens(renderer: Renderer) -> None:
    contexts: list[AgentContext] = []

    async def function(context: AgentContext) -> str:
        contexts.append(context)
        wrong = ["guess", context.api_key[:-1], *(other.api_key for other in contexts[:-1])]
        for key in wrong:
            with pytest.raises(BaseExceptionGroup):
                async with connected(context, key) as client:
                    await client.list_tools()
        async with httpx.AsyncClient() as http:
            for headers in ({}, *({"Authorization": f"Bearer {key}"} for key in wrong)):
                assert (await http.post(context.mcp_url, headers=headers)).status_code == 401
            for method in ("GET", "DELETE", "PUT"):  # there are no sessions to listen to or to end
                key = {"Authorization": f"Bearer {context.api_key}"}
                assert (await http.request(method, context.mcp_url, headers=key)).status_code == 405
        return "8"

    for _ in range(2):  # the second one tries the key of the first, which has ended
        assert play(with_tool(nothing), function, renderer).score.success


def nothing() -> str:
    """Do nothing."""
    return ""


async def over_mcp(context: AgentContext, name: str) -> None:
    assert (await call(context, name)).is_error


async def directly(context: AgentContext, name: str) -> None:
    await context.call(name)


@pytest.mark.parametrize("way", [over_mcp, directly])
def test_what_a_tool_ends_or_cannot_do_is_known_whatever_the_program_makes_of_it(way: Any, renderer: Renderer) -> None:
    calls = []

    def finish() -> Ended:
        """End it."""
        calls.append(1)
        return Ended("done", answer="8")

    def down() -> str:
        """Fail."""
        raise SandboxFault("the sandbox is gone")

    def broken() -> str:
        """Have a bug."""
        raise KeyError("my_bug")

    async def swallow(context: AgentContext) -> str:
        name = context.tools[0]["function"]["name"]
        for _ in range(2):
            with contextlib.suppress(Exception, BaseExceptionGroup):
                await way(context, name)
        return "8" if name != "finish" else "another answer"

    trajectory = play(with_tool(finish), swallow, renderer)
    assert (trajectory.score.value, trajectory.stop, len(calls)) == (1.0, StopReason.TOOL, 1)
    trajectory = play(with_tool(down), swallow, renderer)
    assert trajectory.score.value is None
    assert "the sandbox is gone" in trajectory.error
    with pytest.raises(KeyError, match="my_bug"):
        play(with_tool(broken), swallow, renderer)


def asks_for_a_colour(task: Task, message: str, state: Any) -> str | Ended:
    if "blue" in message:
        return Ended("thanks")
    return "which colour?"


@pytest.mark.parametrize("over_mcp", [False, True])
def test_a_user_is_spoken_to(renderer: Renderer, over_mcp: bool) -> None:
    def say() -> str:
        """Do nothing, under a name that is taken."""
        return "nothing"

    async def talk(context: AgentContext) -> str:
        if not over_mcp:
            assert await context.say("hello") == "which colour?"
            with pytest.raises(Exception, match="the episode has ended"):
                await context.say("blue")
            return "late"
        async with connected(context) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["say", "say_"]
            replies = [
                await client.call_tool(name, arguments)
                for name, arguments in (
                    ("say", {}), ("say_", {"text": "hello"}), ("say_", {"text": 5}), ("say_", {"text": "blue"})
                )
            ]  # fmt: skip
        assert [reply.is_error for reply in replies] == [False, False, True, True]
        assert [reply.content[0].text for reply in replies[:2]] == ["nothing", "which colour?"]
        return "late"

    env = ToolEnv(
        tasks=[Task("t", "Sell something.", "blue")], tools=[say], user=asks_for_a_colour,
        reward=lambda task, episode: float(episode.answer == task.answer),
    )  # fmt: skip
    trajectory = play(env, talk, renderer)
    assert (trajectory.score.value, trajectory.stop) == (1.0, StopReason.USER)


def test_without_a_user_nobody_is_spoken_to(renderer: Renderer) -> None:
    async def talk(context: AgentContext) -> str:
        return await context.say("hello")

    with pytest.raises(ConfigError, match="no user to speak to"):
        play(with_tool(nothing), talk, renderer)


@pytest.mark.parametrize("is_waited_for", [False, True])
def test_a_call_in_flight_is_given_up_with_its_episode(renderer: Renderer, is_waited_for: bool) -> None:
    began, ended, waiting = asyncio.Event(), [], []

    async def slow() -> str:
        """Take long."""
        began.set()
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(1)
        return ""

    async def leave(context: AgentContext) -> str:
        calling = asyncio.create_task(call(context, "slow"))
        await began.wait()
        if is_waited_for:
            waiting.append(calling)
        else:
            calling.cancel()
            await asyncio.wait([calling])
        return "8"

    async def answer_of(calling: asyncio.Task[Any]) -> Any:
        return await asyncio.wait_for(calling, 20)

    env = with_tool(slow)
    engine = ProgramEngine(AgentProgram(leave), scripted(renderer, "8"), renderer, retries=0)
    (trajectory,) = engine.run([RolloutRequest(env, env.tasks[0], "e", "1")])
    for calling in waiting:
        answer = run_sync(answer_of(calling))
        assert (answer.is_error, answer.content[0].text) == (True, "the episode has ended: answer")
    engine.close()
    env.close()
    assert trajectory.score.success
    assert ended == [1]


def test_an_episode_by_hand_has_no_tools(renderer: Renderer, served: Any) -> None:
    client = served.open()
    answer = httpx.post(served.server.mcp_url, headers={"Authorization": f"Bearer {client.key}"}, json={})
    assert (answer.status_code, "no tools here" in answer.json()["message"]) == (404, True)
