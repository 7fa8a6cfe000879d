"""Tells from a program's text whether a call can leave anything behind for the next; if not, no fork is needed.

Only constructs known to be harmless are allowed. A wrong "no" costs a fork. A wrong "yes" gains a cheater nothing: a
program that alters its own later answers could just as well give other answers.
"""

from __future__ import annotations

import ast
import builtins
import importlib
from functools import cache

from toolrl.rewards.code.syntax import DEFINITIONS, FUNCTIONS, IMPORTS, UNREADABLE, bound_names
from toolrl.support.python_source import parse_python

_MODULES = {
    "__future__", "abc", "bisect", "cmath", "collections", "collections.abc", "copy", "dataclasses", "enum",
    "fractions", "functools", "heapq", "itertools", "json", "math", "numbers", "operator", "re", "statistics", "string",
    "textwrap", "typing", "unicodedata",
}  # fmt: skip
_CHANGERS = {
    "breakpoint", "compile", "copyright", "credits", "delattr", "eval", "exec", "exit", "getattr", "globals", "help",
    "input", "license", "locals", "memoryview", "open", "quit", "setattr", "vars", "__build_class__", "__debug__",
    "__import__", "__loader__", "__spec__",
}  # fmt: skip
_OF_SYS = ("stdin", "stdout", "stderr", "exit", "setrecursionlimit", "maxsize")
_OF_STREAMS = ("close", "detach", "reconfigure")  # affect the streams of later runs
_DECORATORS = {
    "staticmethod", "classmethod", "property", "dataclass", "dataclasses.dataclass", "total_ordering",
    "functools.total_ordering", "abstractmethod", "abc.abstractmethod",
}  # fmt: skip
_DUNDERS = ("__init__", "__name__", "__len__", "__iter__", "__next__", "__getitem__", "__contains__")


def leaves_nothing(code: str, prelude: str = "", *, is_run: bool = False) -> bool:
    """Whether no call of the program's functions can affect a later call.

    Args:
        code: The program.
        prelude: Code that is run first. Its imports need to be harmless only if the program uses them.
        is_run: Whether the whole program is run, each time with a new namespace and input, instead of calls.
    """
    try:
        above = [step for step in parse_python(prelude).body if not _prepares(step)] if prelude else []
        body = [*above, *parse_python(code).body]
        return _runs_harmlessly(body) if is_run else _is_harmless(body)
    except UNREADABLE:
        return False


def _prepares(step: ast.stmt) -> bool:
    call = step.value if isinstance(step, ast.Expr) else None
    limit = isinstance(call, ast.Call) and ast.unparse(call.func) == "sys.setrecursionlimit"
    return limit or isinstance(step, IMPORTS)


def _is_harmless(body: list[ast.stmt]) -> bool:
    nodes = [node for step in body for node in ast.walk(step)]
    lasting = set(_lasting_names(body))
    bound = lasting.union(bound_names(*nodes))
    return (
        all(map(_lasts_unchanged, body))
        and all(_is_local(node, lasting, bound) for node in nodes)
        and not (_sets_attributes(nodes) and _has_aliases(nodes))
    )


def _sets_attributes(nodes: list[ast.AST]) -> bool:
    """Whether attributes are set on objects that could be an alias of something that outlives a call."""
    changed = [node.value for node in nodes if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load)]
    return any(not (isinstance(value, ast.Name) and value.id == "self") for value in changed)


def _has_aliases(nodes: list[ast.AST]) -> bool:
    """Whether functions, classes or modules are used other than by name: called, or for an attribute."""
    named: set[ast.AST | None] = set()
    objects: set[str] = set()
    for node in nodes:
        if isinstance(node, (*DEFINITIONS, *IMPORTS)):
            objects |= {*bound_names(node)}
        if isinstance(node, ast.Call):
            named.add(node.func)
        elif isinstance(node, ast.Attribute):
            named.add(node.value)
        elif isinstance(node, (ast.arg, ast.AnnAssign)) and node.annotation is not None:
            named |= set(ast.walk(node.annotation))
        elif isinstance(node, FUNCTIONS) and node.returns is not None:
            named |= set(ast.walk(node.returns))
        elif isinstance(node, ast.ClassDef):
            named |= set(node.bases)
    names = [node for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    return any(name.id == "type" or (name.id in objects and name not in named) for name in names)


def _runs_harmlessly(body: list[ast.stmt]) -> bool:
    nodes = [node for step in body for node in ast.walk(step)]
    imported = {*bound_names(*(node for node in nodes if isinstance(node, IMPORTS)))}
    bound = {"input", "exit", "quit", "sys"}.union(bound_names(*nodes))
    for node in nodes:
        if isinstance(node, ast.Import) and all(alias.name in _MODULES | {"sys"} for alias in node.names):
            if any(alias.name == "sys" and alias.asname for alias in node.names):
                return False
        elif isinstance(node, ast.ImportFrom) and node.module == "sys":
            if any(alias.name not in _OF_SYS for alias in node.names):
                return False
        elif isinstance(node, ast.Name) and node.id == "sys":
            continue  # its attributes are checked
        elif isinstance(node, ast.Attribute):
            of_sys = isinstance(node.value, ast.Name) and node.value.id == "sys"
            if node.attr in _OF_STREAMS or (of_sys and node.attr not in _OF_SYS):
                return False
            if not _is_local(node, imported, bound):
                return False
        elif not isinstance(node, (ast.Global, ast.Nonlocal, ast.arguments)) and not _is_local(node, imported, bound):
            return False
    return True


def _lasts_unchanged(step: ast.stmt) -> bool:
    """Whether a statement of a module or class creates nothing that can change later."""
    if not isinstance(step, DEFINITIONS) and any(isinstance(node, ast.NamedExpr) for node in ast.walk(step)):
        return False
    if isinstance(step, FUNCTIONS):
        return all(ast.unparse(one) in _DECORATORS for one in step.decorator_list)
    if isinstance(step, ast.ClassDef):
        known = all(ast.unparse(one).split("(")[0] in _DECORATORS for one in step.decorator_list)
        return known and all(map(_lasts_unchanged, step.body))
    if isinstance(step, (ast.Assign, ast.AnnAssign)):
        targets = step.targets if isinstance(step, ast.Assign) else [step.target]
        return all(isinstance(name, ast.Name) for name in targets) and _is_fixed(step.value)
    if isinstance(step, ast.If):  # if __name__ == "__main__"
        return all(map(_lasts_unchanged, (*step.body, *step.orelse)))
    return isinstance(step, (ast.Import, ast.ImportFrom, ast.Expr, ast.Pass, ast.Assert))


def _is_fixed(value: ast.expr | None) -> bool:
    """Whether the value of an expression is immutable."""
    if isinstance(value, ast.Call):
        made = isinstance(value.func, ast.Name) and value.func.id in ("float", "int", "str", "len", "ord", "TypeVar")
        return made and not value.keywords and all(map(_is_fixed, value.args))
    if isinstance(value, ast.Tuple):
        return all(map(_is_fixed, value.elts))
    if isinstance(value, ast.BinOp):
        return _is_fixed(value.left) and _is_fixed(value.right)
    if isinstance(value, ast.UnaryOp):
        return _is_fixed(value.operand)
    return value is None or isinstance(value, (ast.Constant, ast.Lambda))


def _is_local(node: ast.AST, lasting: set[str], bound: set[str]) -> bool:
    """Whether a node neither changes nor reaches anything that outlives a call."""
    if isinstance(node, ast.Import):
        return all(alias.name in _MODULES for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return node.module in _MODULES and node.level == 0
    if isinstance(node, ast.Name):
        return node.id in bound or node.id in _known_names()
    if isinstance(node, ast.Attribute):
        if node.attr.startswith("__") and node.attr not in _DUNDERS:
            return False
        return isinstance(node.ctx, ast.Load) or (
            isinstance(node.value, ast.Name) and node.value.id not in lasting and node.value.id != "cls"
        )
    if isinstance(node, ast.arguments):
        return all(default is None or _is_fixed(default) for default in (*node.defaults, *node.kw_defaults))
    return not isinstance(node, (ast.Global, ast.Nonlocal))


def _lasting_names(body: list[ast.stmt]) -> list[str]:
    """The names in a module's namespace."""
    return bound_names(
        *(node for step in body for node in ([step] if isinstance(step, DEFINITIONS) else ast.walk(step)))
    )


@cache
def _known_names() -> frozenset[str]:
    """Names available without being bound: harmless builtins, and the names exported by harmless modules."""
    names = {name for name in dir(builtins) if name not in _CHANGERS}
    for module in _MODULES:
        there = importlib.import_module(module)
        names |= {module, *getattr(there, "__all__", dir(there))} - _CHANGERS
    return frozenset(names)
