"""Promises of the policy behind a chat API: what it sends, and how it reads the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.policy.chat_server import Answer, ChatServer, says, serving
from toolrl import Message, RetryPolicy, SamplingParams, ToolCall
from toolrl.chat.wire import from_wire, with_thinking_split
from toolrl.errors import ConfigError, PolicyFault
from toolrl.policy import ChatPolicy, ChatReply, Endpoint, OpenAIPolicy

QUICK = RetryPolicy(requests_per_second=None, first_delay_seconds=0.0, attempts=2)
TOOLS = [{"type": "function", "function": {"name": "f", "description": "Do.", "parameters": {"type": "object"}}}]
CONVERSATION = [
    Message("system", "Be brief."),
    Message("user", "What is f(1)?"),
    Message("assistant", "", (ToolCall("f", {"x": 1}, "c0"),), thinking="call it"),
    Message("tool", "2", name="f", tool_call_id="c0"),
]


@pytest.fixture
def ask() -> Iterator[Callable[..., ChatReply]]:
    made: list[OpenAIPolicy] = []

    def ask(server: ChatServer, messages: Any = CONVERSATION, tools: Any = TOOLS, **settings: Any) -> ChatReply:
        made.append(OpenAIPolicy(Endpoint("m", server.url, retry_policy=QUICK, timeout_seconds=5.0), **settings))
        return asyncio.run(made[-1].reply(messages, tools, SamplingParams(0.5, 99)))

    yield ask
    for policy in made:
        policy.close()


def test_a_request_has_the_conversation_the_tools_and_the_limits(ask: Callable[..., ChatReply]) -> None:
    with serving(says("2")) as server:
        ask(server, request={"reasoning_effort": "low", "seed": 1})
        (request,) = server.requests
    call = {"id": "c0", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    assert request == {
        "path": "/v1/chat/completions",
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is f(1)?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "2", "tool_call_id": "c0"},
        ],
        "tools": TOOLS,
        "temperature": 0.5,
        "max_tokens": 99,
        "reasoning_effort": "low",
        "seed": 1,
    }


def test_without_tools_none_are_sent(ask: Callable[..., ChatReply]) -> None:
    with serving(says("2")) as server:
        ask(server, tools=[])
        assert "tools" not in server.requests[0]


def test_parallel_calls_thinking_and_tokens_are_read(ask: Callable[..., ChatReply]) -> None:
    answer = says("two calls", ("f", '{"x": 1}'), ("g", '{"x":'), reasoning_content="hm", usage=(70, 30, 0))
    with serving(answer) as server:
        reply = ask(server, CONVERSATION[:2])
    assert (reply.message.content, reply.message.thinking, reply.finish) == ("two calls", "hm", "stop")
    assert (reply.input_tokens, reply.output_tokens) == (70, 30)
    first, second = reply.message.tool_calls
    assert first == ToolCall("f", {"x": 1}, "c0", raw='{"x": 1}')
    assert (second.name, second.raw) == ("g", '{"x":')
    assert second.error is not None
    assert "not valid JSON" in second.error


def test_ids_that_a_server_gives_twice_are_left_to_the_episode(ask: Callable[..., ChatReply]) -> None:
    with serving(says(None, ("f", "{}"), ("f", "{}"))) as server:
        reply = ask(server)  # the conversation already has a c0
    assert [call.id for call in reply.message.tool_calls] == ["", "c1"]


def test_a_cut_turn_says_so(ask: Callable[..., ChatReply]) -> None:
    with serving(says("once upon a", finish="length")) as server:
        assert ask(server).finish == "length"


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": "context_length_exceeded", "message": "..."}},
        {"object": "error", "message": "This model's maximum context length is 2048 tokens."},
    ],
)
def test_a_full_context_ends_the_turn_as_a_limit_does(ask: Callable[..., ChatReply], body: Any) -> None:
    with serving(Answer(body, status=400)) as server:
        assert ask(server) == ChatReply(Message("assistant", ""), "length")


def test_a_turn_gets_the_room_that_is_left(ask: Callable[..., ChatReply]) -> None:
    full = "This model's maximum context length is 2048 tokens. However, you requested 2089 tokens "
    full += "(1990 in the messages, 99 in "
    with serving(Answer(f"{full}the completion).", status=400), says("cut", finish="length")) as server:
        assert (ask(server).message.content, ask(server).finish) == ("cut", "length")
        assert [request["max_tokens"] for request in server.requests][:2] == [99, 58]
    clipped = (
        "You passed 1950 input tokens and requested 99 output tokens. However, the model's context length is only 2048"
    )
    with serving(*[Answer(clipped, status=400)] * 2, says("2")) as server:  # counted only until they no longer fit
        assert ask(server).message.content == "2"
        assert [request["max_tokens"] for request in server.requests] == [99, 98, 49]
    with serving(Answer(clipped, status=400)) as server:
        assert ask(server).finish == "length"
        assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("content", "thinking", "said"),
    [
        ("<think>maybe <answer>1</answer></think><answer>2</answer>", "maybe <answer>1</answer>", "<answer>2</answer>"),
        ("maybe 1\n</think>\n\n2", "maybe 1", "2"),
        ("\n<thinking>\n1</thinking> 2", "1", "2"),
        ("<reasoning>1</reasoning>\n2", "1", "2"),
        ("<thought>1</thought>2", "1", "2"),
        ("[THINK]1[/THINK]2", "1", "2"),
        ("◁think▷1◁/think▷2", "1", "2"),
        ("<seed:think>1</seed:think>2", "1", "2"),
        ("<|channel>thought\n1<channel|>2", "1", "2"),
        ("<|begin_of_thought|>1<|end_of_thought|>2", "1", "2"),
        ("<|channel|>analysis<|message|>1<|end|><|start|>assistant<|channel|>final<|message|>2<|return|>", "1", "2"),
        ("analysis1assistantfinal2", "1", "2"),
        ("<Think>1</THINK>2", "1", "2"),
        ("<think>1", "1", ""),
        ("<think></think>2", "", "2"),
        ("<think>1</think>a<think>3</think>b", "1\n\n3", "ab"),
        ("So. <think>1</think>2", "1", "So. 2"),
        ("The tag `</think>` ends it.", "", "The tag `</think>` ends it."),
        ("```python\nprint('<think>1</think>')\n```", "", "```python\nprint('<think>1</think>')\n```"),
        ('{"tag": "</think>"}', "", '{"tag": "</think>"}'),
        ("What do you <think> of it?", "", "What do you <think> of it?"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "1"}]}, {"type": "text", "text": "2"}], "1", "2"),
    ],
)
def test_thoughts_in_the_content_are_separated(content: Any, thinking: str, said: str) -> None:
    message = with_thinking_split(from_wire({"role": "assistant", "content": content}))
    assert (message.thinking, message.content) == (thinking, said)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_in_a_field_of_their_own_are_kept(ask: Callable[..., ChatReply], field: str) -> None:
    with serving(says("<think>b</think>2", **{field: "a"})) as server:
        message = ask(server).message
    assert (message.thinking, message.content) == ("a\n\nb", "2")


def test_a_turn_that_the_servers_filter_stopped_is_not_scored(ask: Callable[..., ChatReply]) -> None:
    with serving(says("half", finish="content_filter")) as server:
        with pytest.raises(PolicyFault, match="content filter"):
            ask(server)
        assert len(server.requests) == 1
    with serving(says("half", finish="insufficient_system_resource"), says("2")) as server:
        assert ask(server).message.content == "2"
    with serving(says("half", finish="model_length")) as server:
        assert ask(server).finish == "length"


@pytest.mark.parametrize(
    "answer",
    [
        Answer({"choices": []}),
        Answer({"error": "overloaded"}),
        Answer({"choices": [{"message": None}]}),
        Answer({"choices": [None]}),
        Answer({"choices": [{"message": {"content": 7}}]}),
    ],
)
def test_an_answer_without_a_message_is_retried_and_then_a_fault(ask: Callable[..., ChatReply], answer: Answer) -> None:
    with serving(answer, says("2")) as server:
        assert ask(server).message.content == "2"
    with serving(answer) as server, pytest.raises(PolicyFault, match="no message in the answer"):
        ask(server)


def test_fields_that_the_policy_sets_are_refused() -> None:
    endpoint = Endpoint("m", "http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="request must not have 'stream'"):
        OpenAIPolicy(endpoint, request={"stream": True})
    assert isinstance(OpenAIPolicy(endpoint), ChatPolicy)
