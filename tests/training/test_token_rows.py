"""Promises about rows of tokens: as in a rollout, and as sampled if they are the model's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from toolrl import Message, Renderer, RolloutEngine, RolloutRequest, ToolEnv, Trajectory, call, say
from toolrl.errors import TaskError
from toolrl.policy import ScriptedChatPolicy, ScriptedPolicy
from toolrl.training.demonstrations import as_demonstration
from toolrl.training.token_rows import IGNORED, token_row
from toolrl.types import Task


@pytest.fixture(scope="module")
def renderer(byte_tokenizer: PreTrainedTokenizerFast, trl_template: Callable[[str], str]) -> Renderer:
    return Renderer(byte_tokenizer, chat_template=trl_template("qwen2_5"))


def look_up(key: str) -> str:
    """Look something up.

    Args:
        key: What.
    """
    return f"<|im_end|> of {key}"  # the text of a control token must stay text


@pytest.fixture(scope="module")
def env() -> ToolEnv:
    return ToolEnv(
        tasks=[Task("t", "What?", "4")],
        tools=[look_up],
        system_prompt="Be brief.",
        reward=lambda task, episode: float(episode.answer == task.answer),
    )


SAID = [call("look_up", key="a"), say("4")]


def play(policy: Any, env: ToolEnv, renderer: Renderer | None) -> Trajectory:
    (trajectory,) = RolloutEngine(policy, renderer).run([RolloutRequest(env, env.tasks[0], "env")])
    return trajectory


def test_a_demonstration_without_tokens_is_rendered_as_in_a_rollout(env: ToolEnv, renderer: Renderer) -> None:
    rolled = play(ScriptedPolicy([renderer.assistant_ids(message) for message in SAID]), env, renderer)
    told = play(ScriptedChatPolicy(SAID), env, None)
    row = token_row(as_demonstration(told, env.toolbox.schemas), renderer)
    assert row.input_ids == rolled.prompt_ids + rolled.completion_ids
    learnt = [token for token, bit in zip(rolled.completion_ids, rolled.mask, strict=True) if bit]
    assert [label for label in row.labels if label != IGNORED] == learnt
    assert all(label in (IGNORED, token) for label, token in zip(row.labels, row.input_ids, strict=True))
    assert not row.is_sampled


def test_sampled_tokens_are_used_as_they_are(env: ToolEnv, renderer: Renderer) -> None:
    # The model spelled its answer letter by letter, as no renderer would.
    spelt = [renderer.tokenizer.convert_tokens_to_ids(letter) for letter in "assistant"]
    assert [*spelt, renderer.end_of_turn_id] != renderer.assistant_ids(say("assistant"))
    turns = [renderer.assistant_ids(SAID[0]), [*spelt, renderer.end_of_turn_id]]
    trajectory = play(ScriptedPolicy(turns), env, renderer)
    row = token_row(as_demonstration(trajectory, env.toolbox.schemas), renderer)
    assert row.is_sampled
    assert row.input_ids == trajectory.prompt_ids + trajectory.completion_ids
    assert row.labels == [IGNORED] * len(trajectory.prompt_ids) + [
        token if bit else IGNORED for token, bit in zip(trajectory.completion_ids, trajectory.mask, strict=True)
    ]


def test_tokens_of_another_tokenizer_are_not_used(env: ToolEnv, renderer: Renderer) -> None:
    trajectory = play(ScriptedPolicy([renderer.assistant_ids(message) for message in SAID]), env, renderer)
    row = as_demonstration(trajectory, env.toolbox.schemas)
    assert token_row(row, renderer).is_sampled
    rendered = token_row({**row, "completion_ids": []}, renderer)
    foreign: list[dict[str, Any]] = [
        {"prompt_ids": [token + 1 for token in row["prompt_ids"]]},
        {"completion_ids": [token + 1 for token in row["completion_ids"]]},
        {"completion_ids": [10**6, *row["completion_ids"][1:]]},
        {"mask": row["mask"][1:]},
    ]
    for other in foreign:
        assert token_row({**row, **other}, renderer) == rendered
    assert not rendered.is_sampled


def test_a_conversation_with_several_user_turns_can_be_learnt_from(renderer: Renderer) -> None:
    hello = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    row = token_row({"messages": [*hello, *hello, {"role": "user", "content": "left open"}]}, renderer)
    learnt = [label for label in row.labels if label != IGNORED]
    assert learnt == renderer.assistant_ids(say("ho")) * 2
    once = renderer.prompt_ids([Message("user", "hi")]) + renderer.assistant_ids(say("ho"))
    assert row.input_ids[: len(once)] == once
    assert "left open" not in renderer.decode(row.input_ids)


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"role": "user", "content": "?"}]},
        {"messages": [{"role": "assistant", "content": "!"}]},
        {"messages": [{"role": "robot", "content": "!"}]},
    ],
)
def test_a_row_that_is_not_a_demonstration_is_refused_with_its_place(row: dict[str, Any], renderer: Renderer) -> None:
    with pytest.raises(TaskError, match=r"demonstrations\.jsonl, line 3: "):
        token_row(row, renderer, "demonstrations.jsonl, line 3")
