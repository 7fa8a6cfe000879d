"""Promises about agent frameworks, unchanged, over the gateway: `make test-agents` installs them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.gateway.test_conversations import scripted
from tests.gateway.test_program import counting
from toolrl import Renderer, RolloutRequest, SamplingParams
from toolrl.gateway import AgentContext, AgentProgram, ProgramEngine
from toolrl.trajectory import Trajectory

pytestmark = pytest.mark.agents

DOUBLE = '<tool_call>\n{"name": "double", "arguments": {"number": 4}}\n</tool_call>'
FINAL = '<tool_call>\n{"name": "final_answer", "arguments": {"answer": "8"}}\n</tool_call>'


def played(play: Any, renderer: Renderer, *turns: str) -> Trajectory:
    env = counting()
    engine = ProgramEngine(
        AgentProgram(play), scripted(renderer, *turns), renderer, sampling=SamplingParams(0.0, 256), retries=0
    )
    (trajectory,) = engine.run([RolloutRequest(env, env.tasks[0], "e", "1")])
    engine.close()
    env.close()
    return trajectory


def test_smolagents(renderer: Renderer) -> None:
    smolagents = pytest.importorskip("smolagents", reason="smolagents is not installed: make test-agents")

    async def play(context: AgentContext) -> str:
        loop = asyncio.get_running_loop()

        @smolagents.tool  # type: ignore[untyped-decorator,unused-ignore]
        def double(number: int) -> str:
            """Double a number.

            Args:
                number: Any.
            """
            return asyncio.run_coroutine_threadsafe(context.call("double", number=number), loop).result()

        model = smolagents.OpenAIServerModel(context.model, api_base=context.base_url, api_key=context.api_key)
        agent = smolagents.ToolCallingAgent(tools=[double], model=model, max_steps=4, verbosity_level=0)
        return str(await asyncio.to_thread(agent.run, context.prompt))

    trajectory = played(play, renderer, DOUBLE, FINAL)
    assert trajectory.score.success
    turns = [*trajectory.turns, *(turn for branch in trajectory.branches for turn in branch.turns)]
    assert {call.name for turn in turns for call in turn.message.tool_calls} == {"double", "final_answer"}
    assert trajectory.has_tokens


def test_openai_agents(renderer: Renderer) -> None:
    agents = pytest.importorskip("agents", reason="openai-agents is not installed: make test-agents")
    openai = pytest.importorskip("openai")

    async def play(context: AgentContext) -> str:
        @agents.function_tool  # type: ignore[untyped-decorator,unused-ignore]
        async def double(number: int) -> str:
            """Double a number."""
            return await context.call("double", number=number)

        client = openai.AsyncOpenAI(base_url=context.base_url, api_key=context.api_key)
        agents.set_tracing_disabled(True)
        model = agents.OpenAIChatCompletionsModel(context.model, openai_client=client)
        agent = agents.Agent(name="solver", instructions="Use the tool.", tools=[double], model=model)
        return str((await agents.Runner.run(agent, context.prompt)).final_output)

    trajectory = played(play, renderer, DOUBLE, "8")
    assert trajectory.score.success
    assert [len(turn.message.tool_calls) for turn in trajectory.turns] == [1, 0]  # one conversation, appended
    assert not trajectory.branches


def test_openai_agents_with_the_environments_tools_over_mcp(renderer: Renderer) -> None:
    agents = pytest.importorskip("agents", reason="openai-agents is not installed: make test-agents")
    mcp = pytest.importorskip("agents.mcp")
    openai = pytest.importorskip("openai")

    async def play(context: AgentContext) -> str:
        agents.set_tracing_disabled(True)
        client = openai.AsyncOpenAI(base_url=context.base_url, api_key=context.api_key)
        address = {"url": context.mcp_url, "headers": {"Authorization": f"Bearer {context.api_key}"}}
        async with mcp.MCPServerStreamableHttp(params=address) as tools:
            model = agents.OpenAIChatCompletionsModel(context.model, openai_client=client)
            agent = agents.Agent(name="solver", instructions="Use the tool.", mcp_servers=[tools], model=model)
            return str((await agents.Runner.run(agent, context.prompt)).final_output)

    trajectory = played(play, renderer, DOUBLE, "8")
    assert trajectory.score.success
    assert [result.content for result in trajectory.tool_results] == ["8"]
