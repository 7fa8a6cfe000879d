"""Reads rows of MBPP, HumanEval and LiveCodeBench: each becomes a problem with visible and hidden tests."""

from __future__ import annotations

import ast
import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolrl import TaskError
from toolrl.rewards import CallTest, CodeSuite, CodeTest, Comparison, StdioTest, called_function, read_asserts

# Python's own `==` takes 2.0 for 2, and the solutions of public sets rely on it.
_LENIENT = Comparison(tolerance=1e-9, number_types=False)


@dataclass(frozen=True)
class Problem:
    """What is to be written, and its tests.

    Attributes:
        id: Unique within its set.
        text: For the model: all that it is told.
        suite: The tests.
        solution: A program that passes them; empty if the set has none.
        kind: What sort of problem it is.
        needs_tool: Whether it is worth trying the code first.
    """

    id: str
    text: str
    suite: CodeSuite
    solution: str
    kind: str
    needs_tool: bool = True


def read_problem(row: Mapping[str, Any]) -> Problem:
    """Read a row, by the fields that it has.

    Raises:
        TaskError: It is of no known format, broken, or has tests that cannot be kept out of a program's reach.
    """
    try:
        if "entry_point" in row and "test" in row:
            return _human_eval(row)
        if "test_list" in row:
            return _mbpp(row)
        if "question_content" in row:
            return _live_code_bench(row)
    except KeyError as error:
        raise TaskError(f"field {error} is missing; there are: {', '.join(row)}") from None
    raise TaskError(
        "neither MBPP (test_list), HumanEval (entry_point, test) nor LiveCodeBench (question_content); the fields are: "
        + ", ".join(row)
    )


def _mbpp(row: Mapping[str, Any]) -> Problem:
    """The first assertion is shown, as is usual with this set; `visible` says otherwise in our own."""
    asserts = [*row["test_list"], *(row.get("challenge_test_list") or ())]
    shown = int(row.get("visible", 1))
    setup = "\n".join([*(row.get("test_imports") or ()), row.get("test_setup_code") or ""]).strip()
    function = _function_of(row, asserts)
    visible, hidden = (
        [test for line in lines for test in read_asserts(line, function, setup=setup)]
        for lines in (asserts[:shown], asserts[shown:])
    )
    comparison = Comparison() if row.get("strict_types") else _LENIENT
    statement = row["text"] if "text" in row else row["prompt"]
    examples = "\n".join(asserts[:shown])
    text = f"{statement.strip()}\n\nFor example:\n{examples}"
    return _problem(row, row["task_id"], text, CodeSuite(hidden, visible, comparison), row.get("code", ""))


def _function_of(row: Mapping[str, Any], asserts: Sequence[str]) -> str:
    """The function that the assertions call and the solution defines."""
    try:
        tree = ast.parse(row.get("code", ""))
    except SyntaxError as error:
        raise TaskError(f"code is not Python: {error}") from None
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    function = called_function("\n".join(asserts), defined or None)
    if function is None:
        raise TaskError(f"no assertion calls a function: {asserts[:1]}")
    return function


def _human_eval(row: Mapping[str, Any]) -> Problem:
    """What stands above the function in the prompt (imports, helpers) comes before a program, and helps its tests."""
    prompt, function = row["prompt"], row["entry_point"]
    solution = prompt + row.get("canonical_solution", "")
    try:
        tree = ast.parse(solution)
    except SyntaxError as error:
        raise TaskError(f"prompt and canonical_solution are not Python together: {error}") from None
    above = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name == function)]
    prelude = "\n".join(map(ast.unparse, above))
    hidden = read_asserts(row["test"], function, setup=prelude)
    text = f"Complete this function; write it whole.\n\n{prompt.strip()}"
    return _problem(row, row["task_id"], text, CodeSuite(hidden, (), _LENIENT, prelude), solution)


def _live_code_bench(row: Mapping[str, Any]) -> Problem:
    starter = row.get("starter_code") or ""
    metadata = _json(row.get("metadata") or "{}", "metadata")
    function = metadata.get("func_name", "") if isinstance(metadata, dict) else ""
    shown = _cases(row["public_test_cases"], "public_test_cases")
    visible, hidden = (
        [_case(case, function) for case in cases]
        for cases in (shown, _cases(row["private_test_cases"], "private_test_cases"))
    )
    parts = [row["question_content"].strip()]
    if starter.strip():
        parts.append(f"Begin with:\n{starter.rstrip()}")
    elif not function:
        parts.append("\n".join(f"Input:\n{case['input']}\nOutput:\n{case['output']}" for case in shown))
    comparison = Comparison(tolerance=1e-9, number_types=False, sequence_types=False)
    text = "\n\n".join(parts)
    return _problem(row, row["question_id"], text, CodeSuite(hidden, visible, comparison), row.get("code", ""))


def _case(case: Mapping[str, Any], function: str) -> CodeTest:
    if case["testtype"] == "stdin":
        return StdioTest(case["input"], case["output"])
    if not function:
        raise TaskError("tests of a function, but metadata has no func_name")
    lines = [line for line in case["input"].splitlines() if line.strip()]
    return CallTest(function, tuple(_json(line, "input") for line in lines), _json(case["output"], "output"))


def _cases(text: Any, field: str) -> list[dict[str, Any]]:
    """Tests as JSON; the private ones of the set on the hub are packed once more."""
    if isinstance(text, str) and not text.lstrip().startswith("["):
        try:
            packed = zlib.decompress(base64.b64decode(text))
            text = _TextOnly(io.BytesIO(packed)).load()
        except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, ValueError) as error:
            raise TaskError(f"{field} is neither JSON nor packed JSON: {error}") from None
    cases = _json(text, field) if isinstance(text, (str, bytes)) else text
    if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
        raise TaskError(f"{field} must be a list of tests, got {type(cases).__name__}")
    return cases


class _TextOnly(pickle.Unpickler):
    """Unpickles texts; a pickle that wants anything else could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def _json(text: Any, field: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError) as error:
        raise TaskError(f"{field} is not JSON: {error}") from None


def _problem(row: Mapping[str, Any], id: Any, text: str, suite: CodeSuite, solution: str) -> Problem:
    kind = row.get("kind") or row.get("difficulty") or "read"
    return Problem(str(id), text, suite, solution.strip(), str(kind), bool(row.get("needs_tool", True)))
