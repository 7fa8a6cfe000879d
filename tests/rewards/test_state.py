"""Promises about rewards for the final state of a store."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, strategies as st

from toolrl import ConfigError, Episode, InfrastructureError, Task
from toolrl.rewards import StoreState, Table, WreckedStore, exact_match, read_state, state_difference, state_reward

COLUMNS = ("id", "name", "amount")
TASK = Task("t", "p", "7")
SCHEMA = "CREATE TABLE items (id INTEGER PRIMARY KEY, name, amount)"

values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False).map(lambda number: number + 0.0),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.binary(max_size=8),
)
tables = st.dictionaries(st.integers(0, 99), st.tuples(values, values), min_size=1, max_size=8).map(
    lambda rows: [(key, *rest) for key, rest in rows.items()]
)


def store_with(rows: list[tuple[Any, ...]]) -> sqlite3.Connection:
    store = sqlite3.connect(":memory:")
    store.execute(SCHEMA)
    store.executemany("INSERT INTO items VALUES (?, ?, ?)", rows)
    return store


def goal_of(rows: list[tuple[Any, ...]]) -> StoreState:
    return StoreState({"items": Table(COLUMNS, rows, ("id",))})


def differences(store: sqlite3.Connection, rows: list[tuple[Any, ...]], **options: Any) -> list[str]:
    return list(state_difference(read_state(store), goal_of(rows), **options))


def equal_values(left: Any, right: Any) -> bool:
    return type(left) is type(right) and left == right


# ---- comparing


@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_columns_does_not_matter(rows: list[tuple[Any, ...]], rng: Any) -> None:
    shuffled = rng.sample(rows, len(rows))
    assert differences(store_with(shuffled), rows) == []
    turned = StoreState({"items": Table(COLUMNS[::-1], [row[::-1] for row in rows])})
    assert list(state_difference(read_state(store_with(shuffled)), turned)) == []


@given(tables, st.data())
def test_any_single_change_is_found(rows: list[tuple[Any, ...]], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(rows) - 1))
    kind = data.draw(st.sampled_from(["delete", "insert", "name", "amount"]))
    store = store_with(rows)
    row = rows[place]
    if kind == "delete":
        store.execute("DELETE FROM items WHERE id = ?", row[:1])
        expected = "missing row"
    elif kind == "insert":
        store.execute("INSERT INTO items VALUES (?, ?, ?)", (data.draw(st.integers(100, 200)), *row[1:]))
        expected = "extra row"
    else:
        value = data.draw(values)
        assume(not equal_values(value, row[COLUMNS.index(kind)]))
        store.execute(f"UPDATE items SET {kind} = ? WHERE id = ?", (value, row[0]))
        expected = f"items (id={row[0]}): {kind} is "
    (difference,) = differences(store, rows)
    assert expected in difference


@pytest.mark.parametrize("value", ["1", 1.0, b"1", None, "1 ", 2, "Ⅰ"])
def test_values_of_different_types_differ(value: Any) -> None:
    assert len(differences(store_with([(1, "a", value)]), [(1, "a", 1)])) == 1


def test_rows_that_occur_twice_count_twice() -> None:
    store = sqlite3.connect(":memory:")
    store.execute("CREATE TABLE items (id, name, amount)")
    store.executemany("INSERT INTO items VALUES (?, ?, ?)", [(1, "a", 1)] * 2)
    assert differences(store, [(1, "a", 1)] * 2) == []
    assert len(differences(store, [(1, "a", 1)])) == 1
    assert len(differences(store, [(1, "a", 1)] * 3)) == 1


def test_ignored_columns_may_differ_and_no_others() -> None:
    store = store_with([(5, "b", 2), (9, "a", 1)])
    goal = [(1, "a", 1), (2, "b", 2)]
    assert differences(store, goal) != []
    assert differences(store, goal, ignore=["id"]) == []
    assert differences(store, goal, ignore=["items.id"]) == []
    assert differences(store, goal, ignore=["orders.id"]) != []
    assert differences(store, [(1, "a", 1), (2, "b", 3)], ignore=["id"]) != []
    assert differences(store, goal[:1], ignore=["id"]) != []
    assert differences(store, goal[:1], ignore=["items.*"]) == []


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("DROP TABLE items", "table items is missing"),
        ("CREATE TABLE more (x)", "table more should not be there"),
        ("ALTER TABLE items ADD COLUMN x", "table items has the columns id, name, amount, x, not id, name"),
        ("ALTER TABLE items RENAME TO things", "table items is missing"),
        ("CREATE VIEW v AS SELECT 1", "view v is not as it was"),
        ("CREATE TRIGGER g AFTER INSERT ON items BEGIN DELETE FROM items; END", "trigger g is not as it was"),
    ],
)
def test_a_change_of_the_schema_is_found(sql: str, said: str) -> None:
    store = store_with([(1, "a", 1)])
    store.execute(sql)
    assert differences(store, [(1, "a", 1)])[0].startswith(said)


def test_a_temporary_table_cannot_stand_in_for_a_real_one() -> None:
    store = store_with([(1, "a", 1)])
    store.execute("CREATE TEMP TABLE items AS SELECT 1 AS id, 'a' AS name, 2 AS amount")
    assert differences(store, [(1, "a", 1)]) == []
    assert differences(store, [(1, "a", 2)]) != []


def test_unusual_names_and_texts_are_read() -> None:
    store = sqlite3.connect(":memory:")
    store.row_factory = sqlite3.Row
    store.execute('CREATE TABLE "a ""b"" [c]" ("x y" TEXT)')
    store.execute("""INSERT INTO "a ""b"" [c]" VALUES (CAST(x'ff00' AS TEXT))""")
    (table,) = read_state(store).tables.values()
    assert (table.columns, list(table.rows)) == (("x y",), [("\udcff\0",)])
    assert store.text_factory is str


# ---- the reward


def opener(rows: list[tuple[Any, ...]]) -> Callable[[Task], sqlite3.Connection]:
    return lambda task: store_with(rows)


def episode_with(store: Any, answer: str | None = "<answer>7</answer>") -> Episode:
    return Episode(answer, state={"store": store})


REWARD = state_reward(lambda task: goal_of([(1, "a", 2)]), opener([(1, "a", 1)]), equal=exact_match)


def test_state_and_answer_must_both_be_right() -> None:
    right, wrong = store_with([(1, "a", 2)]), store_with([(1, "a", 1)])
    assert REWARD(TASK, episode_with(right)).value == 1.0
    assert REWARD(TASK, episode_with(wrong)).parts == {"correct": 0.0, "state": 0.0, "answer": 1.0}
    assert REWARD(TASK, episode_with(wrong)).reason == "items (id=1): amount is 1, not 2"
    for answer in (None, "done", "<answer>8</answer>", "<answer>7</answer><answer>7</answer>"):
        score = REWARD(TASK, episode_with(right, answer))
        assert (score.value, score.parts["state"]) == (0.0, 1.0)


def test_without_an_answer_to_compare_any_final_message_is_enough_but_one_is_needed() -> None:
    reward = state_reward(lambda task: goal_of([(1, "a", 2)]), opener([]))
    assert reward(TASK, episode_with(store_with([(1, "a", 2)]), "done")).value == 1.0
    assert reward(TASK, episode_with(store_with([(1, "a", 2)]), None)).value == 0.0


def test_a_store_that_no_call_opened_is_unchanged() -> None:
    assert REWARD(TASK, Episode("<answer>7</answer>")).value == 0.0
    unchanged = state_reward(lambda task: goal_of([(1, "a", 1)]), opener([(1, "a", 1)]))
    assert unchanged(TASK, Episode("done")).value == 1.0


def test_the_reason_lists_a_few_differences_briefly_and_counts_the_others() -> None:
    rows = [(i, "x" * 10_000, i) for i in range(50)]
    reason = REWARD(TASK, episode_with(store_with(rows))).reason
    assert reason.endswith("and 45 more differences")
    assert len(reason) < 1000


def test_calls_cost_only_successful_episodes() -> None:
    reward = state_reward(lambda task: goal_of([(1, "a", 2)]), opener([]), call_cost=0.1)
    calls: Any = [None] * 3
    assert reward(TASK, Episode("x", calls, state={"store": store_with([(1, "a", 2)])})).value == pytest.approx(0.7)
    assert reward(TASK, Episode("x", calls, state={"store": store_with([])})).value == 0.0


@pytest.mark.parametrize("options", [{"call_cost": -1.0}, {"max_differences": 0}])
def test_invalid_settings_are_rejected_when_the_reward_is_made(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        state_reward(lambda task: goal_of([]), opener([]), **options)


# ---- stores that cannot be read


def test_a_closed_connection_is_a_fault_not_a_verdict() -> None:
    store = store_with([])
    store.close()
    with pytest.raises(InfrastructureError, match="closed"):
        REWARD(TASK, episode_with(store))


def test_a_locked_file_is_a_fault_not_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.db"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute(SCHEMA)
    assert read_state(path) == read_state(holder)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, **{**options, "timeout": 0.01}))
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(InfrastructureError, match="locked"):
        REWARD(TASK, episode_with(path))
    holder.close()


def test_a_missing_folder_is_a_fault_not_a_verdict(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError):
        REWARD(TASK, episode_with(tmp_path / "gone" / "store.db"))


@pytest.mark.parametrize("content", [None, b"rubbish " * 1000])
def test_a_file_that_was_deleted_or_overwritten_earns_nothing(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "store.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WreckedStore):
        read_state(path)
    score = REWARD(TASK, episode_with(path))
    assert score.value == 0.0
    assert score.reason.startswith("the store is wrecked: ")


def test_a_table_of_too_many_rows_is_not_read_to_its_end() -> None:
    store = store_with([])
    store.execute(
        "CREATE VIEW endless AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT * FROM n"
    )
    assert read_state(store).tables.keys() == {"items"}
    store.executemany("INSERT INTO items VALUES (?, '', '')", [(i,) for i in range(11)])
    assert len(read_state(store, max_rows=11).tables["items"].rows) == 11
    with pytest.raises(WreckedStore, match="more than 10 rows"):
        read_state(store, max_rows=10)


def test_reading_changes_nothing() -> None:
    store = store_with([(1, "a", 1)])
    before = store.total_changes
    assert store.in_transaction
    read_state(store)
    assert (store.total_changes, store.in_transaction) == (before, True)
