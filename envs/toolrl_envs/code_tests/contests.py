"""Reads rows of programming contests: programs that read and print, and functions called with JSON values.

Formats, as their harnesses read them: LiveCodeBench (lcb_runner/benchmarks/code_generation.py), APPS and TACO
(`input_output`), CodeContests (`public_tests` ...), verl's and PRIME's rows (`reward_model.ground_truth`), DeepCoder
(`problem`, `tests`), PrimeIntellect's (`verification_info`).
"""

from __future__ import annotations

import ast
import base64
import binascii
import io
import pickle
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from toolrl import TaskError
from toolrl.rewards import AssertTest, CallTest, CodeSuite, CodeTest, Comparison, StdioTest, read_asserts
from toolrl_envs.code_tests.problem import Problem, json_of, problem, reference, refuse_others

# LiveCodeBench's harness puts these imports before each program (lcb_runner/evaluation/testing_util.py); its starter
# code needs them.
_MODULES = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "io", "sys", "json",
)  # fmt: skip
PRELUDE = "".join(
    [
        *(f"from {name} import *\n" for name in (*_MODULES, "builtins", "typing")),
        f"import {', '.join(_MODULES)}\nsys.setrecursionlimit(50000)\n",
    ]
)
_EXACT = Comparison(number_types=False, sequence_types=False)
# The other harnesses accept printed numbers within 1e-5. Here integers are compared exactly.
_NEAR = Comparison(tolerance=1e-6, number_types=False, sequence_types=False)
_READS = "The program reads its input from standard input and prints its output."
_PYTHON_3 = 3  # CodeContests' number for the language
_checked = re.compile(r"^check\((?:Solution\(\)\.)?(\w+)\)", re.MULTILINE)
_integer = re.compile(r"-?\d+")


def live_code_bench(row: Mapping[str, Any]) -> Problem:
    """Read a row of LiveCodeBench. Public tests are visible, private ones hidden."""
    refuse_others(row, "public_test_cases private_test_cases")
    starter = row.get("starter_code") or ""
    function = _function_name(row.get("metadata"))
    shown, private = (_cases(row[f"{which}_test_cases"], f"{which}_test_cases") for which in ("public", "private"))
    visible, hidden = ([_case(case, function) for case in cases] for cases in (shown, private))
    parts = [row["question_content"].strip()]
    if starter.strip():
        parts.append(f"Begin with:\n{starter.rstrip()}")
    elif not function:
        parts.append("\n".join(f"Input:\n{case['input']}\nOutput:\n{case['output']}" for case in shown))
    suite = CodeSuite(hidden, visible, _EXACT, PRELUDE)
    return problem(row, row["question_id"], "\n\n".join(parts), suite, row.get("code", ""))


def apps(row: Mapping[str, Any]) -> Problem:
    """Read a row of APPS or TACO. All tests are hidden; the statement has examples."""
    refuse_others(row, "input_output")
    statement = row["question"] if "question" in row else row["problem"]
    solutions = row.get("solutions")
    if isinstance(solutions, str) and solutions.lstrip().startswith("["):
        solutions = json_of(solutions, "solutions")
    id = row.get("problem_id", row.get("id", row.get("task_id")))
    return _contest(row, id, statement, _paired(json_of(row["input_output"], "input_output")), solutions)


def code_contests(row: Mapping[str, Any]) -> Problem:
    """Read a row of CodeContests. Public tests are visible, private and generated ones hidden."""
    refuse_others(row, "public_tests private_tests generated_tests input_file output_file")
    for name in ("input_file", "output_file"):
        if row.get(name):
            raise TaskError(f"programs of this row use the file {row[name]!r} ({name}), not standard input and output")
    columns = {
        name: _columns(row.get(name)) for name in ("public_tests", "private_tests", "generated_tests", "solutions")
    }
    solutions = columns.pop("solutions")
    visible, *hidden = (
        _paired({"inputs": tests.get("input", ()), "outputs": tests.get("output", ())}) for tests in columns.values()
    )
    known = zip(solutions.get("language", ()), solutions.get("solution", ()), strict=False)
    python = [text for language, text in known if language in (_PYTHON_3, "PYTHON3")]
    return _contest(row, row["name"], row["description"], [*hidden[0], *hidden[1]], python, visible)


