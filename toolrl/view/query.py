"""A query language over episodes: a Python expression that is parsed and never executed.

    success == 0 and calls('python') > 2 and stop == 'limit'
    0.2 < pass_rate < 0.8
    'heap' in answer and step >= 100
    error == 'timeout' or part('visible') > part('hidden')

A query has fields (`FIELDS`), functions of a name (`FUNCTIONS`), numbers, strings, True, False, None and lists of them;
`and`, `or`, `not`, chained comparisons, `in` and arithmetic. Everything is computed on whole columns.

A missing value, such as the reward of an unscored episode, is None. As in SQL, a comparison with it is neither true nor
false: neither `reward < 1` nor `not (reward < 1)` matches that episode, and `reward is None` does.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pyarrow
import pyarrow.compute as pc

from toolrl.errors import QueryError
from toolrl.support.python_source import parse_python
from toolrl.types import StopReason
from toolrl.view.columns import FIELDS, FUNCTIONS, LOOKED_UP

_LIMITS = [str(stop) for stop in StopReason if stop.truncated]
_MAX_CHARACTERS, _MAX_NODES = 2_000, 400
_SHOWN_NAMES = 20

Value = Any  # a column, or a constant


class Query:
    """A query, parsed and checked; `mask` applies it."""

    def __init__(self, text: str):
        """Parse a query.

        Raises:
            QueryError: It cannot be parsed, or names an unknown field.
        """
        self.text = text
        if len(text) > _MAX_CHARACTERS:
            raise QueryError(f"the query has {len(text)} characters; the limit is {_MAX_CHARACTERS}")
        try:
            self._root = parse_python(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
            raise QueryError(
                f"cannot parse the query {text!r}: {reason}. Write, for example: success == 0 and calls('python') > 2"
            ) from None
        nodes = list(ast.walk(self._root))
        if len(nodes) > _MAX_NODES:
            raise QueryError(f"the query has {len(nodes)} parts; the limit is {_MAX_NODES}")
        for node in nodes:
            _check(node)

    def mask(self, table: pyarrow.Table) -> pyarrow.ChunkedArray:
        """The rows that match: booleans (N,) without nulls.

        Raises:
            QueryError: It compares values of different types, or is not a condition.
        """
        with self._explained():
            value = _Evaluation(table).condition(self._root)
            if not _is_column(value):
                return pyarrow.chunked_array([numpy.full(table.num_rows, bool(_constant(value)))])
            return pc.fill_null(value, False)

    def value(self, table: pyarrow.Table) -> pyarrow.ChunkedArray:
        """What it computes for each row (N,), nulls included.

        Raises:
            QueryError: It cannot be computed, or is a constant.
        """
        with self._explained():
            value = _Evaluation(table).value(self._root)
        if not _is_column(value):
            raise QueryError(f"{self.text!r} is the same for all episodes; name a field, such as kind")
        return value if isinstance(value, pyarrow.ChunkedArray) else pyarrow.chunked_array([value])

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (pyarrow.ArrowException, OverflowError) as error:  # such as numbers that a column cannot hold
            raise QueryError(f"cannot compute {self.text!r}: {error}") from None


def read_column(table: pyarrow.Table, text: str) -> pyarrow.ChunkedArray:
    """The values (N,) of an expression of the language, such as `part('format')`, or of a fact in `info` by its name.

    Raises:
        QueryError: It cannot be understood, or no episode has such a fact.
    """
    is_fact = text.isidentifier() and text not in FIELDS
    query = Query(f"info({text!r})" if is_fact else text)
    value = query.value(table)
    if is_fact and pyarrow.types.is_null(value.type):
        known = sorted({name for info in table["info"].to_pylist() for name in json.loads(info)})
        shown = ", ".join(known[:_SHOWN_NAMES]) or "none"
        raise QueryError(f"there is no field or recorded fact {text!r}; the facts are {shown}, the fields {_names()}")
    return value


def _names() -> str:
    return ", ".join(FIELDS)


def _check(node: ast.AST) -> None:
    if isinstance(node, ast.Name):
        if node.id not in FIELDS and node.id not in FUNCTIONS:
            close = difflib.get_close_matches(node.id, [*FIELDS, *FUNCTIONS], n=2)
            hint = f" (did you mean {' or '.join(close)}?)" if close else ""
            raise QueryError(f"unknown field {node.id!r}{hint}; the fields are {_names()}")
    elif isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        if name not in FUNCTIONS:
            raise QueryError(f"unknown function {name!r}; the functions are {', '.join(FUNCTIONS.values())}")
        given = node.args[0] if len(node.args) == 1 and not node.keywords else None
        if not isinstance(given, ast.Constant) or not isinstance(given.value, str):
            raise QueryError(f"{ast.unparse(node)!r}: a function takes one name in quotes, as in {FUNCTIONS[name]}")
    elif isinstance(node, ast.Constant):
        if not isinstance(node.value, str | int | float | None):
            raise QueryError(f"{node.value!r} is neither a number nor a string")
        if isinstance(node.value, int) and abs(node.value) >= 2**63:
            raise QueryError("an integer has at most 63 bits; write a larger one as 1e20")
        if isinstance(node.value, str) and re.search("[\ud800-\udfff]", node.value):
            raise QueryError(f"{node.value!r} has a lone surrogate, which no field has")
    elif not isinstance(node, _ALLOWED):
        raise QueryError(f"{type(node).__name__} is not allowed in a query: {_shown(node)}")


def _shown(node: ast.AST) -> str:
    return repr(ast.unparse(node)) if isinstance(node, ast.expr) else type(node).__name__


_ARITHMETIC: dict[type[ast.operator], Callable[[Value, Value], Value]] = {
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    ast.Div: pc.divide,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Value, Value], Value]] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_ALLOWED = (
    ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare, ast.List, ast.Tuple, ast.Set, ast.Load, ast.And, ast.Or, ast.Not,
    ast.USub, ast.In, ast.NotIn, ast.Is, ast.IsNot, *_ARITHMETIC, *_COMPARISONS,
)  # fmt: skip


class _Evaluation:
    """One query on one table."""

    def __init__(self, table: pyarrow.Table):
        self._table = table

    def condition(self, node: ast.expr) -> Value:
        """Booleans with nulls, or one boolean for all rows."""
        if isinstance(node, ast.BoolOp):
            combine = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
            values = [self.condition(part) for part in node.values]
            result = values[0]
            for value in values[1:]:
                result = combine(_boolean(result), _boolean(value))
            return result
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return pc.invert(_boolean(self.condition(node.operand)))
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            result = None
            for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
                value = self._compare(left, operator, right)
                result = value if result is None else pc.and_kleene(_boolean(result), _boolean(value))
            return result
        value = self.value(node)
        if isinstance(value, bool) or (isinstance(value, _COLUMNS) and pyarrow.types.is_boolean(value.type)):
            return value
        raise QueryError(f"{ast.unparse(node)!r} is not a condition; compare it with something")

    def value(self, node: ast.expr) -> Value:
        """A column, a constant, or a list of constants."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            if node.id not in self._table.column_names:
                raise QueryError(f"{node.id!r} is a function; write {FUNCTIONS[node.id]}")
            return self._table[node.id]
        if isinstance(node, ast.Call):
            assert isinstance(node.func, ast.Name)
            assert isinstance(node.args[0], ast.Constant)
            return self._function(node.func.id, str(node.args[0].value))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            number = self._number(node.operand)
            return pc.negate(number) if _is_column(number) else -number.as_py()
        if isinstance(node, ast.BinOp):
            left, right = self._number(node.left), self._number(node.right)
            return _ARITHMETIC[type(node.op)](left, right)
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            values = [self.value(element) for element in node.elts]
            if any(_is_column(value) or isinstance(value, list) for value in values):
                raise QueryError(f"{ast.unparse(node)!r}: a list may hold only numbers and strings")
            return values
        return self.condition(node)

    def _number(self, node: ast.expr) -> Value:
        value = self.value(node)
        if _kind(value) != "number":
            raise QueryError(f"{ast.unparse(node)!r} is not a number")
        return pc.cast(value, pyarrow.float64()) if _is_column(value) else pyarrow.scalar(float(_constant(value)))

    def _function(self, name: str, argument: str) -> Value:
        if name == "info":
            return _read_info(self._table["info"], argument)
        column = self._table[LOOKED_UP[name]].combine_chunks()
        values = pc.map_lookup(column, argument, "last")
        if pyarrow.types.is_integer(values.type):  # a count
            return pyarrow.chunked_array([pc.fill_null(values, 0)])
        if self._table.num_rows and values.null_count == len(values):
            known = sorted(pc.unique(column.keys).to_pylist())
            shown = ", ".join(known[:_SHOWN_NAMES]) + (" ..." if len(known) > _SHOWN_NAMES else "")
            raise QueryError(f"no episode has {name}({argument!r}); the names are {shown or 'none'}")
        return pyarrow.chunked_array([values])

    def _compare(self, left_node: ast.expr, operator: ast.cmpop, right_node: ast.expr) -> Value:
        left, right = self.value(left_node), self.value(right_node)
        text = f"{ast.unparse(left_node)} and {ast.unparse(right_node)}"
        negated = isinstance(operator, ast.NotEq | ast.NotIn | ast.IsNot)
        if isinstance(operator, ast.In | ast.NotIn):
            found = self._contains(left, right, text)
            return pc.invert(found) if negated else found
        if isinstance(operator, ast.Is | ast.IsNot) or left is None or right is None:
            if not isinstance(operator, ast.Is | ast.IsNot | ast.Eq | ast.NotEq):
                raise QueryError(f"{text}: None cannot be ordered; write `is None`")
            column = left if right is None else right
            if (left is not None and right is not None) or not _is_column(column):
                raise QueryError(f"{text}: `is` only tests whether a field is None")
            nothing = pc.equal(pc.list_value_length(column), 0) if _kind(column) == "list" else pc.is_null(column)
            return pc.invert(nothing) if negated else nothing
        if not _is_column(left) and not _is_column(right):
            raise QueryError(f"{text}: one side of a comparison must be a field")
        if not _is_column(left):
            return self._compare(right_node, _MIRRORED.get(type(operator), operator), left_node)
        if _kind(left) == "list" or (_is_stop(left_node) and right == "limit"):
            if not isinstance(operator, ast.Eq | ast.NotEq):
                raise QueryError(f"{text}: only == and != apply here")
            if not isinstance(right, str):
                raise QueryError(f"{text}: the field is a list of strings, and == tests for one of them")
            found = _has(left, right) if _kind(left) == "list" else pc.is_in(left, pyarrow.array(_LIMITS))
            return pc.invert(found) if negated else found
        if "None" in (_kind(left), _kind(right)):
            return pyarrow.chunked_array([pyarrow.nulls(self._table.num_rows, pyarrow.bool_())])
        if _kind(left) != _kind(right):
            raise QueryError(f"{text} cannot be compared: {_kind(left)} and {_kind(right)}")
        return _COMPARISONS[type(operator)](_plain(left), _plain(right))

    def _contains(self, item: Value, container: Value, text: str) -> Value:
        if isinstance(container, list):
            if not _is_column(item):
                raise QueryError(f"{text}: only a field can be in a list")
            if _kind(item) == "list" or {_kind(value) for value in container} - {_kind(item)}:
                raise QueryError(f"{text} cannot be compared: {_kind(item)} and a list of something else")
            wanted = [limit for value in container for limit in (_LIMITS if value == "limit" else [_plain(value)])]
            values = pyarrow.array(wanted, pyarrow.float64() if _kind(item) == "number" else pyarrow.string())
            found = pc.is_in(pc.cast(_plain(item), values.type), values)
            return pc.if_else(pc.is_valid(item), found, None)
        if not isinstance(item, str) or _kind(container) not in ("string", "list"):
            raise QueryError(f"{text}: `in` tests for a string in a field, or for a field in a list")
        return _has(container, item) if _kind(container) == "list" else pc.match_substring(container, item)


