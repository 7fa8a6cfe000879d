"""Promises about thinking: the same tasks with it off, on and bounded; what each costs, and which are worth it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerFast

from toolrl import Limits, Renderer, SamplingParams, Task, ToolEnv, Trajectory
from toolrl.errors import ConfigError
from toolrl.evaluation import Thinking, compare_thinking, thinking_tables
from toolrl.policy import ScriptedChatPolicy, ScriptedPolicy

TASKS = 24


@pytest.fixture(scope="module")
def renderer(byte_tokenizer: PreTrainedTokenizerFast, trl_template: Callable[[str], str]) -> Renderer:
    return Renderer(byte_tokenizer, chat_template=trl_template("qwen3"))


def make_env() -> ToolEnv:
    return ToolEnv(
        tasks=[Task(f"t{n}", f"What is twice {n}?", str(2 * n), kind=f"k{n % 2}") for n in range(TASKS)],
        reward=lambda task, episode: float(episode.answer == task.answer),
        limits=Limits(turn_tokens=400, completion_tokens=2_000),
    )


def thinker(renderer: Renderer) -> ScriptedPolicy:
    """Right after it has thought to the end, or on every third task; a guess if its thinking was ended for it."""

    def script(ids: list[int]) -> Sequence[int]:
        text = renderer.tokenizer.decode(ids)
        number = int(re.findall(r"twice (\d+)", text)[-1])
        said = text.rsplit("assistant\n", 1)[-1]
        right, wrong = f"{2 * number}<|im_end|>", "no idea<|im_end|>"
        if said.startswith("<think>\n\n</think>"):  # the template left thinking out
            turn = right if number % 3 == 0 else wrong
        elif "</think>" in said:  # it was ended by a budget
            turn = right if number % 3 else wrong
        else:
            turn = f"<think>\n{'so it is twice that, ' * 5}\n</think>\n\n{right}"
        return renderer.tokenizer.encode(turn, add_special_tokens=False)

    return ScriptedPolicy(script)


def measure(renderer: Renderer, *modes: str, seen: list[Trajectory] | None = None) -> Thinking:
    return compare_thinking(
        {"my/Env-v0": make_env()},
        thinker(renderer),
        renderer,
        modes=modes,
        sampling=SamplingParams(max_tokens=400),
        on_trajectory=None if seen is None else seen.append,
    )["my/Env-v0"]


def test_each_way_to_think_has_its_success_and_its_cost(renderer: Renderer) -> None:
    seen: list[Trajectory] = []
    found = measure(renderer, "off", "20", "on", seen=seen)
    off, bounded, on = found.modes
    assert [mode.name for mode in found.modes] == ["off", "20", "on"]
    assert [mode.success for mode in found.modes] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert off.tokens < bounded.tokens < on.tokens
    assert [mode.thought for mode in found.modes] == [0.0, 1.0, 1.0]
    assert all(mode.is_best for mode in found.modes)
    assert {t.info["thinking"] for t in seen} == {"off", "20", "on"}
    first, second = found.success.differences
    assert (first.a, first.b, second.b) == ("off", "20", "on")
    assert second.difference == pytest.approx(2 / 3)
    assert second.is_shown
    assert {row.difference for row in found.calls.differences} == {0.0}


def test_a_way_that_costs_more_and_succeeds_less_is_not_on_the_front(renderer: Renderer) -> None:
    found = measure(renderer, "on", "off", "60", "20")
    assert {mode.name: mode.is_best for mode in found.modes} == {"on": True, "off": True, "60": False, "20": True}
    table = thinking_tables({"my/Env-v0": found})[0]
    assert list(table.columns[1].cells) == ["on *", "off *", "60", "20 *"]


def test_a_template_that_cannot_leave_thinking_out_is_not_compared_with_itself(
    byte_tokenizer: PreTrainedTokenizerFast, trl_template: Callable[[str], str]
) -> None:
    plain = Renderer(byte_tokenizer, chat_template=trl_template("qwen2_5"))
    with pytest.raises(ConfigError, match="my/Env-v0: the chat template has no 'enable_thinking'"):
        measure(plain, "off", "on")
    assert [mode.name for mode in measure(plain, "30", "on").modes] == ["30", "on"]


def test_where_faults_left_nothing_scored_nothing_is_compared(renderer: Renderer) -> None:
    env = make_env()
    env.grader = replace(env.grader, reward=lambda task, episode: None)
    with pytest.raises(ConfigError, match="no task was played in both"):
        compare_thinking({"my/Env-v0": env}, thinker(renderer), renderer)


@pytest.mark.parametrize(
    ("modes", "message"),
    [
        (("on",), "two ways to think"), (("on", "on"), "two ways to think"), (("off", "deep"), "got 'deep'"),
        (("off", "0"), "got '0'"), (("off", "-3"), "got '-3'"),
    ],
)  # fmt: skip
def test_what_is_no_way_to_think_is_refused(renderer: Renderer, modes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measure(renderer, *modes)
    with pytest.raises(ConfigError, match="thinks as its server tells it to"):
        compare_thinking({"my/Env-v0": make_env()}, ScriptedChatPolicy([]), None)
