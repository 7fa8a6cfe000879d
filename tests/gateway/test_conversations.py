"""Promises of the gateway about tokens: those of a client's conversation are those of the engine, each kept once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from tests.gateway.conftest import GREEDY, Serve, Served
from toolrl import Message, Renderer, RolloutEngine, RolloutRequest, make
from toolrl.gateway import Conversations
from toolrl.gateway.gateway import Client
from toolrl.policy import ScriptedPolicy, TransformersPolicy
from toolrl.rollout import Played
from toolrl.types import Sample, ToolCall

CALL = '<tool_call>\n{"name": "python", "arguments": {"code": "print(6*7)"}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "python", "description": "Run.", "parameters": {
    "type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}}}]  # fmt: skip


def sampled(branches: Sequence[Played]) -> int:
    return sum(len(turn.sample.token_ids) for branch in branches for turn in branch.turns)


def tokens(branch: Played) -> tuple[list[int], list[int], list[float]]:
    """Ids after the prompt, their mask and log-probabilities."""
    ids, mask, logprobs = [], [], []
    for turn in branch.turns:
        ids += [*turn.sample.token_ids, *turn.observation_ids]
        mask += [*turn.sample.mask, *([0] * len(turn.observation_ids))]
        logprobs += [*turn.sample.logprobs, *([0.0] * len(turn.observation_ids))]
    return ids, mask, logprobs


async def played_by_sdk(served: Served, client: Client, env: Any, task: Any, stream: bool = False) -> str:
    """An agent as OpenAI's documentation shows it."""
    sdk = served.openai(client)
    session = env.open_episode(task)
    messages: list[Any] = [{"role": "system", "content": env.system_prompt}, {"role": "user", "content": task.prompt}]
    async with session:
        for _ in range(6):
            request = {"model": "policy", "messages": messages, "tools": env.toolbox.schemas}
            answer = await asyncio.to_thread(lambda request=request: sdk.chat.completions.create(**request))
            message = answer.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return str(message.content)
            for call in message.tool_calls:
                arguments = json.loads(call.function.arguments)
                step = await session.advance(Message("assistant", "", (ToolCall(call.function.name, arguments),)))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": step.results[0].content})
    return ""


@pytest.mark.parametrize("env_id", ["toolrl/DocsCompute-v0", "toolrl/PythonMath-v0"])
def test_a_conversation_of_openais_sdk_has_the_engines_tokens(
    served: Served, tiny: TransformersPolicy, renderer: Renderer, env_id: str
) -> None:
    env = make(env_id, split="test", size=30)
    tasks = env.tasks.take(4)
    engine = RolloutEngine(tiny, renderer, sampling=GREEDY)
    expected = engine.run([RolloutRequest(env, task, "e", task.id) for task in tasks])
    turns = 0
    for task, trajectory in zip(tasks, expected, strict=True):
        if any(call.error for turn in trajectory.turns for call in turn.message.tool_calls):
            continue  # a client is shown such a call as text
        client = served.open()
        answer = asyncio.run(played_by_sdk(served, client, env, task))
        (branch,) = client.conversations.branches()
        assert branch.prompt_ids == trajectory.prompt_ids
        ids, mask, logprobs = tokens(branch)
        assert (ids, mask) == (trajectory.completion_ids, trajectory.mask)
        assert logprobs == pytest.approx(trajectory.logprobs, abs=1e-4)
        assert answer == trajectory.turns[-1].message.content
        turns += len(branch.turns)
        served.gateway.close(client)
    env.close()
    assert turns > len(tasks)


