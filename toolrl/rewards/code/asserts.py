"""Reads tests written in Python: where possible, an assertion becomes a call with an expected value."""

from __future__ import annotations

import ast
import builtins
import math
from collections.abc import Mapping, Sequence
from typing import Any

from toolrl.errors import TaskError
from toolrl.rewards.code.runner import PLAIN_TYPES
from toolrl.rewards.code.suite import AssertTest, CallTest, CodeTest
from toolrl.rewards.code.syntax import DEFINITIONS, UNKNOWN, UNREADABLE, bound_names, literal
from toolrl.support.python_source import parse_python


def read_asserts(code: str, function: str, *, setup: str = "", alias: str = "candidate") -> list[CodeTest]:
    """Read lines such as `assert f(1) == 2`, perhaps in a `def check(candidate)`, as in HumanEval.

    `f(...) == literal`, `f(...) is None` (or True, False), `abs(f(...) - literal) < tolerance` and `math.isclose`
    become a `CallTest` each. Every other assertion becomes an `AssertTest`; if there are other statements between the
    assertions, all become a single one.

    Args:
        code: The tests.
        function: The function under test.
        setup: Code that the tests need, such as imports and helpers.
        alias: The name of the function in `check`.

    Raises:
        TaskError: The code is not Python, or has no assertion. It uses names that neither it nor `setup` defines: those
            would be objects of the program, and a test that needs them is within the program's reach. Or it passes
            functions or objects to the program, which cannot leave their process.
    """
    try:
        tree, before = parse_python(code), parse_python(setup)
    except UNREADABLE as error:
        raise TaskError(f"the tests are not Python: {error}") from None
    check = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"), None)
    if check is not None:
        tree.body = [node for node in tree.body if not _calls_check(node)]
    body = tree.body if check is None else check.body
    outside = [node for node in tree.body if node is not check and check is not None]
    around = "\n".join(filter(None, [setup, *map(ast.unparse, outside)]))
    known = {*bound_names(*ast.walk(before), *ast.walk(tree))}
    missing = (_used(tree) | _used(before)) - known - {function, alias} - set(dir(builtins))
    if missing and "*" not in known:
        raise TaskError(f"the tests of {function!r} use {sorted(missing)[0]!r}, which only the program can define")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in (function, alias):
            for given in (*node.args, *(keyword.value for keyword in node.keywords)):
                if _is_live(given, [*before.body, *ast.walk(tree)]):
                    raise TaskError(
                        f"the tests of {function!r} pass {ast.unparse(given)[:80]!r} to it: functions, classes and "
                        "their objects cannot be handed to another process"
                    )
    body = [node for node in body if not _is_empty(node)]
    if not any(isinstance(node, ast.Assert) for top in (*body, *outside) for node in ast.walk(top)):
        raise TaskError(f"the tests of {function!r} have no assertion")
    if not all(isinstance(node, ast.Assert) for node in body):
        whole = "\n".join(map(ast.unparse, body))
        return [AssertTest(whole, function, around, alias)]
    tests: list[CodeTest] = []
    for node in body:
        assert isinstance(node, ast.Assert)
        test = _as_call(node.test, {function, alias}, function)
        tests.append(test or AssertTest(ast.unparse(node), function, around, alias))
    return tests


def called_function(code: str, among: set[str] | None = None) -> str | None:
    """The function that assertions call, ignoring builtins and methods; None if they call no function.

    Args:
        code: The assertions.
        among: The possible names; None allows any.
    """
    try:
        tree = parse_python(code)
    except UNREADABLE:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name = node.func.id
            if name in among if among is not None else not hasattr(builtins, name):
                return name
    return None


def _as_call(test: ast.expr, names: set[str], function: str) -> CallTest | None:
    """The call in an assertion, or None if the assertion has another form."""
    if isinstance(test, ast.Call) and ast.unparse(test.func) in ("math.isclose", "isclose") and len(test.args) == 2:
        limits = {keyword.arg: literal(keyword.value) for keyword in test.keywords}
        if set(limits) <= {"rel_tol", "abs_tol"} and all(isinstance(limit, float) for limit in limits.values()):
            distances = {"tolerance": limits.get("abs_tol", 0.0), "relative": limits.get("rel_tol", 1e-9)}
            left, right = test.args
            return _call(left, right, names, function, distances) or _call(right, left, names, function, distances)
        return None
    if not (isinstance(test, ast.Compare) and len(test.ops) == 1):
        return None
    left, operator, right = test.left, test.ops[0], test.comparators[0]
    if isinstance(operator, ast.Eq):
        return _call(left, right, names, function) or _call(right, left, names, function)
    if isinstance(operator, ast.Is) and isinstance(right, ast.Constant) and right.value in (None, True, False):
        return _call(left, right, names, function, {"identical": True})
    if isinstance(operator, (ast.Lt, ast.LtE)) and isinstance(left, ast.Call) and ast.unparse(left.func) == "abs":
        tolerance = literal(right)
        if len(left.args) == 1 and isinstance(tolerance, float):
            inner = left.args[0]
            if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub):
                left, right = inner.left, inner.right
                at_most = tolerance if isinstance(operator, ast.LtE) else math.nextafter(tolerance, -math.inf)
                distance = {"tolerance": at_most}
                return _call(left, right, names, function, distance) or _call(right, left, names, function, distance)
    return None


def _call(
    call: ast.expr, value: ast.expr, names: set[str], function: str, how: Mapping[str, Any] | None = None
) -> CallTest | None:
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in names):
        return None
    args = [literal(argument) for argument in call.args]
    kwargs = {keyword.arg: literal(keyword.value) for keyword in call.keywords}
    expected = literal(value)
    if None in kwargs or any(item is UNKNOWN for item in (*args, *kwargs.values(), expected)):
        return None
    if how and "tolerance" in how and not isinstance(expected, (int, float)):
        return None
    return CallTest(function, tuple(args), expected, {str(name): item for name, item in kwargs.items()}, **(how or {}))


def _is_live(given: ast.expr, nodes: Sequence[ast.AST]) -> bool:
    """Whether an argument is evidently not a plain value."""
    if isinstance(given, (ast.List, ast.Tuple, ast.Set)):
        return any(_is_live(item, nodes) for item in given.elts)
    name = given.func if isinstance(given, ast.Call) else given
    if isinstance(given, ast.Lambda) or not isinstance(name, ast.Name):
        return isinstance(given, ast.Lambda)
    own = [node for node in nodes if getattr(node, "name", None) == name.id]
    made = [
        node.value
        for node in nodes
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name.id for t in node.targets)
    ]
    if any(isinstance(value, (ast.Call, ast.Lambda)) and _is_live(value, nodes) for value in made):
        return True
    if isinstance(given, ast.Call):
        return any(isinstance(node, ast.ClassDef) for node in own)
    if any(isinstance(node, DEFINITIONS) for node in own):
        return True
    builtin = getattr(builtins, name.id, None)
    return callable(builtin) and builtin not in PLAIN_TYPES and name.id not in bound_names(*nodes)


def _calls_check(node: ast.stmt) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func) == "check"


def _is_empty(node: ast.stmt) -> bool:
    """Whether a statement is a docstring, `pass`, or `assert True`."""
    if isinstance(node, ast.Assert):
        return isinstance(node.test, ast.Constant) and bool(node.test.value)
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _used(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
