"""Promises about the reward for instructions: strict and loose as in IFEval, nothing for an empty effort."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from toolrl import ConfigError, Episode, Task, TaskError, TaskSet, ToolCall, ToolResult
from toolrl.rewards.instructions import (
    Instruction,
    follows_loosely,
    follows_strictly,
    ifeval_task,
    instruction_kind,
    instruction_kinds,
    instructions_of,
    instructions_reward,
    is_echo,
    make_instruction,
    registry,
)


def task_of(*instructions: tuple[str, dict[str, Any]], prompt: str = "Please write something nice for me.") -> Task:
    ids, kwargs = zip(*instructions, strict=True)
    return ifeval_task({"key": 1, "prompt": prompt, "instruction_id_list": list(ids), "kwargs": list(kwargs)}, 0)


NO_COMMA: tuple[str, dict[str, Any]] = ("punctuation:no_comma", {})
TITLE: tuple[str, dict[str, Any]] = ("detectable_format:title", {})


def test_authors_add_kinds_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "kinds", dict(registry.kinds))

    @instruction_kind("mine:greeting")
    class Greeting(Instruction):
        name: str

        def check(self, response: str) -> bool:
            return response.startswith(f"Dear {self.name}")

    assert "mine:greeting" in instruction_kinds()
    task = task_of(("mine:greeting", {"name": "Ada"}), NO_COMMA)
    assert instructions_reward()(task, Episode("Dear Ada. Hello")).value == 1.0
    score = instructions_reward()(task, Episode("Dear Eve. Hello"))
    assert (score.value, score.parts["mine:greeting"]) == (0.0, 0.0)
    instruction_kind("mine:greeting")(Greeting)  # as when a notebook cell runs twice
    with pytest.raises(ConfigError, match=r"'punctuation:no_comma' is already the id of .*NoComma"):
        instruction_kind("punctuation:no_comma")(Greeting)
    with pytest.raises(ConfigError, match="form 'group:name', got 'greeting'"):
        instruction_kind("greeting")


# ---- strict and loose


@pytest.mark.parametrize(
    ("id", "kwargs", "response"),
    [
        ("punctuation:no_comma", {}, "Sure, here it is:\nNo comma."),
        ("punctuation:no_comma", {}, "No comma.\nI hope, it helps."),
        ("punctuation:no_comma", {}, "Sure, here:\nNo comma.\nI hope, it helps."),
        ("startend:end_checker", {"end_phrase": "The end."}, "A poem. **The end.**"),
        ("startend:quotation", {}, 'Sure:\n**"A poem."**\nBye'),
        ("detectable_format:json_format", {}, "Here it is:\n{}"),
    ],
)
def test_loose_forgives_a_first_line_a_last_line_and_asterisks(id: str, kwargs: dict[str, Any], response: str) -> None:
    instruction = make_instruction(id, kwargs)
    assert not follows_strictly(instruction, response)
    assert follows_loosely(instruction, response)
    task, episode = task_of((id, kwargs)), Episode(response)
    assert instructions_reward("strict")(task, episode).value == 0.0
    assert instructions_reward("loose")(task, episode).value == 1.0


def test_loose_forgives_nothing_else() -> None:
    assert not follows_loosely(make_instruction("punctuation:no_comma"), "ok\nNo, comma.\nok")


# ---- the reward


def test_parts_name_each_kind_and_both_levels_in_both_modes() -> None:
    words = "length_constraints:number_words"
    task = task_of(
        NO_COMMA, (words, {"num_words": 2, "relation": "at least"}), (words, {"num_words": 4, "relation": "less than"})
    )
    score = instructions_reward()(task, Episode("Sure, I can:\na b"))
    assert score.parts == {
        "correct": 0.0,
        "punctuation:no_comma": 0.0,
        words: 0.5,
        "prompt_strict": 0.0,
        "prompt_loose": 1.0,
        "instruction_strict": pytest.approx(1 / 3),
        "instruction_loose": 1.0,
    }
    assert not score.success
    assert "NoComma()" in score.reason
    assert "num_words=4" in score.reason
    assert instructions_reward("loose")(task, Episode("Sure, I can:\na b")).success


def test_partial_credit_is_the_share_and_stays_below_full_credit_after_any_calls() -> None:
    task = task_of(NO_COMMA, TITLE)
    half, whole = "No title here", "<<a>> b"
    assert instructions_reward(partial=True)(task, Episode(half)).value == 0.5
    assert instructions_reward()(task, Episode(half)).value == 0.0
    calls = tuple(ToolResult(ToolCall("word_count"), "1") for _ in range(9))
    costly = instructions_reward(partial=True, call_cost=0.1)
    assert (costly(task, Episode(half)).value, costly(task, Episode(half, calls)).value) == (0.25, 0.25)
    assert [costly(task, Episode(whole, calls[:n])).value for n in (0, 2, 9)] == [1.0, 0.8, 0.5]


@pytest.mark.parametrize("response", [None, "", " \n"])
def test_no_response_earns_nothing_in_any_mode(response: str | None) -> None:
    for mode in ("strict", "loose"):
        score = instructions_reward(mode, partial=True)(task_of(NO_COMMA), Episode(response))  # type: ignore[arg-type]
        assert (score.value, score.success) == (0.0, False)


PROMPT = "Write a poem about bees and their hive. Include the keywords honey and <<queen>>."


@given(
    copies=st.integers(1, 4),
    change=st.sampled_from([str.upper, str.lower, str.title, lambda text: f"**{text}**", lambda text: f'"{text}"']),
    joiner=st.sampled_from(["\n", " ", "\n******\n", " ... "]),
)
def test_an_echo_of_the_prompt_earns_nothing(copies: int, change: Any, joiner: str) -> None:
    task = task_of(("keywords:existence", {"keywords": ["honey", "queen"]}), TITLE, prompt=PROMPT)
    echo = joiner.join([change(PROMPT)] * copies)
    assert all(follows_loosely(instruction, echo) for instruction in instructions_of(task))
    assert instructions_reward("loose", partial=True)(task, Episode(echo)).value == 0.0
    assert instructions_reward("loose")(task, Episode(f"{echo}\nThe queen flies out.")).value == 1.0


def test_a_short_quotation_of_the_prompt_is_not_an_echo() -> None:
    prompt = "Are hamburgers sandwiches? Choose one of: My answer is yes. My answer is no. My answer is maybe."
    assert not is_echo("My answer is no.", prompt)
    assert instructions_reward()(
        task_of(("detectable_format:constrained_response", {}), prompt=prompt), Episode("My answer is no.")
    ).success
    assert is_echo(prompt.removeprefix("Are hamburgers sandwiches?"), prompt)
    assert not is_echo("anything", "")


def test_invalid_settings_are_rejected_when_the_reward_is_made() -> None:
    with pytest.raises(ConfigError, match="mode must be 'strict' or 'loose', got 'lax'"):
        instructions_reward("lax")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="call cost must be >= 0"):
        instructions_reward(call_cost=-0.1)


# ---- IFEval's format


def test_rows_of_ifeval_are_read_and_broken_ones_reported(tmp_path: Path) -> None:
    row = {"key": 7, "prompt": "Hi.", "instruction_id_list": [NO_COMMA[0]], "kwargs": [{}]}
    full = {**row, "key": 8, "kwargs": [{"num_words": None, "relation": None}]}  # as on the hub
    path = tmp_path / "input_data.jsonl"
    path.write_text(f"{json.dumps(row)}\n{json.dumps(full)}\n")
    first, second = TaskSet.read(path, ifeval_task)
    assert (first.id, first.prompt, first.kind) == ("7", "Hi.", NO_COMMA[0])
    assert first.answer == second.answer == {"instruction_id_list": [NO_COMMA[0]], "kwargs": [{}]}
    assert json.loads(json.dumps(first.answer)) == first.answer
    for change, message in (
        ({"kwargs": []}, "got 1 ids and 0 kwargs"),
        ({"instruction_id_list": ["no:such"]}, "no kind of instruction has the id 'no:such'"),
        ({"instruction_id_list": [], "kwargs": []}, "got 0 ids and 0 kwargs"),
        ({"instruction_id_list": ["detectable_format:number_bullet_lists"]}, "num_bullets: Field required"),
        ({"prompt": None}, "prompt must be text"),
        ({"kwargs": None}, "must be lists"),
    ):
        path.write_text(f"{json.dumps(full)}\n{json.dumps({**row, **change})}\n")
        with pytest.raises(TaskError, match=rf"input_data.jsonl, line 2: .*{message}"):
            TaskSet.read(path, ifeval_task)


def test_a_task_of_another_form_is_reported() -> None:
    with pytest.raises(TaskError, match="task 't': expected an object with instruction_id_list and kwargs, got '42'"):
        instructions_reward()(Task("t", "?", "42"), Episode("x"))
