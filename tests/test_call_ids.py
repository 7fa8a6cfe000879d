"""Promises about the ids of calls: results are told apart by them, in every path."""

from __future__ import annotations

import asyncio

import pytest

from tests.chat.families import TEMPLATES, WITH_TOOLS, tokenizer_of
from toolrl import Limits, Message, Renderer, Score, Task, TemplateError, ToolCall, tool
from toolrl.chat.dialects import DIALECTS
from toolrl.episode import EpisodeSession, Reward
from toolrl.tools import Toolbox
from toolrl.tools.resources import ResourceScope


@tool
def echo(text: str) -> str:
    """Say it again.

    Args:
        text: What to say.
    """
    return f"<{text}>"


def play(*turns: Message) -> list[Message]:
    reward: Reward = lambda task, episode: Score(1.0)

    async def run() -> list[Message]:
        session = EpisodeSession(Task("t", "Go."), Toolbox([echo]), reward, Limits(), "", ResourceScope())
        async with session:
            for turn in turns:
                await session.advance(turn)
        return session.messages

    return asyncio.run(run())


def says(*texts: str, id: str = "same") -> Message:
    return Message("assistant", "", tuple(ToolCall("echo", {"text": text}, id=id) for text in texts))


def test_no_two_calls_of_an_episode_have_one_id_and_each_result_has_its_calls() -> None:
    messages = play(says("a", "b"), says("c"), says("d", id=""), says("e", id="call_3_0"))
    calls = [call for message in messages for call in message.tool_calls]
    told = {message.tool_call_id: message.content for message in messages if message.role == "tool"}
    assert [told[call.id] for call in calls] == ["<a>", "<b>", "<c>", "<d>", "<e>"]
    assert calls[0].id == "same"


@pytest.mark.parametrize("name", [name for name in WITH_TOOLS if not name.endswith("_training")])
def test_two_calls_with_one_id_are_shown_their_own_outputs(name: str) -> None:
    try:
        renderer = Renderer(tokenizer_of(name), chat_template=TEMPLATES[name])
    except TemplateError:
        pytest.skip("refused")
    told = [Message("tool", text, name="echo", tool_call_id="same") for text in ("first", "second")]
    if renderer._chat.one_call:
        return
    shown = renderer.decode(renderer.observation_ids(told))
    assert (shown.count("first"), shown.count("second")) == (1, 1)


@pytest.mark.parametrize("name", ["kimi-k2", "mistral", "cohere"])
def test_ids_that_a_model_repeats_in_its_text_are_made_unique(name: str) -> None:
    dialect = DIALECTS[name]
    turn = dialect.format(says("a", id=""))
    turns = [dialect.parse(turn, Toolbox([echo]).schemas) for _ in range(2)]
    calls = [call for message in play(*turns) for call in message.tool_calls]
    assert len({call.id for call in calls}) == 2
