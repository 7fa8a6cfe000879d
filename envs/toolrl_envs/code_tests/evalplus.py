"""EvalPlus tests (HumanEval+, MBPP+) without NumPy, which their sandbox does not have.

They use it to compare floats; see `evalplus/eval/__init__.py` in https://github.com/evalplus/evalplus.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from toolrl import TaskError

_import = re.compile(r"^import numpy as np[ \t]*$", re.MULTILINE)
_USED = {"np.allclose", "np.testing", "np.testing.assert_allclose", "np.ndarray", "np.float64", "np.float32"}
_NUMPY = """
class np:
    class ndarray:
        pass
    float64 = float32 = float
    @staticmethod
    def allclose(a, b, rtol=1e-05, atol=1e-08):
        if isinstance(a, (list, tuple)) or isinstance(b, (list, tuple)):
            pairs = isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b)
            return pairs and all(np.allclose(x, y, rtol, atol) for x, y in zip(a, b))
        return a == b or abs(a - b) <= atol + rtol * abs(b) and abs(b) != float("inf")
    class testing:
        @staticmethod
        def assert_allclose(actual, desired, rtol=1e-07, atol=0):
            assert np.allclose(actual, desired, rtol, atol)
"""
_COMPARED = f"""{_NUMPY}
def is_floats(x):
    return isinstance(x, float) or isinstance(x, (list, tuple)) and bool(x) and all(isinstance(i, float) for i in x)
def assertion(out, exp, atol):
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if out == exp:
        return
    assert atol != 0 and type(out) == type(exp)
    assert not isinstance(exp, (list, tuple)) or len(out) == len(exp)
    assert np.allclose(out, exp, rtol=1e-07, atol=atol)
"""


def without_numpy(code: str) -> str:
    """Replace NumPy in tests by a stand-in for the few functions they use.

    Raises:
        TaskError: They use other parts of NumPy.
    """
    if not _import.search(code):
        return code
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError) as error:
        raise TaskError(f"the tests are not Python: {error}") from None
    used = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    if others := {name for name in used if name.startswith("np.")} - _USED:
        raise TaskError(f"its tests use {sorted(others)[0]!r} of NumPy, which their sandbox does not have")
    return _import.sub(lambda _: _NUMPY, code)


def from_inputs(row: Mapping[str, Any]) -> str:
    """Build the test of a row with inputs only (`HumanEvalPlus.jsonl.gz`): its own solution gives the expected values.

    Raises:
        TaskError: The inputs lost their types in JSON, or the row needs its own checker.
    """
    if str(row["task_id"]).startswith("Mbpp/"):
        raise TaskError(
            "the inputs of MbppPlus.jsonl have lost their types; use the data set evalplus/mbppplus, which has tests"
        )
    if row["entry_point"] == "find_zero":
        raise TaskError("any zero is right, so values cannot be compared")
    source = f"{row['prompt']}{row['canonical_solution']}"
    inputs = [*row["base_input"], *(row.get("plus_input") or ())]
    return f"""{_COMPARED}
space = {{}}
exec({source!r}, space)
def check(candidate):
    for given in {inputs!r}:
        right = space[{row["entry_point"]!r}](*copy.deepcopy(given))
        assertion(candidate(*given), right, {row.get("atol") or 0!r})
import copy
"""
