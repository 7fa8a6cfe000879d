"""SQLite stores of the state-graded environments: opened from plain rows, and the states that tasks should lead to."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from toolrl.rewards import StoreState, Table

Row = dict[str, Any]
Rows = dict[str, list[Row]]


class Schema(NamedTuple):
    """The tables of a store.

    Attributes:
        columns: For each table, the SQL type of each column.
        keys: The primary keys of tables whose key is not the column "id".
    """

    columns: Mapping[str, Mapping[str, str]]
    keys: Mapping[str, tuple[str, ...]]

    def key(self, table: str) -> tuple[str, ...]:
        """The columns that identify a row."""
        return self.keys.get(table, ("id",))


def open_rows(schema: Schema, rows: Rows) -> sqlite3.Connection:
    """Open a new store in memory that holds these rows. Several threads may call it."""
    store = sqlite3.connect(":memory:", check_same_thread=False)
    for table, columns in schema.columns.items():
        parts = [f"{name} {kind}" for name, kind in columns.items()]
        if table in schema.keys:
            parts.append(f"PRIMARY KEY ({', '.join(schema.keys[table])})")
        store.execute(f"CREATE TABLE {table} ({', '.join(parts)})")
        values = [tuple(row.values()) for row in rows[table]]
        store.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", values)
    store.commit()
    return store


def changed_rows(schema: Schema, rows: Rows, changes: Iterable[Mapping[str, Any]]) -> StoreState:
    """The state of a store after changes to its rows.

    Args:
        schema: The tables.
        rows: What they hold at first.
        changes: Each with a `table` and a `row`, whose values update the row with the same key; a row with a new key
            is added.
    """

    def key(table: str, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[column] for column in schema.key(table))

    tables = {name: {key(name, row): row for row in table} for name, table in rows.items()}
    for change in changes:
        table, row = tables[change["table"]], change["row"]
        table[key(change["table"], row)] = {**table.get(key(change["table"], row), {}), **row}
    return StoreState(
        {
            name: Table(
                tuple(schema.columns[name]),
                [tuple(row[column] for column in schema.columns[name]) for row in table.values()],
                schema.key(name),
            )
            for name, table in tables.items()
        }
    )
