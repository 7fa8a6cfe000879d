"""Reads rows of public data sets into problems with visible and hidden tests; those with assertions are read here."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolrl import TaskError
from toolrl.rewards import CodeSuite, CodeTest, Comparison, called_function, read_asserts
from toolrl_envs.code_tests import contests
from toolrl_envs.code_tests.evalplus import from_inputs, without_numpy
from toolrl_envs.code_tests.problem import Problem, problem, reference, refuse_others

_LENIENT = Comparison(number_types=False)  # Python's own `==`, which the solutions of public data sets rely on


def read_problem(row: Mapping[str, Any]) -> Problem:
    """Read a row; its fields tell the format.

    Raises:
        TaskError: The format is unknown, the row is broken, or its tests cannot be kept away from the program.
    """
    row = {name: value for name, value in row.items() if value is not None}  # Arrow fills in nulls
    for fields, reader in _READERS.items():
        if set(fields.split()) <= set(row):
            try:
                return reader(row)
            except KeyError as error:
                raise TaskError(f"field {error} is missing; it has: {', '.join(row)}") from None
            except (TypeError, AttributeError, ValueError) as error:
                if isinstance(error, TaskError):
                    raise
                raise TaskError(f"a field has the wrong type for its format: {error}") from error
    known = "; ".join(_READERS)
    raise TaskError(f"unknown format: expected the fields {known}; it has: {', '.join(row)}")


def _mbpp(row: Mapping[str, Any]) -> Problem:
    """Read a row of MBPP. The first assertion is shown, as is usual; in our own data set, `visible` of them are.

    MBPP+ adds a `test` with many more inputs, which is hidden too.
    """
    refuse_others(row, "test test_list challenge_test_list test_setup_code test_imports")
    asserts = [*row["test_list"], *(row.get("challenge_test_list") or ())]
    shown = int(row.get("visible", 1))
    setup = "\n".join([*(row.get("test_imports") or ()), row.get("test_setup_code") or ""]).strip()
    function = _function_of(row, asserts)
    visible, hidden = (
        [test for line in lines for test in read_asserts(line, function, setup=setup)]
        for lines in (asserts[:shown], asserts[shown:])
    )
    if row.get("test"):
        hidden += read_asserts(without_numpy(row["test"]), function, setup=setup)
    comparison = Comparison() if row.get("strict_types") else _LENIENT
    statement = row["text"] if "text" in row else row["prompt"]
    examples = "\n".join(asserts[:shown])
    text = f"{statement.strip()}\n\nFor example:\n{examples}"
    return problem(row, row["task_id"], text, CodeSuite(hidden, visible, comparison), row.get("code", ""))


def _function_of(row: Mapping[str, Any], asserts: Sequence[str]) -> str:
    """The name of the function that the assertions call and the solution defines."""
    try:
        tree = ast.parse(row.get("code", ""))
    except SyntaxError as error:
        raise TaskError(f"code is not Python: {error}") from None
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    function = called_function("\n".join(asserts), defined or None)
    if any(isinstance(node, ast.ClassDef) and node.name == function for node in tree.body):
        raise TaskError(f"its tests use objects of the program's class {function!r}, which cannot leave its process")
    if function is None:
        raise TaskError(f"no assertion calls a function: {asserts[:1]}")
    return function


def _human_eval(row: Mapping[str, Any]) -> Problem:
    """Read a row of HumanEval. Imports and helpers above the function are given to the program and its tests."""
    refuse_others(row, "test base_input plus_input atol")
    prompt, function = row["prompt"], row["entry_point"]
    solution = prompt + row.get("canonical_solution", "")
    try:
        tree = ast.parse(solution)
    except SyntaxError as error:
        raise TaskError(f"prompt and canonical_solution together are not Python: {error}") from None
    if not any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body):
        raise TaskError(f"entry_point {function!r} is not defined in prompt and canonical_solution")
    above = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name == function)]
    prelude = "\n".join(map(ast.unparse, above))
    test = without_numpy(row["test"]) if row.get("test") else from_inputs(row)
    hidden = read_asserts(test, function, setup=prelude)
    text = f"Complete this function; write it whole.\n\n{prompt.strip()}"
    return problem(row, row["task_id"], text, CodeSuite(hidden, (), _LENIENT, prelude), solution)


def _kod_code(row: Mapping[str, Any]) -> Problem:
    """Read a row of KodCode. Its tests are pytest functions, each a hidden test."""
    refuse_others(row, "test test_code test_info")
    try:
        tree = ast.parse(row["test"] if "test" in row else row["test_code"])
    except (SyntaxError, ValueError, RecursionError) as error:
        raise TaskError(f"the tests are not Python: {error}") from None
    body = [node for node in tree.body if not (isinstance(node, ast.ImportFrom) and node.module == "solution")]
    tests = [node for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test")]
    setup = "\n".join(ast.unparse(node) for node in body if node not in tests)
    if any(node.args.args or node.decorator_list for node in tests) or "pytest" in setup:
        raise TaskError("its tests need pytest, which their sandbox does not have")
    text = row["question"].strip()
    function = _function_of({"code": row["solution"]}, [ast.unparse(tree)])
    if function not in text:
        text += f"\n\nWrite it as the function `{function}`."
    hidden: list[CodeTest] = []
    for node in tests:
        code = "\n".join(map(ast.unparse, node.body))
        hidden += read_asserts(code, function, setup=setup)
    return problem(row, row.get("question_id"), text, CodeSuite(hidden, (), _LENIENT), reference(row["solution"]))


# The first entry whose fields a row has reads it.
_READERS: dict[str, Callable[[Mapping[str, Any]], Problem]] = {
    "test_list": _mbpp,
    "entry_point test": _human_eval,
    "entry_point base_input": _human_eval,
    "question_content": contests.live_code_bench,
    "input_output": contests.apps,
    "public_tests": contests.code_contests,
    "reward_model": contests.verl,
    "verification_info": contests.deep_coder,
    "problem tests": contests.deep_coder,
    "question solution test": _kod_code,
    "question solution test_code": _kod_code,
}