def verl(row: Mapping[str, Any]) -> Problem:
    """Read a row of PRIME (Eurus-2-RL-Data) or DeepCoder in verl's format: the prompt is a conversation."""
    refuse_others(row, "")
    tests = row["reward_model"]["ground_truth"]
    for _ in range(2):  # some are encoded twice
        tests = json_of(tests, "reward_model.ground_truth")
    prompt = row["prompt"]
    if not isinstance(prompt, str):
        prompt = "\n\n".join(message["content"] for message in prompt if message["role"] == "user")
    return _contest(row, None, prompt, _tests(tests), (row.get("extra_info") or {}).get("reference"))


def deep_coder(row: Mapping[str, Any]) -> Problem:
    """Read a row of DeepCoder or PrimeIntellect. All tests are hidden."""
    refuse_others(row, "tests verification_info")
    if "verification_info" in row:
        info = _python_or_json(row["verification_info"], "verification_info")
        if info.get("language", "python") != "python":
            raise TaskError(f"its programs must be written in {info['language']!r}, not Python")
        tests, solutions = info["test_cases"], row.get("gold_standard_solution")
    else:
        tests, solutions = _python_or_json(row["tests"], "tests"), row.get("solutions")
        tests = json_of(tests, "tests")  # some are encoded twice
    statement = row["problem"] if "problem" in row else row["prompt"]
    function = _function_name(row.get("metadata"))
    return _contest(row, row.get("problem_id"), statement, _tests(tests, function), solutions)


def _contest(
    row: Mapping[str, Any],
    id: Any,
    statement: str,
    hidden: Sequence[CodeTest],
    solutions: Any,
    visible: Sequence[CodeTest] = (),
) -> Problem:
    if not hidden:
        raise TaskError("there are no hidden tests")
    starter = row.get("starter_code") or ""
    parts = [statement.strip()]
    if starter.strip() and starter.strip() not in statement:
        parts.append(f"Begin with:\n{starter.rstrip()}")
    elif isinstance(hidden[0], (AssertTest, CallTest)) and hidden[0].function not in statement:
        parts.append(f"Write it as the function `{hidden[0].function}`.")
    elif isinstance(hidden[0], StdioTest):
        parts.append(_READS)
    return problem(row, id, "\n\n".join(parts), CodeSuite(hidden, visible, _NEAR, PRELUDE), reference(solutions))


def _columns(records: Any) -> Mapping[str, Any]:
    """Turn a list of records, as in some exports, into parallel lists."""
    if not isinstance(records, list):
        return records or {}
    return {name: [record[name] for record in records] for name in (records[0] if records else ())}


def _function_name(metadata: Any) -> str:
    metadata = json_of(metadata or "{}", "metadata")
    return (metadata.get("func_name") or "") if isinstance(metadata, dict) else ""


def _tests(tests: Any, function: str = "") -> list[CodeTest]:
    """Read tests given as parallel lists, as a list of tests, or as a function `check` (DeepCoder's from LeetCode)."""
    if isinstance(tests, dict) and set(tests) == {"functional"}:
        called = _checked.search(tests["functional"])
        if called is None:
            raise TaskError("its tests call no function")
        return read_asserts(tests["functional"], called[1])
    if isinstance(tests, dict):
        return _paired(tests)
    if not isinstance(tests, list) or not all(isinstance(test, dict) for test in tests):
        raise TaskError(f"expected tests as a list, or as lists of inputs and outputs, got {str(tests)[:80]!r}")
    read: list[CodeTest] = []
    for test in tests:
        name = test.get("fn_name") or function or _function_name(test.get("metadata"))
        if "testtype" in test:
            read.append(_case(test, name))
        elif test.get("type", "stdin_stdout") in ("stdin_stdout", "function_call"):
            paired = {"inputs": [test["input"]], "outputs": [test["output"]]}
            is_call = test.get("type") == "function_call" or test.get("fn_name")
            read += _paired({**paired, "fn_name": name} if is_call else paired)
        else:
            raise TaskError(f"tests of type {test['type']!r} are not supported")
    return read


