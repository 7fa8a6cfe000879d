"""Read-only SQL for a model: it runs on a copy, so it cannot change the store."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from toolrl import ToolError
from toolrl_envs.database.company import SCHEMA

MAX_ROWS = 20
# Steps of SQLite's virtual machine, not seconds, so that a query ends the same way on any machine.
MAX_STEPS = 1_000_000
_STEPS_BETWEEN_CHECKS = 1000
_MAX_VALUE_BYTES = 1000  # so that no step takes long
_MAX_SQL_BYTES = 4000

# None of these is random, reads the clock unasked, or makes large values of small ones.
_FUNCTIONS = {
    *("abs", "avg", "max", "min", "round", "sum", "total", "count", "group_concat"),
    *("coalesce", "ifnull", "iif", "nullif", "typeof", "glob", "like", "instr"),
    *("length", "lower", "upper", "substr", "substring", "trim", "ltrim", "rtrim", "replace"),
    *("date", "julianday", "strftime"),
    *("dense_rank", "first_value", "lag", "last_value", "lead", "rank", "row_number"),
}
_TABLES = {*SCHEMA.columns, "sqlite_master", "sqlite_schema"}
_ALLOWED = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE)


def run_query(store: sqlite3.Connection, sql: str) -> tuple[list[str], list[tuple[object, ...]]]:
    """Run one SELECT on a copy of the store.

    Returns:
        The column names, and up to `MAX_ROWS + 1` rows, so that the caller sees whether there are more.

    Raises:
        ToolError: It is not a single SELECT, reads anything but the tables, or takes too many steps.
    """
    steps = 0

    def count_steps() -> bool:
        nonlocal steps
        steps += _STEPS_BETWEEN_CHECKS
        return steps >= MAX_STEPS

    with closing(sqlite3.connect(":memory:")) as copy:
        store.backup(copy)
        copy.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
        copy.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, _MAX_SQL_BYTES)
        copy.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        copy.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 100)
        copy.set_authorizer(_authorize)
        copy.set_progress_handler(count_steps, _STEPS_BETWEEN_CHECKS)
        try:
            cursor = copy.execute(sql)
            if cursor.description is None:
                raise ToolError("query takes one SELECT; use the other tools to change something")
            rows = cursor.fetchmany(MAX_ROWS + 1)
        except (sqlite3.Error, sqlite3.Warning, ValueError, UnicodeError) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                raise ToolError("the query takes too long; ask for less", timed_out=True) from None
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_AUTH:
                raise ToolError(f"only SELECT on the company's tables is allowed ({error})") from None
            raise ToolError(str(error)) from None
        return [column[0] for column in cursor.description], rows


def _authorize(action: int, first: str | None, second: str | None, database: str | None, source: str | None) -> int:
    if action in _ALLOWED:
        return sqlite3.SQLITE_OK
    # A table without a column is read by count(*), for example, and may be the query's own (WITH).
    if action == sqlite3.SQLITE_READ and (not second or (first or "").lower() in _TABLES):
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FUNCTIONS:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY
