# ruff: noqa: E501
"""Promises about public formats of coding problems: each is read completely, and unsupported fields are refused."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.envs.test_code_tests import HUMAN_EVAL, LEET, LIVE, MBPP, answer, many, write
from toolrl import TaskError
from toolrl.rewards import AssertTest, CallTest, StdioTest, grade_code
from toolrl_envs.code_tests import CodeTestsEnv
from toolrl_envs.code_tests.formats import read_problem
from toolrl_envs.code_tests.problem import Problem
from toolrl_envs.code_tests.sources import load_problems

SUM = "print(sum(map(int, input().split())))"
ADD = "def add(a, b):\n    return a + b"
STDIN = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}
CALLS = {"fn_name": "add", "inputs": [[1, 2], [[1], [2]]], "outputs": [[3], [[1, 2]]]}
ROWS = [{"type": "stdin_stdout", "input": "1 2", "output": "3", "fn_name": None}]
FUNCTION_ROWS = [{"type": "function_call", "fn_name": "add", "input": [1, 2], "output": [3]}]
LIVE_ROWS = [{"input": "1\n2", "output": "3", "testtype": "functional", "metadata": {"func_name": "add"}}]
PLUS_TEST = """import numpy as np

def is_floats(x) -> bool:
    if isinstance(x, float):
        return True
    if isinstance(x, (list, tuple)):
        return all(isinstance(i, float) for i in x)
    if isinstance(x, np.ndarray):
        return x.dtype == np.float64 or x.dtype == np.float32
    return False

def assertion(out, exp, atol):
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if out != exp and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert out == exp, f"out: {out}, exp: {exp}"

inputs = [[1, 2], [0.1, 0.2], [True, 5]]
results = [3, 0.3, 6]
for i, (inp, exp) in enumerate(zip(inputs, results)):
    assertion(add(*inp), exp, 0)
