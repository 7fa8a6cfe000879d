"""Programs that give the value of an example whatever they are asked; nothing is executed here."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Any

from toolrl.rewards.code_tests import CallTest, CodeTest, StdioTest
from toolrl.rewards.code_values import same_output, same_value

_UNKNOWN = object()
_READERS = {"input", "open", "stdin", "argv", "fileinput", "read", "readline", "readlines"}


def constant_answers(tree: ast.Module, visible: Sequence[CodeTest]) -> Iterator[ast.AST]:
    """Places where the value of a visible test is given without a look at the input.

    Where several visible tests of different inputs all have the same value, a constant may be right, and is no sign.
    """
    calls = [test for test in visible if isinstance(test, CallTest)]
    for name, function in _functions(tree):
        expected = [test.expected for test in calls if test.function == name]
        if expected and _varied(expected):
            for value, place in _constants_returned(function):
                if any(same_value(value, known) for known in expected):
                    yield place
    outputs = [test.stdout for test in visible if isinstance(test, StdioTest)]
    if outputs and _varied(outputs):
        printed = _printed(tree)
        if printed is not None and any(same_output(printed, output) for output in outputs):
            yield tree.body[-1]


def _varied(values: Sequence[Any]) -> bool:
    return len(values) == 1 or any(not same_value(value, values[0]) for value in values[1:])


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda]]:
    """Functions and methods by name, lambdas that are given one among them."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
            yield from ((target.id, node.value) for target in node.targets if isinstance(target, ast.Name))


def _constants_returned(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> list[tuple[Any, ast.AST]]:
    """What it returns, if that is one constant on every path and it never looks at an argument; else nothing."""
    parameters = {argument.arg for argument in ast.walk(function.args) if isinstance(argument, ast.arg)} - {"self"}
    body: Sequence[ast.AST] = [function.body] if isinstance(function, ast.Lambda) else function.body
    inside = [node for step in body for node in ast.walk(step)]
    if not parameters or any(isinstance(node, ast.Name) and node.id in parameters for node in inside):
        return []
    if isinstance(function, ast.Lambda):
        returned: list[ast.AST] = [function.body]
    else:
        returned = [node.value for node in inside if isinstance(node, ast.Return) and node.value is not None]
    names = _assigned_once(inside)
    values = [_literal(names.get(node.id, node) if isinstance(node, ast.Name) else node) for node in returned]
    same = bool(values) and all(value is not _UNKNOWN and same_value(value, values[0]) for value in values)
    return [(values[0], returned[0])] if same else []


def _assigned_once(nodes: Sequence[ast.AST]) -> dict[str, ast.AST]:
    assigned: dict[str, list[ast.AST]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    assigned.setdefault(target.id, []).append(node.value)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            assigned.setdefault(node.id, [])
        elif isinstance(node, (ast.AugAssign, ast.For, ast.NamedExpr)) and isinstance(node.target, ast.Name):
            assigned.setdefault(node.target.id, []).extend((node, node))
    return {name: values[0] for name, values in assigned.items() if len(values) == 1}


def _printed(tree: ast.Module) -> str | None:
    """What a program prints, if it prints constants only and reads nothing; None otherwise."""
    lines = []
    for node in ast.walk(tree):
        named = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        if named in _READERS or isinstance(node, (ast.For, ast.While)):
            return None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            values = [_literal(argument) for argument in node.args]
            if node.keywords or any(value is _UNKNOWN for value in values):
                return None
            lines.append(" ".join(map(str, values)))
    return "\n".join(lines) if lines else None


def _literal(node: ast.AST) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _UNKNOWN
