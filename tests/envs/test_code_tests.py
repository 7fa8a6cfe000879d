"""Promises about coding tasks: each format is read, its solutions pass, and rows that cannot be graded are skipped."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import zlib
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from toolrl import ConfigError, Task, TaskError, ToolEnv
from toolrl.chat import HermesDialect
from toolrl.rewards import AssertTest, CallTest, CodeSuite, StdioTest
from toolrl_envs.code_tests import CodeTestsEnv
from toolrl_envs.code_tests.formats import read_problem
from toolrl_envs.code_tests.sources import load_problems

MBPP = {
    "task_id": 601,
    "text": "Write a function to find half of a number.",
    "code": "def helper(n):\r\n  return n / 2\r\ndef half(n):\r\n  return helper(n)",
    "test_list": ["assert half(4) == 2", "assert half(-6)==-3", "assert set([half(3)]) == {1.5}"],
    "test_setup_code": "",
    "challenge_test_list": ["assert half(0) == 0.0"],
}
SANITIZED = {
    "task_id": 602,
    "prompt": "Write a function to find the area of a circle.",
    "code": "import math\ndef area(r):\n  return math.pi * r * r",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(area(1), 3.14159265, rel_tol=0.001)", "assert area(0) == 0"],
}
HUMAN_EVAL = {
    "task_id": "Own/38",
    "prompt": (
        "from typing import List\n\n\ndef backwards(items: List[int]) -> List[int]:\n    return items[::-1]\n\n\n"
        'def restore(items: List[int]) -> List[int]:\n    """ Undo backwards.\n    >>> restore([2])\n    [2]\n    """\n'
    ),
    "canonical_solution": "    return items[::-1]\n",
    "entry_point": "restore",
    "test": (
        "\n\nMETADATA = {'author': 'us'}\n\n\ndef check(candidate):\n    from random import randint\n"
        "    for _ in range(10):\n        items = [randint(0, 9) for _ in range(5)]\n"
        "        assert candidate(backwards(items)) == items\n"
    ),
}
PLAIN_CHECK = {
    **HUMAN_EVAL,
    "task_id": "Own/39",
    "test": "def check(candidate):\n    assert True, 'x'\n    assert candidate([1, 2]) == [2, 1], 'first'\n"
    "    assert candidate([]) == []\n",
}
PUBLIC = [{"input": "2\n3 4\n", "output": "7\n", "testtype": "stdin"}]
PRIVATE = [{"input": "1\n5\n", "output": "5\n", "testtype": "stdin"}]
LIVE = {
    "question_id": "abc301_a",
    "question_title": "Sum",
    "question_content": "Print the sum.",
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": json.dumps(PUBLIC),
    "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(json.dumps(PRIVATE)))).decode(),
    "metadata": "{}",
    "code": "input()\nprint(sum(map(int, input().split())))",
}
LEET = {
    **LIVE,
    "question_id": "2800",
    "starter_code": "class Solution:\n    def pair(self, items: List[int], k: int) -> List[int]:\n        ",
    "public_test_cases": json.dumps([{"input": "[1, 2]\n3", "output": "[2, 3]", "testtype": "functional"}]),
    "private_test_cases": json.dumps([{"input": "[5]\n0", "output": "[1, 0]", "testtype": "functional"}]),
    "metadata": json.dumps({"func_name": "pair"}),
    "code": "class Solution:\n    def pair(self, items, k):\n        return (len(items), k)",
}
FORMATS = {
    "mbpp": MBPP,
    "sanitized mbpp": SANITIZED,
    "humaneval": HUMAN_EVAL,
    "humaneval, plain": PLAIN_CHECK,
    "livecodebench": LIVE,
    "livecodebench, functions": LEET,
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def answer(env: ToolEnv, task: Task, code: str) -> dict[str, Any]:
    env.reset(options={"task": task})
    score: dict[str, Any] = env.step(f"```python\n{code}\n```")[-1]["score"]
    return score


# ---- formats


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_read_and_its_solution_passes(name: str, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", FORMATS[name])
    env = CodeTestsEnv("train", data=tmp_path / "{split}.jsonl")
    (task,) = env.tasks
    env.reset(options={"task": task})
    for message in env.oracle(task):
        _, reward, terminated, _, info = env.step(HermesDialect().format(message))
    assert terminated
    assert info["score"]["parts"]["hidden"] == 1.0, info
    assert reward == pytest.approx(0.9)
    assert answer(env, task, "def nothing(): pass")["value"] == 0.0
    env.close()


def test_the_prompt_shows_what_is_visible_and_nothing_hidden() -> None:
    problem = read_problem(MBPP)
    assert "assert half(4) == 2" in problem.prompt
    assert "half(-6)" not in problem.prompt
    assert "helper" not in problem.prompt
    assert problem.suite.visible == (CallTest("half", (4,), 2),)
    assert [type(test) for test in problem.suite.hidden] == [CallTest, AssertTest, CallTest]
    human = read_problem(HUMAN_EVAL)
    assert "Undo backwards" in human.prompt
    assert "randint" not in human.prompt
    live = read_problem(LIVE)
    assert "3 4" in live.prompt
    assert live.suite.hidden == (StdioTest("1\n5\n", "5\n"),)
    assert "def pair" in read_problem(LEET).prompt


def test_imports_and_helpers_of_humanevals_prompt_need_not_be_repeated(tmp_path: Path) -> None:
    env = CodeTestsEnv("train", data=write(tmp_path / "all.jsonl", *many(HUMAN_EVAL)))
    body = "def restore(items: List[int]) -> List[int]:\n    return backwards(items)"
    assert answer(env, env.tasks[0], body)["value"] == 1.0
    assert answer(env, env.tasks[0], body.replace("backwards(items)", "items"))["value"] == 0.0


def many(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**row, "task_id": f"Own/{number}"} for number in range(12)]


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "it ran",)

    packed = base64.b64encode(zlib.compress(pickle.dumps(Bomb()))).decode()
    with pytest.raises(TaskError, match="private_test_cases"):
        read_problem({**LIVE, "private_test_cases": packed})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?"}, "unknown format"),
        ({**MBPP, "test_list": ["assert half(4) == 2"], "challenge_test_list": []}, "hidden test"),
        ({**MBPP, "test_list": ["assert depth(Node(1)) == 1"] * 2, "code": "def depth(n): return 1"}, "Node"),
        ({**MBPP, "test_list": ["assert ("] * 2}, "no assertion calls"),
        ({**MBPP, "code": "def ("}, "not Python"),
        ({name: value for name, value in MBPP.items() if name not in ("text",)}, "'prompt' is missing"),
        ({**LIVE, "private_test_cases": "???"}, "private_test_cases"),
        ({**LEET, "metadata": "{}"}, "func_name"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        read_problem(row)


# ---- files


def test_rows_that_cannot_be_graded_are_skipped_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = {**MBPP, "task_id": 7, "test_list": ["assert half(Node(1)) == 1"]}
    path = write(tmp_path / "train.jsonl", MBPP, broken)
    with caplog.at_level(logging.WARNING):
        assert [problem.id for problem in load_problems(tmp_path / "{split}.jsonl", "train", 9, 0)] == ["601"]
    assert f"{path}, line 2" in caplog.text
    with pytest.raises(TaskError, match="no row of"):
        load_problems(write(tmp_path / "none.jsonl", broken), "train", 9, 0)
    with pytest.raises(TaskError, match="no data file"):
        load_problems(tmp_path / "missing.jsonl", "train", 9, 0)
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(TaskError, match="line 1: not valid JSON"):
        load_problems(tmp_path / "bad.jsonl", "train", 9, 0)


def test_a_file_is_divided_and_parquet_holds_the_same(tmp_path: Path) -> None:
    rows = [{**MBPP, "task_id": number, "text": f"{MBPP['text']} ({number // 2})"} for number in range(30)]
    path = write(tmp_path / "all.jsonl", *rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "all.parquet")
    train, test = (load_problems(path, split, 99, 0) for split in ("train", "test"))
    assert {p.id for p in train} | {p.id for p in test} == {str(n) for n in range(30)}
    assert not {p.prompt for p in train} & {p.prompt for p in test}  # two that ask the same are on one side
    assert load_problems(tmp_path / "all.parquet", "train", 99, 0) == train
    assert load_problems(path, "train", 5, 0) == train[:5]
    one = write(tmp_path / "one.jsonl", next(row for row in rows if str(row["task_id"]) == train[0].id))
    with pytest.raises(ConfigError, match="split='test'"):
        load_problems(one, "test", 9, 0)


# ---- the bundled set


def test_bundled_tasks_show_examples_and_hide_at_least_as_many_tests() -> None:
    for split in ("train", "test"):
        for problem in load_problems(None, split, 99, 0):
            visible, hidden = problem.suite.visible, problem.suite.hidden
            assert len(hidden) >= 4
            assert not set(map(repr, visible)) & set(map(repr, hidden))
            shown = [
                test for test in hidden if isinstance(test, CallTest) and f"({str(test.args)[1:-1]})" in problem.prompt
            ]
            assert shown == []


def test_every_bundled_solution_passes_and_every_lookup_table_of_the_visible_tests_fails() -> None:
    env = CodeTestsEnv("train", call_cost=0.0)
    for task in env.tasks:
        assert answer(env, task, task.answer)["value"] == 1.0, task
        suite = CodeSuite.from_dict(task.metadata["tests"])
        if isinstance(suite.visible[0], CallTest):
            known = [(test.args, test.expected) for test in suite.visible if isinstance(test, CallTest)]
            name = suite.visible[0].function
            table = f"def {name}(*args):\n    return next((v for k, v in {known!r} if k == args), None)"
            score = answer(env, task, table)
            assert (score["value"], score["parts"]["visible"]) == (0.0, 1.0), task
            assert score["parts"]["gap"] > 0.0


def test_neither_tests_nor_solution_are_shown() -> None:
    env = CodeTestsEnv("test")
    for task in env.tasks:
        observation, info = env.reset(options={"task": task})
        assert task.answer not in observation
        assert task.answer not in str(info)
