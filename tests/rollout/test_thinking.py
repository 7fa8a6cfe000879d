"""Promises about a thinking budget: thinking is ended for the model, and inserted tokens are never trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from toolrl import (
    ConfigError,
    Limits,
    Renderer,
    RolloutEngine,
    RolloutRequest,
    Sample,
    Task,
    TaskError,
    Trajectory,
    call,
    say,
)
from toolrl.policy import ScriptedPolicy
from toolrl.view.tokens import token_sections

BUDGET = 20
LIMITS = Limits(turn_tokens=400, completion_tokens=4000, thinking_tokens=BUDGET)


# In the first template the model opens its thinking, in the second the prompt does.
@pytest.fixture(params=["qwen3_training", "qwen3_6_training"])
def renderer(
    request: pytest.FixtureRequest, byte_tokenizer: PreTrainedTokenizerFast, trl_template: Callable[[str], str]
) -> Renderer:
    return Renderer(byte_tokenizer, chat_template=trl_template(request.param))


def test_both_ways_to_open_the_thinking_are_tried(request: pytest.FixtureRequest, renderer: Renderer) -> None:
    assert bool(renderer.opened) is ("qwen3_6" in request.node.name)


def thinker(renderer: Renderer, thoughts: str) -> ScriptedPolicy:
    """Thinks before each of two turns until it is stopped, then says the turn."""
    turns = [renderer.assistant_ids(message) for message in (call("lookup", key="a"), say("4"))]
    empty = ("<think>\n\n</think>\n\n", "\n</think>\n\n")  # how no thinking is written
    plain = [renderer.decode(turn).removeprefix(empty[0]).removeprefix(empty[1]) for turn in turns]

    def turn(ids: list[int]) -> list[int]:
        text = renderer.decode(ids)
        said = text[text.rfind("<|im_start|>assistant") :]
        if "</think>" in said:
            return renderer.text_ids(plain["<tool_response>" in text], control=True)
        opening = "" if "<think>" in said else "<think>\n"
        return renderer.text_ids(f"{opening}{thoughts}", control=True)

    return ScriptedPolicy(turn)


def play(renderer: Renderer, env: Any, thoughts: str, thinking_tokens: int | None = None) -> Trajectory:
    env.limits = LIMITS
    task = replace(env.tasks[0], thinking_tokens=thinking_tokens)
    (trajectory,) = RolloutEngine(thinker(renderer, thoughts), renderer).run([RolloutRequest(env, task)])
    return trajectory


def test_thinking_beyond_the_budget_is_ended_and_the_turn_continues(renderer: Renderer, make_env: Any) -> None:
    trajectory = play(renderer, make_env(), "and so on, " * 100)
    assert trajectory.score.success
    assert [result.failure for result in trajectory.tool_results] == [None]
    for turn in trajectory.turns:
        start, stop = turn.sample.forced
        assert start == BUDGET
        assert renderer.decode(turn.sample.token_ids[start:stop]).strip() == "</think>"
        assert turn.message.thinking.startswith("and so")
        assert turn.sample.logprobs[start:stop] == [0.0] * (stop - start)
        assert turn.sample.mask == [1] * start + [0] * (stop - start) + [1] * (len(turn.sample.token_ids) - stop)
    bits = [bit for turn in trajectory.turns for bit in [*turn.sample.mask, *([0] * len(turn.observation_ids))]]
    assert trajectory.mask == bits
    assert len(trajectory.logprobs) == len(trajectory.mask) == len(trajectory.completion_ids)


def test_a_file_keeps_inserted_tokens_and_the_page_marks_them(renderer: Renderer, make_env: Any) -> None:
    trajectory = play(renderer, make_env(), "and so on, " * 100)
    again = Trajectory.from_row(json.loads(json.dumps(trajectory.to_row())))
    assert [turn.sample for turn in again.turns] == [turn.sample for turn in trajectory.turns]
    titles = [section.title for section in token_sections(again, None)]
    assert titles[1:4] == ["turn 1, sampled", "turn 1, inserted to end the thinking", "turn 1, sampled"]


def test_thinking_within_its_budget_is_left_alone(renderer: Renderer, make_env: Any) -> None:
    closed = "short</think>\n\n4<|im_end|>"
    env = make_env()
    env.limits = replace(LIMITS, thinking_tokens=60)
    opening = "" if renderer.opened else "<think>\n"
    policy = ScriptedPolicy([renderer.text_ids(f"{opening}{closed}", control=True)])
    (trajectory,) = RolloutEngine(policy, renderer).run([RolloutRequest(env, env.tasks[0])])
    assert (trajectory.turns[0].sample.forced, trajectory.turns[0].message.thinking) == ((0, 0), "short")


def test_a_long_turn_without_thinking_is_left_alone(renderer: Renderer, make_env: Any) -> None:
    env = make_env()
    env.limits = LIMITS
    opening = "</think>\n\n" if renderer.opened else ""
    whole = renderer.text_ids(f"{opening}{'words ' * 30}<|im_end|>", control=True)
    prompts: list[int] = []

    def turn(ids: list[int]) -> list[int]:
        prompts.append(len(ids))
        return whole[len(ids) - prompts[0] :]

    (trajectory,) = RolloutEngine(ScriptedPolicy(turn), renderer).run([RolloutRequest(env, env.tasks[0])])
    assert trajectory.turns[0].sample.token_ids == whole
    assert set(trajectory.turns[0].sample.mask) == {1}
    assert len(prompts) == 2


def test_a_tasks_own_budget_takes_precedence(renderer: Renderer, make_env: Any) -> None:
    unbounded = play(renderer, make_env(), "and so on, " * 100, thinking_tokens=0)
    assert unbounded.turns[0].sample.forced == (0, 0)
    assert unbounded.stop == "tokens"
    assert play(renderer, make_env(), "and so on, " * 100, thinking_tokens=7).turns[0].sample.forced[0] == 7


def test_where_thinking_cannot_be_ended_a_budget_is_refused(
    byte_tokenizer: PreTrainedTokenizerFast, trl_template: Callable[[str], str], make_env: Any
) -> None:
    renderer = Renderer(byte_tokenizer, dialect="harmony", chat_template=trl_template("qwen2_5"))
    env = make_env()
    env.limits = LIMITS
    with pytest.raises(ConfigError, match="in the dialect 'harmony' thinking cannot be ended"):
        RolloutEngine(ScriptedPolicy([[1]]), renderer).run([RolloutRequest(env, env.tasks[0])])


def test_a_budget_is_a_number_of_tokens() -> None:
    with pytest.raises(ValueError, match="thinking_tokens must not be negative"):
        Limits(thinking_tokens=-1)
    for wrong in (-1, "20", True):
        with pytest.raises(TaskError, match="thinking_tokens must"):
            Task("t", "p", thinking_tokens=wrong)  # type: ignore[arg-type]


def test_inserted_tokens_must_be_within_the_sample() -> None:
    with pytest.raises(ValueError, match="is not within the 2 tokens"):
        Sample([1, 2], [0.0, 0.0], forced=(1, 3))
