"""Promises about programs that play episodes: graded by the same rewards, and nothing of them is left."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.test_conversations import scripted
from tests.gateway.test_server import Hanging
from toolrl import ConfigError, Renderer, RolloutRequest, SamplingParams, Task, ToolEnv, ToolError, make, say
from toolrl.evaluation import evaluate
from toolrl.gateway import AgentContext, AgentProgram, GatewayLimits, ProgramEngine
from toolrl.policy import Policy, ScriptedChatPolicy, TransformersPolicy
from toolrl.trajectory import Trajectory
from toolrl.types import StopReason

CLIENT = """
import json, os, sys, urllib.request

def ask(messages):
    body = json.dumps({"model": os.environ["TOOLRL_MODEL"], "messages": messages}).encode()
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions", body,
        {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]
"""


def double(number: int) -> int:
    """Double a number.

    Args:
        number: Any.
    """
    if number < 0:
        raise ToolError("only positive numbers")
    return 2 * number


def counting() -> ToolEnv:
    return ToolEnv(
        tasks=[Task(f"t{n}", f"What is {n} doubled?", str(2 * n)) for n in range(4, 12)],
        tools=[double],
        reward=lambda task, episode: float(episode.answer == task.answer),
        oracle=lambda task: [say(task.answer)],
    )


def played(
    program: AgentProgram, policy: Policy, renderer: Renderer, count: int = 1, **options: Any
) -> list[Trajectory]:
    env = counting()
    engine = ProgramEngine(program, policy, renderer, sampling=SamplingParams(0.0, 64), **options)
    try:
        return engine.run([RolloutRequest(env, task, "e", task.id) for task in env.tasks.take(count)])
    finally:
        engine.close()
        env.close()


async def with_openai(context: AgentContext, *prompts: str) -> list[str]:
    openai = pytest.importorskip("openai")
    said = []
    async with openai.AsyncOpenAI(base_url=context.base_url, api_key=context.api_key, max_retries=0) as client:
        for prompt in prompts:
            messages = [{"role": "user", "content": prompt}]
            answer = await client.chat.completions.create(model=context.model, messages=messages)
            said.append(answer.choices[0].message.content)
    return said


def test_a_function_plays_with_the_environments_tools_and_is_graded(renderer: Renderer) -> None:
    async def play(context: AgentContext) -> str:
        assert "What is" in context.prompt
        assert context.tools[0]["function"]["name"] == "double"
        await with_openai(context, context.prompt)
        with pytest.raises(Exception, match="only positive numbers"):
            await context.call("double", number=-1)
        return await context.call("double", number=int(context.prompt.split()[2]))

    for trajectory in played(AgentProgram(play), scripted(renderer, "let me see"), renderer, count=8):
        assert trajectory.score.success
        assert trajectory.has_tokens
        assert trajectory.turns[0].message.content == "let me see"
        # The conversation shows none of the calls, and they are counted nevertheless.
        assert [str(result.failure) for result in trajectory.tool_results] == ["raised", "None"]


def test_what_a_program_delegates_is_a_branch_with_the_same_verdict(renderer: Renderer) -> None:
    async def play(context: AgentContext) -> str:
        return (await with_openai(context, "plan", "sub-agent", "answer"))[-1]

    (trajectory,) = played(AgentProgram(play), scripted(renderer, "a", "b", "8"), renderer)
    assert trajectory.score.success
    assert [t.message.content for t in trajectory.turns] == ["8"]
    assert [branch.turns[0].message.content for branch in trajectory.branches] == ["b", "a"]
    assert all(branch.score == trajectory.score and branch.has_tokens for branch in trajectory.branches)
    assert trajectory.tool_results == []
    row = json.loads(json.dumps(trajectory.to_row()))
    assert Trajectory.from_row(row).to_row() == row


def test_a_policy_that_fails_leaves_the_episode_unscored(tmp_path: Path, renderer: Renderer) -> None:
    async def play(context: AgentContext) -> str:
        return (await with_openai(context, "Hi"))[0]

    file = tmp_path / "agent.py"
    file.write_text(CLIENT + 'print(ask([{"role": "user", "content": "Hi"}]))')
    for program in (AgentProgram(play), AgentProgram(command=[sys.executable, str(file)])):
        (trajectory,) = played(program, Hanging(), renderer, policy_timeout_seconds=0.2, retries=0)
        assert trajectory.score.value is None
        assert "PolicyFault" in trajectory.error


def test_a_fault_that_a_program_swallows_is_a_fault_nevertheless(renderer: Renderer) -> None:
    async def swallow_the_policys(context: AgentContext) -> str:
        try:
            await with_openai(context, "Hi")
        except Exception:  # noqa: BLE001 - what is tried
            return "8"
        return "never"

    (trajectory,) = played(
        AgentProgram(swallow_the_policys), Hanging(), renderer, policy_timeout_seconds=0.2, retries=0
    )
    assert trajectory.score.value is None


def test_a_mistake_of_the_model_that_a_function_lets_pass_is_no_bug(renderer: Renderer) -> None:
    async def play(context: AgentContext) -> str:
        return await context.call("no_such_tool")

    (trajectory,) = played(AgentProgram(play), scripted(renderer, "8"), renderer)
    assert trajectory.score.value == 0.0
    assert "there is no tool 'no_such_tool'" in trajectory.info["program"]


def test_a_timeout_of_the_programs_own_is_a_bug(renderer: Renderer) -> None:
    async def play(context: AgentContext) -> str:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        played(AgentProgram(play), scripted(renderer, "8"), renderer)


def test_a_bug_in_a_function_is_raised_with_its_place(renderer: Renderer) -> None:
    async def play(context: AgentContext) -> str:
        raise KeyError("my_bug")

    with pytest.raises(KeyError, match="my_bug") as raised:
        played(AgentProgram(play), scripted(renderer, "8"), renderer)
    assert any("the program, with task 't4'" in note for note in raised.value.__notes__)


def test_a_program_is_evaluated_as_any_policy_is(tiny: TransformersPolicy, renderer: Renderer) -> None:
    """A loop like the engine's own, in OpenAI's SDK, on a real environment and a real model."""

    async def play(context: AgentContext) -> str:
        openai = pytest.importorskip("openai")
        client = openai.AsyncOpenAI(base_url=context.base_url, api_key=context.api_key, max_retries=0)
        messages: list[Any] = [
            {"role": "system", "content": context.system_prompt}, {"role": "user", "content": context.prompt}
        ]  # fmt: skip
        async with client:
            for _ in range(4):
                answer = await client.chat.completions.create(
                    model=context.model, messages=messages, tools=list(context.tools)
                )
                message = answer.choices[0].message
                messages.append(message.model_dump(exclude_none=True))
                if not message.tool_calls:
                    return message.content or ""
                for call in message.tool_calls:
                    try:
                        text = await context.call(call.function.name, **json.loads(call.function.arguments))
                    except Exception as error:  # noqa: BLE001
                        text = str(error)
                    messages.append({"role": "tool", "tool_call_id": call.id, "content": text})
        return ""

    env = make("toolrl/DocsSearch-v0", split="test", size=60)
    engine = ProgramEngine(AgentProgram(play), tiny, renderer, sampling=SamplingParams(0.0, 64))
    seen: list[Trajectory] = []
    report = evaluate({"e": env}, None, None, tasks=8, workers=engine, on_trajectory=seen.append)["e"]
    expected = evaluate({"e": env}, tiny, renderer, tasks=8, sampling=SamplingParams(0.0, 64))["e"]
    engine.close()
    env.close()
    assert len(seen) == 8
    assert report.unscored == 0
    assert report.success == pytest.approx(expected.success, abs=0.13)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "a function or a command, and not both"),
        ({"function": print, "command": ["x"]}, "and not both"),
        ({"command": ["x"], "seconds": 0}, "seconds must be positive"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AgentProgram(**settings)


def test_what_cannot_be_started_or_has_no_tokens_is_said(renderer: Renderer) -> None:
    with pytest.raises(ConfigError, match="'no-such-program' cannot be started"):
        played(AgentProgram(command=["no-such-program"]), scripted(renderer, "8"), renderer)
    with pytest.raises(ConfigError, match="needs a policy that samples tokens"):
        ProgramEngine(AgentProgram(command=["x"]), ScriptedChatPolicy([]), None)
    with pytest.raises(ConfigError, match=r"GatewayLimits\.calls must be at least 1, got 0"):
        GatewayLimits(calls=0)


def test_episodes_run_at_the_same_time(renderer: Renderer) -> None:
    together = asyncio.Event()
    there = 0

    async def play(context: AgentContext) -> str:
        nonlocal there
        there += 1
        if there == 8:
            together.set()
        await asyncio.wait_for(together.wait(), 20)
        return "x"

    assert len(played(AgentProgram(play), scripted(renderer, "8"), renderer, count=8)) == 8


@pytest.mark.parametrize("limits", [GatewayLimits(calls=1), GatewayLimits(completion_tokens=3)])
def test_an_agent_that_has_used_up_its_calls_or_tokens_has_no_answer(
    tiny: TransformersPolicy, renderer: Renderer, limits: GatewayLimits
) -> None:
    """Its SDK raises what it is told, which is no bug of the agent's; another error is."""

    async def greedy(context: AgentContext) -> str:
        openai = pytest.importorskip("openai")
        messages: list[Any] = [{"role": "user", "content": context.prompt}]
        async with openai.AsyncOpenAI(base_url=context.base_url, api_key=context.api_key, max_retries=0) as client:
            while True:
                answer = await client.chat.completions.create(model=context.model, messages=messages)
                messages.append(answer.choices[0].message.model_dump(exclude_none=True))
                messages.append({"role": "user", "content": "Go on."})

    (trajectory,) = played(AgentProgram(greedy, limits=limits), tiny, renderer)
    assert (trajectory.stop, trajectory.score.value) == (StopReason.TOKENS, 0.0)
    assert trajectory.turns