def scripted(renderer: Renderer, *turns: str) -> ScriptedPolicy:
    """Says these in turn, whatever it is asked."""
    written = [[*renderer.text_ids(text, control=True), renderer.end_of_turn_id] for text in turns]
    calls = iter(range(10**6))
    return ScriptedPolicy(lambda ids: written[next(calls) % len(written)])


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_forks_share_what_they_have_in_common(serve: Serve, renderer: Renderer) -> None:
    served = serve(scripted(renderer, "one", "two", "three"))
    client = served.open()
    create = served.openai(client).chat.completions.create
    first = create(model="policy", messages=[user("Hello")]).choices[0].message.model_dump(exclude_none=True)
    left = create(model="policy", messages=[user("Hello"), first, user("left")]).choices[0].message.content
    right = create(model="policy", messages=[user("Hello"), first, user("right")]).choices[0].message.content
    assert (first["content"], left, right) == ("one", "two", "three")
    branches = client.conversations.branches()
    assert [len(branch.turns) for branch in branches] == [2, 1]  # the latest first, which has the shared turn
    assert sampled(branches) == sum(len(node.sample.token_ids) for node in client.conversations.nodes)
    later, earlier = branches
    assert earlier.prompt_ids[: len(later.prompt_ids)] == later.prompt_ids
    shared = [*later.prompt_ids, *later.turns[0].sample.token_ids]
    assert earlier.prompt_ids[: len(shared)] == shared


def test_history_that_was_rewritten_starts_a_conversation(serve: Serve, renderer: Renderer) -> None:
    served = serve(scripted(renderer, "one", "two", "three"))
    client = served.open()
    create = served.openai(client).chat.completions.create
    create(model="policy", messages=[user("Hello")])
    compacted = [
        {"role": "system", "content": "So far: greetings."},
        {"role": "assistant", "content": "ONE"},
        user("Go"),
    ]
    create(model="policy", messages=compacted)
    create(model="policy", messages=[user("A sub-agent's task")], tools=TOOLS)
    branches = client.conversations.branches()
    assert [len(branch.turns) for branch in branches] == [1, 1, 1]
    assert branches[1].prompt_ids == renderer.prompt_ids([Message(m["role"], m["content"]) for m in compacted])
    assert "python" in renderer.decode(branches[0].prompt_ids)


def test_a_malformed_call_reaches_the_client_as_text_and_is_kept_as_sampled(serve: Serve, renderer: Renderer) -> None:
    broken = '<tool_call>\n{"name": "python", "arguments": {"code": \n</tool_call>'
    served = serve(scripted(renderer, broken, "two"))
    client = served.open()
    create = served.openai(client).chat.completions.create
    first = create(model="policy", messages=[user("Go")], tools=TOOLS).choices[0].message
    assert not first.tool_calls
    assert '"arguments"' in first.content
    history = [user("Go"), first.model_dump(exclude_none=True), user("That was no call.")]
    create(model="policy", messages=history, tools=TOOLS)
    (branch,) = client.conversations.branches()
    assert [len(branch.turns), bool(branch.turns[0].message.tool_calls[0].error)] == [2, True]


def test_a_client_stops_reading_where_it_wants_and_the_turn_is_whole(serve: Serve, renderer: Renderer) -> None:
    served = serve(scripted(renderer, "Thought: yes\nObservation: no", "two"))
    client = served.open()
    create = served.openai(client).chat.completions.create
    first = create(model="policy", messages=[user("Go")], stop=["Observation:"]).choices[0].message
    assert first.content == "Thought: yes\n"
    create(model="policy", messages=[user("Go"), first.model_dump(exclude_none=True), user("on")])
    (branch,) = client.conversations.branches()
    assert len(branch.turns) == 2
    assert "Observation: no" in renderer.decode(branch.turns[0].sample.token_ids)


def test_both_apis_have_the_same_tokens_streamed_or_not(serve: Serve, renderer: Renderer) -> None:
    found = []
    for kind in ("openai", "openai stream", "anthropic", "anthropic stream"):
        served = serve(scripted(renderer, CALL, "<answer>42</answer>"))
        client = served.open()
        found.append((_by_openai if kind.startswith("openai") else _by_anthropic)(served, client, "stream" in kind))
        (branch,) = client.conversations.branches()
        found[-1] += (branch.prompt_ids, *tokens(branch)[:2])
    assert all(one == found[0] for one in found)
    assert found[0][:2] == ({"code": "print(6*7)"}, "<answer>42</answer>")