def _paired(tests: Any) -> list[CodeTest]:
    """Read tests in APPS's format: parallel lists of inputs and outputs, and possibly the function they test."""
    try:
        inputs, outputs, function = list(tests["inputs"]), list(tests["outputs"]), tests.get("fn_name")
    except (TypeError, KeyError, AttributeError):
        raise TaskError(f"expected an object with inputs and outputs, got {str(tests)[:80]!r}") from None
    if others := set(tests) - {"inputs", "outputs", "fn_name", "metadata"}:
        raise TaskError(f"tests have the field {sorted(others)[0]!r}, which is not supported")
    if len(inputs) != len(outputs):
        raise TaskError(f"there are {len(inputs)} inputs and {len(outputs)} outputs")
    function = function or _function_name(tests.get("metadata"))
    if not function:
        return [StdioTest(_lines(given), _lines(right)) for given, right in zip(inputs, outputs, strict=True)]
    if any(isinstance(given, str) for given in inputs):  # a JSON value on each line, as LiveCodeBench has it
        cases = zip(inputs, outputs, strict=True)
        return [_case({"input": one, "output": two, "testtype": "functional"}, function) for one, two in cases]
    # Either the value itself or, in most rows, a list around it; their harness accepts both.
    if all(isinstance(output, list) and len(output) == 1 for output in outputs):
        outputs = [output[0] for output in outputs]
    return [
        CallTest(function, tuple(map(_with_numbers, given)), _with_numbers(right))
        for given, right in zip(inputs, outputs, strict=True)
    ]


def _with_numbers(value: Any) -> Any:
    """Restore integer keys, which JSON turns into strings, in objects whose keys all look like integers."""
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    if isinstance(value, dict):
        numbers = bool(value) and all(_integer.fullmatch(key) for key in value)
        return {int(key) if numbers else key: _with_numbers(item) for key, item in value.items()}
    return value


def _lines(text: Any) -> str:
    return "\n".join(map(str, text)) if isinstance(text, list) else str(text)


def _python_or_json(text: Any, field: str) -> Any:
    try:
        return ast.literal_eval(text) if isinstance(text, str) else text
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return json_of(text, field)


def _case(case: Mapping[str, Any], function: str) -> CodeTest:
    if case["testtype"] in ("stdin", "stdin_stdout"):
        return StdioTest(_lines(case["input"]), _lines(case["output"]))
    if case["testtype"] != "functional":
        raise TaskError(f"tests of type {case['testtype']!r} are not supported")
    if not function:
        raise TaskError("tests of a function, but metadata has no func_name")
    lines = [line for line in case["input"].splitlines() if line.strip()]
    return CallTest(function, tuple(json_of(line, "input") for line in lines), json_of(case["output"], "output"))


def _cases(text: Any, field: str) -> list[dict[str, Any]]:
    """Read tests from JSON; on the hub, private ones are also compressed and pickled."""
    if isinstance(text, str) and not text.lstrip().startswith("["):
        try:
            text = _TextOnly(io.BytesIO(zlib.decompress(base64.b64decode(text)))).load()
        except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, ValueError) as error:
            raise TaskError(f"{field} is neither JSON nor compressed JSON: {error}") from None
    cases = json_of(text, field)
    if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
        raise TaskError(f"{field} must be a list of tests, got {type(cases).__name__}")
    return cases


class _TextOnly(pickle.Unpickler):
    """Unpickles strings only: a pickle with anything else could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")