"""
MBPP_PLUS = {
    "task_id": 2,
    "code": ADD,
    "prompt": "Write a function to add.",
    "source_file": "Benchmark Questions Verification V2.ipynb",
    "test_imports": [],
    "test_list": ["assert add(1, 1) == 2", "assert add(0, 0) == 0"],
    "test": PLUS_TEST,
}
HUMAN_EVAL_PLUS = {
    "task_id": "HumanEval/53",
    "prompt": 'def add(a, b):\n    """ Add. """\n',
    "canonical_solution": "    return a + b\n",
    "entry_point": "add",
    "test": PLUS_TEST.replace("inputs =", "def check(candidate):\n    inputs =")
    .replace("\nresults", "\n    results")
    .replace("\nfor", "\n    for")
    .replace("    assertion(add", "        assertion(candidate")
    + "\ncheck(add)\n",
}
INPUTS_ONLY = {
    **{name: HUMAN_EVAL_PLUS[name] for name in ("task_id", "prompt", "canonical_solution", "entry_point")},
    "contract": "\n    assert type(a) == int\n",
    "base_input": [[1, 2], [[1], [2]]],
    "plus_input": [[0.1, 0.2], ["a", "b"]],
    "atol": 0,
}
CONTEST = {
    "name": "1_A. Sum",
    "description": "Add them.",
    "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
    "private_tests": {"input": ["3 4\n"], "output": ["7\n"]},
    "generated_tests": {"input": ["0.5 0.25\n"], "output": ["0.75\n"]},
    "solutions": {"language": [2, 1, 3], "solution": ["int main(){}", "print 1", SUM.replace("map(int", "map(float")]},
    "incorrect_solutions": {"language": [3], "solution": ["print(3)"]},
    "input_file": "",
    "output_file": "",
    "time_limit": {"seconds": 1, "nanos": 0},
}
KOD = {
    "question_id": "K_1",
    "question": "Add two numbers.",
    "solution": ADD,
    "test": "from solution import add\n\nBASE = 1\n\ndef test_small():\n    assert add(BASE, 2) == 3\n\n"
    "def test_lists():\n    x = [1]\n    assert add(x, [2]) == [1, 2]\n    assert x == [1]\n",
    "test_info": [{"function_name": "add"}],
}
FORMATS: dict[str, tuple[dict[str, Any], str, list[type]]] = {
    "MBPP+": (MBPP_PLUS, ADD, [CallTest, AssertTest]),
    "HumanEval+": (HUMAN_EVAL_PLUS, ADD, [AssertTest]),
    "HumanEvalPlus.jsonl": (INPUTS_ONLY, ADD, [AssertTest]),
    "APPS": (
        {"problem_id": 7, "question": "Add.", "solutions": json.dumps(["print 1", SUM]), "input_output": json.dumps(STDIN),
         "difficulty": "interview", "url": "", "starter_code": ""},
        SUM, [StdioTest] * 2,
    ),
    "APPS, functions": (
        {"problem_id": 8, "question": "Add.", "solutions": [ADD], "input_output": json.dumps(CALLS),
         "starter_code": "def add(a, b):\n\t"},
        ADD, [CallTest] * 2,
    ),
    "TACO": (
        {"question": "Add.", "solutions": json.dumps([SUM]), "starter_code": "", "input_output": json.dumps(STDIN),
         "difficulty": "EASY", "tags": "[]", "time_limit": "1.0 seconds", "Expected Time Complexity": None},
        SUM, [StdioTest] * 2,
    ),
    "CodeContests": (CONTEST, SUM.replace("map(int", "map(float"), [StdioTest] * 2),
    "PRIME": (
        {"data_source": "codecontests", "ability": "code", "extra_info": {"index": 1, "split": "train"},
         "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "Add."}],
         "reward_model": {"ground_truth": json.dumps(STDIN), "style": "rule"}},
        SUM, [StdioTest] * 2,
    ),
    "DeepCoder, for verl": (
        {"data_source": "primeintellect", "prompt": [{"role": "user", "content": "Add."}],
         "reward_model": {"ground_truth": json.dumps(ROWS), "style": "rule"}},
        SUM, [StdioTest],
    ),
    "DeepCoder": ({"problem": "Add.", "solutions": [f"```python\n{SUM}\n```"], "tests": json.dumps(ROWS)}, SUM, [StdioTest]),
    "DeepCoder, functions": ({"problem": "Add.", "solutions": [ADD], "tests": json.dumps(FUNCTION_ROWS)}, ADD, [CallTest]),
    "DeepCoder, LiveCodeBench's": ({"problem": "Add.", "tests": json.dumps(LIVE_ROWS)}, ADD, [CallTest]),
    "DeepCoder, TACO's": ({"problem": "Add.", "solutions": [SUM], "tests": json.dumps(STDIN)}, SUM, [StdioTest] * 2),
    "DeepCoder, LeetCode": (
        {"problem": "Add.", "solutions": "class Solution:\n    def add(self, a, b):\n        return a + b",
         "tests": {"functional": "def check(candidate):\n    assert candidate(a=1, b=2) == 3\n\ncheck(Solution().add)"}},
        "class Solution:\n    def add(self, a, b):\n        return a + b", [CallTest],
    ),
    "DeepCoder, written twice": ({"problem": "Add.", "tests": json.dumps(json.dumps(STDIN))}, SUM, [StdioTest] * 2),
    "MBPP among other sets": ({**MBPP_PLUS, "text": None, "entry_point": None, "input_output": None}, ADD, [CallTest, AssertTest]),
    "PrimeIntellect": (
        {"problem_id": "p1", "prompt": "Add.", "gold_standard_solution": f"```python\n{SUM}\n```",
         "verification_info": repr({"language": "python", "test_cases": ROWS})},
        SUM, [StdioTest],
    ),
    "KodCode": (KOD, ADD, [AssertTest] * 2),
}  # fmt: skip


def passes(problem: Problem, code: str) -> bool:
    return grade_code(code, problem.suite).passed


@pytest.mark.parametrize("name", FORMATS)
def test_a_public_format_is_read_and_tells_right_from_wrong(name: str) -> None:
    row, right, kinds = FORMATS[name]
    problem = read_problem(row)
    assert [type(test) for test in problem.suite.hidden] == kinds
    assert passes(problem, right)
    assert not passes(problem, right.replace("a + b", "a").replace("sum", "max"))
    assert problem.solution in ("", right, f"{HUMAN_EVAL_PLUS['prompt']}    return a + b".strip())
    assert "dd" in problem.prompt


def test_tests_of_mbpp_plus_count_too() -> None:
    assert not passes(read_problem(MBPP_PLUS), "def add(a, b):\n    return a + b if b < 3 else 0")
    assert passes(read_problem({**MBPP_PLUS, "test": ""}), "def add(a, b):\n    return a + b if b < 3 else 0")


@pytest.mark.parametrize("row", [MBPP_PLUS, HUMAN_EVAL_PLUS, INPUTS_ONLY])
def test_floats_of_evalplus_are_compared_the_way_it_does(row: dict[str, Any]) -> None:
    problem = read_problem(row)
    assert passes(problem, "def add(a, b):\n    return a + b + 1e-8 if isinstance(a, float) else a + b")
    assert not passes(problem, "def add(a, b):\n    return a + b + 1e-5 if isinstance(a, float) else a + b")


def test_the_reference_of_a_test_never_enters_the_programs_process() -> None:
    search = "import gc, sys\ndef add(a, b):\n    for f in gc.get_objects():\n        if type(f) is type(add) and f is not add "
    search += "and f.__name__ == 'add': return f(a, b)\n    return None"
    assert not passes(read_problem(INPUTS_ONLY), search)


def test_public_tests_of_code_contests_are_visible() -> None:
    problem = read_problem(CONTEST)
    assert problem.suite.visible == (StdioTest("1 2\n", "3\n"),)
    assert problem.solution.startswith("print(sum")
    one_by_one = {
        name: [dict(zip(value, record, strict=True)) for record in zip(*value.values(), strict=True)]
        for name, value in CONTEST.items()
        if isinstance(value, dict) and "seconds" not in value
    }
    assert read_problem({**CONTEST, **one_by_one}) == problem


def test_a_list_around_every_output_is_removed() -> None:
    problem = read_problem(FORMATS["APPS, functions"][0])
    assert [test.expected for test in problem.suite.hidden if isinstance(test, CallTest)] == [3, [1, 2]]
    bare = {"problem": "Add.", "tests": {"fn_name": "add", "inputs": [[1, 2], [[1], [2]]], "outputs": [3, [1, 2]]}}
    assert read_problem(bare).suite.hidden == problem.suite.hidden
    keys = {"problem": "?", "tests": {"fn_name": "f", "inputs": [[{"1": 2}]], "outputs": [[{"-3": [4]}]]}}
    assert read_problem(keys).suite.hidden == (CallTest("f", ({1: 2},), {-3: [4]}),)


STARTED = """class Solution:
    def pair(self, items: List[int], k: Optional[int]) -> Tuple[int, int]:
        heappush(heap := [], inf)
        count = Counter(items)
        def depth(n): return n and 1 + depth(n - 1)
        assert len(str(10 ** 5000)) == 5001 and depth(20000) == 20000 and pow(2, 5, 7) == 4
        return len(items), k
