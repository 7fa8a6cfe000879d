"""Promises about `toolrl/PythonMath-v0`: its generator, and the files it reads."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from toolrl import ConfigError, TaskError, ToolEnv, make
from toolrl_envs.python_math.tasks import last_boxed

GSM8K = [
    {"question": "Natalia sold 48 clips and half as many. How many?", "answer": "48/2 = 24\n48+24 = 72\n#### 72"},
    {"question": "How many grains?", "answer": "Many. #### 3 first\n#### 1,234"},
]
MATH = [
    {"problem": "Simplify $2/4$.", "solution": r"It is $\boxed{\frac{1}{2}}$.", "level": "Level 1"},
    {"problem": "$6 \\cdot 7$?", "solution": r"Not $\boxed{41}$ but \boxed {42}."},
    {"problem": "Which?", "solution": "See there.", "answer": "x^2"},
]


def env_from(folder: Path, rows: list[dict[str, str]]) -> ToolEnv:
    pytest.importorskip("math_verify", reason="read data is graded by the extra `math`")
    path = folder / "problems-train.jsonl"
    path.write_text("".join(json.dumps({"id": f"row{n}", **row}) + "\n" for n, row in enumerate(rows)))
    return make("toolrl/PythonMath-v0", data=str(path).replace("train", "{split}"))


def answers(env: ToolEnv) -> list[str]:
    return [env.tasks.by_id(f"row{n}").answer for n in range(len(env.tasks))]


def solve(env: ToolEnv, index: int, answer: str) -> float:
    env.reset(options={"task": f"row{index}"})
    return env.step(f"<answer>{answer}</answer>")[1]


def test_the_answer_of_a_gsm8k_row_follows_the_last_hashes(tmp_path: Path) -> None:
    env = env_from(tmp_path, GSM8K)
    assert answers(env) == ["72", "1234"]
    assert env.tasks.by_id("row0").prompt == GSM8K[0]["question"]
    assert [solve(env, 0, "72"), solve(env, 0, "72.0"), solve(env, 0, "24"), solve(env, 1, "1,234")] == [
        1.0,
        1.0,
        0.0,
        1.0,
    ]


def test_the_answer_of_a_math_row_is_in_the_last_box(tmp_path: Path) -> None:
    env = env_from(tmp_path, MATH)
    assert answers(env) == [r"\frac{1}{2}", "42", "x^2"]
    assert [solve(env, 0, r"\frac{1}{2}"), solve(env, 1, "42"), solve(env, 1, "41")] == [1.0, 1.0, 0.0]


def test_a_row_keeps_its_id_or_gets_one_from_its_position(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "answer": "1", "id": "mine"}, {"prompt": "q", "answer": "2", "id": None}]
    env = env_from(tmp_path, rows)  # type: ignore[arg-type]
    assert {task.id for task in env.tasks} == {"mine", "train-1"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": "p", "solution": "left to the reader"}, "line 2: the solution has neither '####' nor"),
        ({"solution": r"\boxed{1}"}, "line 2: field 'question' is missing; it has: id, solution"),
        ({"question": "p"}, "line 2: field 'solution' is missing; it has: id, question"),
        ({"question": None, "answer": "1"}, "line 2: the prompt must be text, got None"),
    ],
)
def test_a_row_without_problem_or_answer_is_reported_with_its_line(
    tmp_path: Path, row: dict[str, str], message: str
) -> None:
    with pytest.raises(TaskError, match=rf"problems-train\.jsonl, {message}"):
        env_from(tmp_path, [GSM8K[0], row])


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{1}", "1"),
        (r"\boxed{\frac{1}{2}} tail", r"\frac{1}{2}"),
        (r"\boxed{a} and \boxed{b}", "b"),
        (r"\boxed{ {} }", "{}"),
        (r"\boxed{unclosed", None),
        ("nothing", None),
    ],
)
def test_the_last_box_is_read_with_its_braces_balanced(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


def test_the_share_of_easy_problems_is_as_requested() -> None:
    for share in (0.0, 0.25, 1.0):
        env = make("toolrl/PythonMath-v0", size=100, easy_share=share)
        easy = sum(not task.needs_tool for task in env.tasks)
        assert easy == 100 * share


def test_problems_that_need_no_tool_are_solved_by_the_oracle_without_one() -> None:
    env = make("toolrl/PythonMath-v0", size=100)
    for task in env.tasks:
        assert len(env.oracle(task)) == (2 if task.needs_tool else 1)


@pytest.mark.parametrize("word", ["+", "-", "*", "plus", "minus", "times", "Add", "Subtract", "Multiply"])
def test_the_wording_of_a_sum_difference_or_product_does_not_reveal_whether_a_tool_is_needed(word: str) -> None:
    asked = [t for t in make("toolrl/PythonMath-v0", size=4000).tasks if f"{word} " in t.prompt]
    plain = [t.needs_tool for t in asked if not re.search(r"digit|remainder|sum of", t.prompt)]
    assert 0.2 < sum(plain) / len(plain) < 0.9


def test_answers_to_data_are_compared_as_mathematics_and_to_generated_problems_as_numbers(tmp_path: Path) -> None:
    env = env_from(tmp_path, MATH)
    assert [solve(env, 0, answer) for answer in ("1/2", r"\dfrac12", "0.5", "2", "1, 1/2")] == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert [solve(env, 2, answer) for answer in ("x*x", "2x")] == [1.0, 0.0]
    env.reset(options={"task": "row0"})
    assert env.step(r"So it is $\boxed{\tfrac{1}{2}}$.")[1] == 1.0
    generated = make("toolrl/PythonMath-v0", size=5)
    generated.reset(options={"task": 0})
    assert generated.step(f"<answer>{generated.tasks[0].answer} + 0</answer>")[1] == 0.0


def test_paraphrased_problems_have_the_right_answers_and_no_words_of_the_generator() -> None:
    env = make("toolrl/PythonMath-v0", split="test", paraphrased=True)
    assert len(env.tasks) == 50
    for task in env.tasks:
        if code := task.metadata.get("code"):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(code, {})
            assert printed.getvalue().strip() == task.answer
    generated = {re.sub(r"\d+", "7", task.prompt) for task in make("toolrl/PythonMath-v0", split="test").tasks}
    assert not generated & {re.sub(r"\d+", "7", task.prompt) for task in env.tasks}
    assert 10 < sum(not task.needs_tool for task in env.tasks) < 20


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({}, "pass split='test', got 'train'"), ({"split": "test", "size": 3}, "size has no effect")],
)
def test_paraphrased_problems_are_held_out_and_fixed(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        make("toolrl/PythonMath-v0", paraphrased=True, **settings)
