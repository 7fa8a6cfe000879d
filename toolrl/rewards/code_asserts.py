"""Reads tests that are Python: assertions become calls with expected values where they are of that form."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Sequence
from typing import Any

from toolrl.errors import TaskError
from toolrl.rewards.code_tests import AssertTest, CallTest, CodeTest

_UNKNOWN = object()


def read_asserts(code: str, function: str, *, setup: str = "", alias: str = "candidate") -> list[CodeTest]:
    """Read lines such as `assert f(1) == 2`, or a `def check(candidate)` around them, as HumanEval has it.

    `f(...) == literal`, `f(...) is None` (or True, False), `abs(f(...) - literal) < tolerance` and `math.isclose`
    become a `CallTest` each. Everything else becomes an `AssertTest`: each assertion by itself, or all in one where
    other statements stand between them.

    Args:
        code: The tests.
        function: The function that they test.
        setup: Code that they need, such as imports and helpers.
        alias: What `check` calls the function.

    Raises:
        TaskError: It is not Python, has no assertion, or uses names that neither it nor `setup` defines: those would
            be objects of the program's own, and a test that needs them cannot be kept out of its reach.
    """
    try:
        tree, known = ast.parse(code), _bound(ast.parse(setup)) if setup else set()
    except (SyntaxError, ValueError, RecursionError) as error:
        raise TaskError(f"tests that are not Python: {error}") from None
    check = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"), None)
    body = tree.body if check is None else check.body
    outside = [node for node in tree.body if node is not check and check is not None]
    around = "\n".join(filter(None, [setup, *map(ast.unparse, outside)]))
    missing = _used(tree) - _bound(tree) - known - {function, alias} - set(dir(builtins))
    if missing:
        raise TaskError(
            f"the tests of {function!r} use {sorted(missing)[0]!r}, which nothing but the program can define"
        )
    body = [node for node in body if not _says_nothing(node)]
    if not any(isinstance(node, ast.Assert) for top in body for node in ast.walk(top)):
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
    """The function that assertions call, builtins and methods aside; None if they call none.

    Args:
        code: The assertions.
        among: The names that it can have; any if None.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name = node.func.id
            if name in among if among is not None else not hasattr(builtins, name):
                return name
    return None


def _as_call(test: ast.expr, names: set[str], function: str) -> CallTest | None:
    """The call behind an assertion, or None if it is of another form."""
    if isinstance(test, ast.Call) and ast.unparse(test.func) in ("math.isclose", "isclose") and len(test.args) == 2:
        limits = {keyword.arg: _literal(keyword.value) for keyword in test.keywords}
        if set(limits) <= {"rel_tol", "abs_tol"} and all(isinstance(limit, float) for limit in limits.values()):
            return _call(test.args[0], test.args[1], names, function, max([1e-9, *limits.values()]))
        return None
    if not (isinstance(test, ast.Compare) and len(test.ops) == 1):
        return None
    left, operator, right = test.left, test.ops[0], test.comparators[0]
    if isinstance(operator, ast.Eq):
        return _call(left, right, names, function) or _call(right, left, names, function)
    if isinstance(operator, ast.Is) and isinstance(right, ast.Constant) and right.value in (None, True, False):
        return _call(left, right, names, function)
    if isinstance(operator, (ast.Lt, ast.LtE)) and isinstance(left, ast.Call) and ast.unparse(left.func) == "abs":
        tolerance = _literal(right)
        if len(left.args) == 1 and isinstance(tolerance, float):
            inner = left.args[0]
            if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub):
                left, right = inner.left, inner.right
                return _call(left, right, names, function, tolerance) or _call(right, left, names, function, tolerance)
    return None


def _call(
    call: ast.expr, value: ast.expr, names: set[str], function: str, tolerance: float | None = None
) -> CallTest | None:
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in names):
        return None
    args = [_literal(argument) for argument in call.args]
    kwargs = {keyword.arg: _literal(keyword.value) for keyword in call.keywords}
    expected = _literal(value)
    if None in kwargs or any(item is _UNKNOWN for item in (*args, *kwargs.values(), expected)):
        return None
    if tolerance is not None and not isinstance(expected, (int, float)):
        return None
    return CallTest(function, tuple(args), expected, {str(name): item for name, item in kwargs.items()}, tolerance)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _UNKNOWN


def _says_nothing(node: ast.stmt) -> bool:
    """A docstring, `pass`, or `assert True`."""
    if isinstance(node, ast.Assert):
        return isinstance(node.test, ast.Constant) and bool(node.test.value)
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _bound(tree: ast.AST) -> set[str]:
    return set(_bindings(ast.walk(tree)))


def _bindings(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (_names(node.names))
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name


def _names(aliases: Sequence[ast.alias]) -> list[str]:
    return [(alias.asname or alias.name).split(".")[0] for alias in aliases]


def _used(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
