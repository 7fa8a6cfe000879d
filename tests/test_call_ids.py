"""Promises about call ids: every path matches results to calls by them."""

from __future__ import annotations

import asyncio

import pytest

from tests.chat.families import tokenizer_of
from toolrl import Limits, Message, Renderer, Score, Task, ToolCall, tool
from toolrl.chat.dialects import DIALECTS
from toolrl.episode import EpisodeSession
from toolrl.rewards.grader import Grader, Reward
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
        session = EpisodeSession(Task("t", "Go."), Toolbox([echo]), Grader(reward), Limits(), "", ResourceScope())
        async with session:
            for turn in turns:
                await session.advance(turn)
        return session.messages

    return asyncio.run(run())


def says(*texts: str, id: str = "same") -> Message:
    return Message("assistant", "", tuple(ToolCall("echo", {"text": text}, id=id) for text in texts))


def test_call_ids_are_unique_in_an_episode_and_each_result_has_its_calls_id() -> None:
    messages = play(says("a", "b"), says("c"), says("d", id=""), says("e", id="call_3_0"))
    calls = [call for message in messages for call in message.tool_calls]
    told = {message.tool_call_id: message.content for message in messages if message.role == "tool"}
    assert [told[call.id] for call in calls] == ["<a>", "<b>", "<c>", "<d>", "<e>"]
    assert calls[0].id == "same"


# Some templates look up results by the ids of their calls.
BY_ID = """
{%- for message in messages %}{% if message.role != "tool" %}
{{- "<|im_start|>" + message.role + "\n" + message.content }}
{%- for call in message.tool_calls or [] %}
{{- "<tool_call>\n" + {"name": call.function.name, "arguments": call.function.arguments}|tojson + "\n</tool_call>" }}
{%- endfor %}{{ "<|im_end|>\n" }}
{%- set at = loop.index %}
{%- for call in message.tool_calls or [] %}{% for told in messages[at:at + message.tool_calls|length] %}
{%- if told.role == "tool" and told.tool_call_id == call.id %}
{{- "<|im_start|>tool\n" + told.content + "<|im_end|>\n" }}{% endif %}
{%- endfor %}{% endfor %}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\n" }}{% endif %}"""


def test_a_template_that_looks_results_up_by_id_shows_each_once() -> None:
    renderer = Renderer(tokenizer_of("qwen2_5"), chat_template=BY_ID)
    told = [Message("tool", text, name="echo", tool_call_id="same") for text in ("first", "second")]
    shown = renderer.decode(renderer.observation_ids(told))
    assert (shown.count("first"), shown.count("second")) == (1, 1)
    assert shown.index("first") < shown.index("second")


@pytest.mark.parametrize("name", ["kimi-k2", "mistral", "cohere"])
def test_ids_that_a_model_repeats_in_its_text_are_made_unique(name: str) -> None:
    dialect = DIALECTS[name]
    turn = dialect.format(says("a", id=""))
    turns = [dialect.parse(turn, Toolbox([echo]).schemas) for _ in range(2)]
    calls = [call for message in play(*turns) for call in message.tool_calls]
    assert len({call.id for call in calls}) == 2