"""
PROGRAM = """from __future__ import annotations
def main(n: List[int]):
    print(gcd(0, *map(int, sys.stdin.read().split()[1:])) if n == 1 else sum(map(int, stdin.readlines()[0].split())))
n = int(stdin.readline())
main(n)
exit()
"""


def test_names_and_limits_are_those_of_live_code_benchs_harness() -> None:
    assert passes(read_problem(LEET), STARTED)
    assert grade_code(PROGRAM.replace("if n == 1 else", "if n == 9 else"), read_problem(LIVE).suite).passed


def test_names_of_the_prelude_neither_count_as_the_answer_nor_interfere_with_it() -> None:
    problem = read_problem({"problem": "?", "tests": CALLS})  # operator has a function `add`
    assert passes(problem, ADD)
    assert passes(problem, "class Solution:\n    def add(self, a, b): return a + b")
    assert not passes(problem, "def other(a, b): return a + b")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**CONTEST, "input_file": "sum.in"}, "use the file 'sum.in'"),
        ({**CONTEST, "private_tests": {}, "generated_tests": {}}, "no hidden tests"),
        ({**CONTEST, "checker": "def check(a, b): ..."}, "the field 'checker' might decide which programs are right"),
        ({**MBPP, "hidden_tests": ["assert half(1) == 0.5"]}, "'hidden_tests'"),
        ({**HUMAN_EVAL, "plus_test": "..."}, "'plus_test'"),
        ({**LIVE, "is_interactive": True}, "'is_interactive'"),
        ({"question": "?", "input_output": ""}, "input_output is not JSON"),
        ({"question": "?", "input_output": json.dumps({**STDIN, "outputs": []})}, "2 inputs and 0 outputs"),
        ({"question": "?", "input_output": json.dumps({**STDIN, "checker": "x"})}, "the field 'checker'"),
        ({"problem": "?", "tests": "def check(): pass"}, "tests is not JSON"),
        ({"problem": "?", "tests": json.dumps([{**ROWS[0], "type": "interactive"}])}, "'interactive'"),
        ({"prompt": "?", "verification_info": {"language": "cpp", "test_cases": ROWS}}, "in 'cpp'"),
        ({"prompt": "?", "reward_model": {"ground_truth": "42"}}, "expected tests"),
        ({**MBPP_PLUS, "test": PLUS_TEST.replace("np.allclose", "np.isclose")}, "'np.isclose' of NumPy"),
        ({**INPUTS_ONLY, "task_id": "Mbpp/2"}, "have lost their types"),
        ({**INPUTS_ONLY, "entry_point": "find_zero", "prompt": "def find_zero(xs):\n"}, "any zero is right"),
        ({**KOD, "test": KOD["test"].replace("BASE = 1", "import pytest")}, "need pytest"),
        ({**MBPP, "test_setup_code": "def make(): return missing"}, "'missing', which only"),
        ({**MBPP, "test_list": ["assert half(len) == 2"] * 2}, "cannot be handed"),
        ({**MBPP, "test_setup_code": "class T: pass\nroot = T()", "test_list": ["assert half(root) == 2"] * 2}, "cannot be handed"),
        ({**HUMAN_EVAL, "entry_point": "other"}, "entry_point 'other' is not defined"),
        ({**KOD, "solution": "class A: pass", "test": "def test_a():\n    assert A()"}, "program's class 'A'"),
        ({**MBPP, "test_list": 7}, "wrong type"),
        ({"question": 7, "input_output": json.dumps(STDIN)}, "wrong type"),
    ],
)  # fmt: skip
def test_rows_with_unsupported_fields_or_tests_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        read_problem(row)


def test_files_are_read_as_published(tmp_path: Path) -> None:
    packed = tmp_path / "HumanEval.jsonl.gz"
    packed.write_bytes(gzip.compress("\n".join(map(json.dumps, many(HUMAN_EVAL))).encode()))
    env = CodeTestsEnv("train", data=packed)
    assert answer(env, env.tasks[0], str(env.tasks[0].answer))["value"] == 1.0
    env.close()
    (tmp_path / "list.json.gz").write_bytes(gzip.compress(json.dumps(many(MBPP)).encode()))
    assert load_problems(tmp_path / "list.json.gz", "train", 99, 0)
    (tmp_path / "cut.jsonl.gz").write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(TaskError, match="not a complete gzip file"):
        load_problems(tmp_path / "cut.jsonl.gz", "train", 99, 0)
    with pytest.raises(TaskError, match="no data file"):
        load_problems(tmp_path / "none.jsonl.gz", "train", 99, 0)


def test_rows_whose_own_solution_fails_are_skipped_on_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wrong = {**MBPP, "task_id": 7, "code": MBPP["code"].replace("n / 2", "n // 2")}
    write(tmp_path / "train.jsonl", MBPP, wrong)
    data = tmp_path / "{split}.jsonl"
    assert len(load_problems(data, "train", 9, 0)) == 2
    with caplog.at_level(logging.WARNING):
        assert [problem.id for problem in load_problems(data, "train", 9, 0, verify=True)] == ["601"]
    assert "task 7: its own solution fails 1 tests, the first: " in caplog.text
    write(tmp_path / "train.jsonl", wrong)
    with pytest.raises(TaskError, match="passes with its own solution; the first: task 7"):
        CodeTestsEnv("train", data=data, verify=True)
