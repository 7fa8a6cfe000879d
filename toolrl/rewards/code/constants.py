"""Finds functions and programs that give the same literal for every input, without executing them."""

from __future__ import annotations

import ast
import operator
from collections.abc import Iterator, Sequence
from typing import Any

from toolrl.rewards.code.syntax import DEFINITIONS, UNKNOWN, literal

TOO_LARGE = (RecursionError, MemoryError, ValueError)  # nested deeply, or an integer with too many digits to be printed
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv}
_LARGEST = 10**9  # operands: keeps folding cheap
_LONGEST = 10_000  # characters of a variable's value
_READERS = {"input", "open", "stdin", "argv", "fileinput", "read", "readline", "readlines"}


def constant_of(tree: ast.Module, name: str) -> tuple[Any, ast.AST]:
    """The value that a function always returns, without reading its arguments, and the function's node.

    The value is `UNKNOWN` if there is no such function. Methods of the class `Solution` count as functions.

    Raises:
        TOO_LARGE: The program is nested too deeply, or a number in it is too long.
    """
    definition: ast.AST = tree
    methods = [
        part for step in tree.body if isinstance(step, ast.ClassDef) and step.name == "Solution" for part in step.body
    ]
    for step in [*methods, *tree.body]:
        if isinstance(step, ast.FunctionDef) and step.name == name:
            definition = step
        elif isinstance(step, ast.Assign) and isinstance(step.value, ast.Lambda) and name in _targets(step):
            definition = step.value
    if not isinstance(definition, (ast.FunctionDef, ast.Lambda)):
        return UNKNOWN, tree
    if isinstance(definition, ast.Lambda):
        body: list[ast.stmt] = [ast.Return(definition.body)]
    else:
        body = definition.body
    nodes = [node for step in body for node in _own(step)]
    parameters = {part.arg for part in ast.walk(definition.args) if isinstance(part, ast.arg)}
    if any(isinstance(node, (ast.Yield, ast.YieldFrom)) or _reads(node, parameters) for node in nodes):
        return UNKNOWN, definition
    values = _variables(tree.body, nodes, parameters)
    results = [_fold(node.value, values) for node in nodes if isinstance(node, ast.Return)]
    if not results or not _always_returns(body) or any(repr(result) != repr(results[0]) for result in results):
        return UNKNOWN, definition
    return results[0], definition


def constant_output(tree: ast.Module) -> tuple[Any, ast.AST]:
    """The output of a program that reads nothing and prints only literals, or `UNKNOWN`; and a node of the program.

    Raises:
        TOO_LARGE: As `constant_of` does.
    """
    lines = []
    for node in ast.walk(tree):
        named = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        if named in _READERS or isinstance(node, (ast.For, ast.While)):
            return UNKNOWN, tree
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            values = [_fold(argument, {}) for argument in node.args]
            if node.keywords or UNKNOWN in values:
                return UNKNOWN, tree
            lines.append(" ".join(map(str, values)))
    return ("\n".join(lines), tree.body[-1]) if lines else (UNKNOWN, tree)


def _targets(node: ast.Assign) -> list[str]:
    return [target.id if isinstance(target, ast.Name) else "" for target in node.targets]


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """A node and its descendants in the same function, except statements without effect."""
    if isinstance(node, ast.Expr) and isinstance(node.value, (ast.Name, ast.Constant)):
        return
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and _targets(node) == ["_"]:
        return
    yield node
    if not isinstance(node, (*DEFINITIONS, ast.Lambda)):
        for child in ast.iter_child_nodes(node):
            yield from _own(child)


def _reads(node: ast.AST, names: set[str]) -> bool:
    if isinstance(node, (*DEFINITIONS, ast.Lambda)):
        return any(isinstance(part, ast.Name) and part.id in names for part in ast.walk(node))
    return isinstance(node, ast.Name) and node.id in names and isinstance(node.ctx, ast.Load)


def _variables(module: Sequence[ast.stmt], nodes: Sequence[ast.AST], parameters: set[str]) -> dict[str, Any]:
    """The values of names that are bound once, to a literal."""
    values: dict[str, Any] = dict.fromkeys(parameters, UNKNOWN)
    everywhere = [*(part for step in module for part in _own(step)), *nodes]
    bound = [part.id for part in everywhere if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load)]
    bound += [(part.asname or part.name).split(".")[0] for part in everywhere if isinstance(part, ast.alias)]
    for step in [*module, *nodes]:
        if isinstance(step, (ast.Assign, ast.AnnAssign)) and step.value is not None:
            for target in step.targets if isinstance(step, ast.Assign) else [step.target]:
                if isinstance(target, ast.Name) and bound.count(target.id) == 1:
                    value = _fold(step.value, values)
                    # Without a bound, repeated doubling would exhaust the memory.
                    values[target.id] = value if len(repr(value)) < _LONGEST else UNKNOWN
    return values


def _fold(node: ast.AST | None, values: dict[str, Any]) -> Any:
    if node is None:
        return None
    if isinstance(node, ast.Name):
        return values.get(node.id, UNKNOWN)
    if isinstance(node, (ast.List, ast.Tuple)):
        parts = [_fold(part, values) for part in node.elts]
        known = all(part is not UNKNOWN for part in parts)
        return (parts if isinstance(node, ast.List) else tuple(parts)) if known else UNKNOWN
    if isinstance(node, ast.BinOp):
        left, right = _fold(node.left, values), _fold(node.right, values)
        small = all(type(side) in (int, float) and abs(side) < _LARGEST for side in (left, right))
        joined = isinstance(node.op, ast.Add) and type(left) is type(right) and type(left) in (str, list, tuple)
        operation = _OPERATORS.get(type(node.op))
        if operation is None or not (small or joined) or (right == 0 and isinstance(node.op, ast.FloorDiv)):
            return UNKNOWN
        return operation(left, right)
    return literal(node)


def _always_returns(body: Sequence[ast.stmt]) -> bool:
    last = body[-1]
    if isinstance(last, ast.If):
        return bool(last.orelse) and _always_returns(last.body) and _always_returns(last.orelse)
    if isinstance(last, ast.With):
        return _always_returns(last.body)
    return isinstance(last, ast.Return)
