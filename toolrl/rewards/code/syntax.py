"""What the readers of a program's text share. Nothing is executed."""

from __future__ import annotations

import ast
from typing import Any

UNKNOWN = object()
"""Stands for the value of an expression that is not a literal."""

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)

UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""Raised for a text that is not Python, or nested too deeply to be parsed."""


def literal(node: ast.AST) -> Any:
    """The value of a literal; `UNKNOWN` for any other expression."""
    try:
        return ast.literal_eval(node)
    except (*UNREADABLE, TypeError):
        return UNKNOWN


def dotted_name(node: ast.AST | None) -> str:
    """The text of a name or an attribute, such as `a.b.c`; any other expression in it counts as empty."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted_name(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def bound_names(*nodes: ast.AST) -> list[str]:
    """The names that these nodes themselves bind."""
    names = []
    for node in nodes:
        if isinstance(node, DEFINITIONS):
            names.append(node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.append(node.id)
        elif isinstance(node, ast.arg):
            names.append(node.arg)
        elif isinstance(node, IMPORTS):
            names += [(alias.asname or alias.name).split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.append(node.name)
    return names
