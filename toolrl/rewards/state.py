"""Final states: the tables of an environment's SQLite store, compared with those of the goal.

The grader reads the store itself, from `Episode.state`; what the model says about it does not count.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolrl.errors import ConfigError, InfrastructureError
from toolrl.rewards.economy import check_call_cost, with_call_cost
from toolrl.rewards.extraction import tagged_answer
from toolrl.types import Episode, Score, Task

Row = tuple[Any, ...]

MAX_ROWS = 200_000
_MAX_VALUE_CHARACTERS = 60
# SQLite's errors for a file that is not, or no longer, a database. No other read error is the model's fault.
_WRECKED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)


@dataclass(frozen=True, slots=True)
class Table:
    """The contents of a table.

    Attributes:
        columns: The names of its columns.
        rows: In any order, each with a value per column: None, int, float, str or bytes.
        key: The columns that identify a row in a difference; the primary key.
    """

    columns: Sequence[str]
    rows: Sequence[Row]
    key: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class StoreState:
    """The contents of a store.

    Attributes:
        tables: By name, except SQLite's own.
        objects: The SQL of views and triggers, by "view NAME" and "trigger NAME".
    """

    tables: Mapping[str, Table]
    objects: Mapping[str, str] = field(default_factory=dict)


class WreckedStore(ValueError):
    """The store is no longer a database, or is too large to be a goal."""


def read_state(store: sqlite3.Connection | str | os.PathLike[str], *, max_rows: int = MAX_ROWS) -> StoreState:
    """Read a whole SQLite store.

    Args:
        store: An open connection, whose main database is read, uncommitted changes included; or a file, which is
            opened read-only.
        max_rows: A store with a larger table counts as wrecked.

    Raises:
        WreckedStore: The file is gone from its folder or is not a database, or a table has too many rows.
        InfrastructureError: The store cannot be read: the connection is closed, the disk fails, or it is locked.
    """
    try:
        if isinstance(store, sqlite3.Connection):
            return _read(store, max_rows)
        path = Path(store).absolute()
        if path.parent.is_dir() and not path.is_file():
            raise WreckedStore(f"{path.name} is no longer a file")
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            return _read(connection, max_rows)
    except sqlite3.Error as error:
        # The low byte is the primary error code.
        if (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in _WRECKED:
            raise WreckedStore(str(error)) from error
        raise InfrastructureError(f"the store cannot be read: {error}") from error


def state_difference(found: StoreState, wanted: StoreState, *, ignore: Collection[str] = ()) -> Iterator[str]:
    """Describe the differences between two states, one by one.

    The order of rows does not matter, types do: 1, 1.0 and "1" are three values.

    Args:
        found: The actual state.
        wanted: The goal.
        ignore: Columns that may differ, as "column" or "table.column"; "table.*" for a whole table.
    """
    skipped = {name.removesuffix(".*") for name in ignore if name.endswith(".*")}
    for name in sorted((found.tables.keys() | wanted.tables.keys()) - skipped):
        if name not in found.tables:
            yield f"table {name} is missing"
        elif name not in wanted.tables:
            yield f"table {name} should not be there"
        else:
            yield from _table_difference(name, found.tables[name], wanted.tables[name], ignore)
    for name in sorted(found.objects.keys() | wanted.objects.keys()):
        if found.objects.get(name) != wanted.objects.get(name):
            yield f"{name} is {'missing' if name not in found.objects else 'not as it was'}"


def state_reward(
    goal: Callable[[Task], StoreState],
    open_store: Callable[[Task], Any],
    *,
    store: str = "store",
    ignore: Collection[str] = (),
    equal: Callable[[str, Any], bool] | None = None,
    call_cost: float = 0.0,
    max_differences: int = 5,
) -> Callable[[Task, Episode], Score]:
    """Make a reward: 1 if the store's final state is the goal, and the `<answer>` is right if one is compared.

    An episode without a final message earns 0: it was cut before the model had finished. A store that the model wrecked
    earns 0; one that cannot be read for another reason leaves the episode unscored.

    Args:
        goal: Returns the goal of a task; the initial state, if nothing is to be changed.
        open_store: Opens a task's store as the tools' `per_episode(...)` does; used for an episode in which no call
            needed it.
        store: The name of the tools' parameter that holds the store: a `sqlite3.Connection`, or the path of a file.
        ignore: See `state_difference`.
        equal: Compares the `<answer>` with `task.answer`; None ignores answers.
        call_cost: Deducted for each tool call of a successful episode; see `with_call_cost`.
        max_differences: The number of differences that the reason lists.

    Raises:
        ConfigError: `call_cost` is negative, or `max_differences` is below 1.
    """
    check_call_cost(call_cost)
    if max_differences < 1:
        raise ConfigError(f"max_differences must be at least 1, got {max_differences!r}")

    def reward(task: Task, episode: Episode) -> Score:
        answer = tagged_answer(episode.answer)
        said = equal is None or (answer is not None and equal(answer, task.answer))
        try:
            with _store_of(task, episode, store, open_store) as opened:
                differences = list(state_difference(read_state(opened), goal(task), ignore=ignore))
        except WreckedStore as error:
            differences = [f"the store is wrecked: {error}"]
        reasons = differences[:max_differences]
        if len(differences) > max_differences:
            reasons.append(f"and {len(differences) - max_differences} more differences")
        if episode.answer is None:
            reasons.insert(0, "no final message")
        elif not said:
            reasons.insert(0, "no single <answer>...</answer>" if answer is None else f"expected {task.answer!r}")
        parts = {"correct": float(not reasons), "state": float(not differences)}
        if equal is not None:
            parts["answer"] = float(said)
        return with_call_cost(
            Score(float(not reasons), parts, answer, "; ".join(reasons) or "right"), episode, call_cost
        )

    return reward


@contextmanager
def _store_of(task: Task, episode: Episode, name: str, open_store: Callable[[Task], Any]) -> Iterator[Any]:
    if name in episode.state:
        yield episode.state[name]
        return
    opened = open_store(task)
    try:
        yield opened
    finally:
        getattr(opened, "close", lambda: None)()


def _read(connection: sqlite3.Connection, max_rows: int) -> StoreState:
    text_factory = connection.text_factory
    connection.text_factory = _decode
    try:
        cursor = connection.cursor()
        cursor.row_factory = None
        schema = cursor.execute("SELECT type, name, sql FROM main.sqlite_master").fetchall()
        tables = {name: _read_table(cursor, name, max_rows) for kind, name, _ in schema if _is_table(kind, name)}
    finally:
        connection.text_factory = text_factory
    return StoreState(tables, {f"{kind} {name}": sql for kind, name, sql in schema if kind in ("view", "trigger")})


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")  # SQLite does not validate text


def _is_table(kind: str, name: str) -> bool:
    return kind == "table" and not name.startswith("sqlite_")


def _read_table(cursor: sqlite3.Cursor, name: str, max_rows: int) -> Table:
    quoted = '"' + name.replace('"', '""') + '"'
    keys = {row[1]: row[5] for row in cursor.execute(f"PRAGMA main.table_info({quoted})") if row[5]}
    rows = cursor.execute(f"SELECT * FROM main.{quoted}").fetchmany(max_rows + 1)
    if len(rows) > max_rows:
        raise WreckedStore(f"table {name} has more than {max_rows} rows")
    columns = tuple(column[0] for column in cursor.description)
    return Table(columns, rows, tuple(sorted(keys, key=keys.__getitem__)))


def _table_difference(name: str, found: Table, wanted: Table, ignore: Collection[str]) -> Iterator[str]:
    def compared(table: Table) -> list[str]:
        return [column for column in table.columns if column not in ignore and f"{name}.{column}" not in ignore]

    columns = compared(wanted)
    if set(compared(found)) != set(columns):
        yield f"table {name} has the columns {', '.join(found.columns)}, not {', '.join(wanted.columns)}"
        return
    found_rows, wanted_rows = _count(found, columns), _count(wanted, columns)
    extra, missing = list((found_rows - wanted_rows).elements()), list((wanted_rows - found_rows).elements())
    key = [columns.index(column) for column in wanted.key if column in columns]
    has_key = bool(key) and len(key) == len(wanted.key)
    by_key = {tuple(row[i] for i in key): row for row in extra} if has_key else {}
    changed = set()
    for row in missing:
        other = by_key.pop(tuple(row[i] for i in key), None)
        if other is None:
            yield f"{name}: missing row {_show(columns, row)}"
            continue
        changed.add(other)
        changes = (
            f"{column} is {_short(is_[1])}, not {_short(should[1])}"
            for column, is_, should in zip(columns, other, row, strict=True)
            if is_ != should
        )
        known = _show([columns[i] for i in key], [row[i] for i in key])
        yield f"{name} {known}: {', '.join(changes)}"
    for row in extra:
        if row not in changed:
            yield f"{name}: extra row {_show(columns, row)}"


def _count(table: Table, columns: Sequence[str]) -> Counter[tuple[tuple[type, Any], ...]]:
    places = [list(table.columns).index(column) for column in columns]
    return Counter(tuple((type(row[i]), row[i]) for i in places) for row in table.rows)


def _show(columns: Sequence[str], row: Sequence[tuple[type, Any]]) -> str:
    return "(" + ", ".join(f"{column}={_short(value)}" for column, (_, value) in zip(columns, row, strict=True)) + ")"


def _short(value: Any) -> str:
    text = repr(value[: _MAX_VALUE_CHARACTERS * 2] if isinstance(value, str | bytes) else value)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else text[: _MAX_VALUE_CHARACTERS - 3] + "..."