_MIRRORED: dict[type[ast.cmpop], ast.cmpop] = {
    ast.Lt: ast.Gt(),
    ast.LtE: ast.GtE(),
    ast.Gt: ast.Lt(),
    ast.GtE: ast.LtE(),
}


_COLUMNS = (pyarrow.Array, pyarrow.ChunkedArray)


def _is_column(value: Value) -> bool:
    return isinstance(value, _COLUMNS)


def _constant(value: Value) -> Any:
    return value.as_py() if isinstance(value, pyarrow.Scalar) else value


def _is_stop(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "stop"


def _kind(value: Value) -> str:
    if isinstance(value, list):
        return "list of constants"
    if value is None:
        return "None"
    if not _is_column(value) and not isinstance(value, pyarrow.Scalar):
        return "string" if isinstance(value, str) else "number"
    if pyarrow.types.is_list(value.type):
        return "list"
    if pyarrow.types.is_null(value.type):
        return "None"
    return "string" if pyarrow.types.is_string(value.type) or pyarrow.types.is_large_string(value.type) else "number"


def _plain(value: Value) -> Value:
    """True and False count as 1 and 0, as in Python."""
    if _is_column(value) and pyarrow.types.is_boolean(value.type):
        return pc.cast(value, pyarrow.int8())
    return int(value) if isinstance(value, bool) else value


def _boolean(value: Value) -> Value:
    return pyarrow.scalar(value, pyarrow.bool_()) if value is None or isinstance(value, bool) else value


def _has(lists: pyarrow.ChunkedArray, item: Any) -> pyarrow.ChunkedArray:
    """Which lists contain an item."""
    whole = lists.combine_chunks() if isinstance(lists, pyarrow.ChunkedArray) else lists
    parents = pc.list_parent_indices(whole).filter(pc.equal(pc.list_flatten(whole), item))
    found = numpy.zeros(len(whole), bool)
    found[parents.to_numpy()] = True
    return pyarrow.chunked_array([found])


def _read_info(texts: pyarrow.ChunkedArray, name: str) -> pyarrow.ChunkedArray:
    values = [json.loads(text).get(name) for text in texts.to_pylist()]
    if all(value is None for value in values):
        return pyarrow.chunked_array([pyarrow.nulls(len(values))])
    if all(value is None or isinstance(value, bool) for value in values):
        return pyarrow.chunked_array([pyarrow.array(values, pyarrow.bool_())])
    if all(value is None or isinstance(value, int | float) for value in values):
        return pyarrow.chunked_array([pyarrow.array(values, pyarrow.float64(), from_pandas=True)])
    texts_only = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    # Lone surrogates, which Arrow cannot hold, are replaced.
    held = [value if value is None else value.encode("utf-8", "replace").decode() for value in texts_only]
    return pyarrow.chunked_array([pyarrow.array(held, pyarrow.string())])