def _by_openai(served: Served, client: Client, stream: bool) -> tuple[Any, ...]:
    create = served.openai(client).chat.completions.create
    messages: list[Any] = [{"role": "developer", "content": "Compute."}, user("6 * 7?")]
    for _ in range(2):
        request = {"model": "policy", "messages": messages, "tools": TOOLS}
        if stream:
            content, calls = "", {}
            for chunk in create(**request, stream=True):
                for delta in [choice.delta for choice in chunk.choices]:
                    content += delta.content or ""
                    for call in delta.tool_calls or ():
                        calls[call.index] = call
            listed = [call.model_dump(include={"id", "type", "function"}) for call in calls.values()]
            message = {"role": "assistant", "content": content, **({"tool_calls": listed} if listed else {})}
        else:
            message = create(**request).choices[0].message.model_dump(exclude_none=True)
        messages.append(message)
        if "tool_calls" in message:
            (call,) = message["tool_calls"]
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": "42"})
    arguments = json.loads(messages[2]["tool_calls"][0]["function"]["arguments"])
    return arguments, messages[-1]["content"]


def _by_anthropic(served: Served, client: Client, stream: bool) -> tuple[Any, ...]:
    api = served.anthropic(client).messages
    function = TOOLS[0]["function"]
    tool = {"name": function["name"], "description": function["description"], "input_schema": function["parameters"]}
    messages: list[Any] = [{"role": "user", "content": "6 * 7?"}]
    for _ in range(2):
        request = {"model": "policy", "max_tokens": 64, "system": "Compute.", "messages": messages, "tools": [tool]}
        if stream:
            with api.stream(**request) as events:
                answer = events.get_final_message()
        else:
            answer = api.create(**request)
        messages.append(
            {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in answer.content]}
        )
        for block in answer.content:
            if block.type == "tool_use":
                result = {"type": "tool_result", "tool_use_id": block.id, "content": "42"}
                messages.append({"role": "user", "content": [result]})
    return messages[1]["content"][-1]["input"], messages[-1]["content"][0]["text"]


# ---- any tree

STEPS = strategies.lists(
    strategies.tuples(
        strategies.integers(0, 5),  # which turn is continued
        strategies.sampled_from(["append", "rewrite", "tool"]),
        strategies.sampled_from(["a", "b"]),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_each_sampled_token_is_kept_once_and_each_branch_is_what_the_policy_saw(
    renderer: Renderer, steps: list[tuple[int, str, str]]
) -> None:
    tree = Conversations(renderer)
    histories: list[list[Message]] = [[Message("user", "Start")]]
    seen: list[list[int]] = []
    for number, (which, kind, text) in enumerate([(0, "append", "a"), *steps]):
        history = list(histories[which % len(histories)])
        if kind == "rewrite":
            history = [Message("system", f"So far {text}"), *history[-1:]]
        if history[-1].role == "assistant":
            call = history[-1].tool_calls
            reply = Message("tool", text, tool_call_id=call[0].id) if call and kind == "tool" else Message("user", text)
            history.append(reply)
        place = tree.place(history, TOOLS)
        said = Message(
            "assistant", f"turn {number}", (ToolCall("python", {"code": text}, f"c{number}"),) * (number % 2)
        )
        ids = [*renderer.text_ids(f"turn {number}"), renderer.end_of_turn_id]
        tree.add(place, Sample(ids, [0.0] * len(ids), "stop"), said, said, 0.0)
        seen.append([*place.prompt_ids, *ids])
        histories.append([*history, said])
    branches = tree.branches()
    assert sampled(branches) == sum(len(node.sample.token_ids) for node in tree.nodes)
    whole = [[*branch.prompt_ids, *tokens(branch)[0]] for branch in branches]
    for ids in seen:  # what the policy saw and said is the beginning of some branch
        assert any(branch[: len(ids)] == ids for branch in whole)
    for branch in whole:
        assert branch in seen
