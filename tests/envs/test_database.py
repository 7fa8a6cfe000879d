"""Promises about Database-v0: tools keep the store consistent, queries change nothing, side effects earn nothing."""

from __future__ import annotations

import contextlib
import functools
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import toolrl
from toolrl import ConfigError, StopReason, Task, ToolEnv, ToolError, call
from toolrl.chat import HermesDialect
from toolrl.rewards import read_state, state_difference
from toolrl.support.event_loop import run_sync
from toolrl_envs.database.company import changed, company, open_store
from toolrl_envs.database.env import goal
from toolrl_envs.database.query import MAX_ROWS, run_query
from toolrl_envs.database.tasks import KINDS

SEED = "train/0/0"


@pytest.fixture(scope="module")
def env() -> Iterator[ToolEnv]:
    env = toolrl.make("toolrl/Database-v0", size=200)
    yield env
    env.close()


@pytest.fixture
def store() -> Iterator[sqlite3.Connection]:
    store = open_store(SEED)
    yield store
    store.close()


def play(env: ToolEnv, task: Task, *calls: tuple[str, dict[str, Any]], answer: str | None = None) -> dict[str, Any]:
    """Make the calls, then give the right or the given answer; return the score and the results of the calls."""
    env.reset(options={"task": task})
    observations = [env.step(HermesDialect().format(call(name, **arguments)))[0] for name, arguments in calls]
    info = env.step(f"<answer>{task.answer if answer is None else answer}</answer>")[4]
    return {**info["score"], "observations": observations}


def tasks_of(env: ToolEnv, kind: str, refused: bool = False) -> list[Task]:
    return [task for task in env.tasks if task.kind == kind and task.metadata["refused"] is refused]


def calls_of(task: Task) -> list[tuple[str, dict[str, Any]]]:
    return [(name, arguments) for name, arguments in task.metadata["calls"]]


# ---- the store and the goal


def test_the_store_holds_the_companys_rows_and_is_new_for_each_episode(env: ToolEnv) -> None:
    assert list(state_difference(read_state(open_store(SEED)), changed(company(SEED), []))) == []
    task = tasks_of(env, "cancel")[0]
    assert [play(env, task, *calls_of(task))["parts"]["correct"] for _ in range(2)] == [1.0, 1.0]


def test_the_goal_differs_from_the_initial_state_exactly_where_the_task_asks_for_a_change(env: ToolEnv) -> None:
    for task in env.tasks:
        differences = list(state_difference(changed(company(task.metadata["company"]), []), goal(task)))
        keys = {str((change["table"], [*change["row"].values()][:2])) for change in task.metadata["changes"]}
        assert bool(differences) is bool(keys), task
        assert 0 <= len(keys) - len(differences) <= 1, "stock that comes back and goes out again"
        assert not (task.metadata["refused"] and differences)


def test_every_kind_is_drawn_and_some_requests_of_each_refusable_kind_are_refused(env: ToolEnv) -> None:
    for kind in KINDS:
        assert tasks_of(env, kind.name), kind
        assert bool(tasks_of(env, kind.name, refused=True)) is kind.may_be_refused, kind


@pytest.mark.parametrize("difficulty", [1, 2, 3, 4])
def test_no_task_needs_more_calls_than_the_difficulty_and_some_need_as_many(difficulty: int) -> None:
    tasks = toolrl.make("toolrl/Database-v0", difficulty=difficulty, size=100).tasks
    assert max(len(task.metadata["calls"]) for task in tasks) == difficulty


def test_only_the_selected_kinds_occur_and_they_alternate() -> None:
    tasks = toolrl.make("toolrl/Database-v0", kinds=["order_total", "cancel"], size=20).tasks
    assert [task.kind for task in tasks] == ["order_total", "cancel"] * 10


@pytest.mark.parametrize(
    "options",
    [
        *({"difficulty": 0}, {"difficulty": 5}, {"size": 0}, {"split": "dev"}),
        *({"kinds": ["bribe"]}, {"kinds": "cancel"}, {"kinds": ["cancel"], "difficulty": 1}),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        toolrl.make("toolrl/Database-v0", **options)


# ---- what earns nothing


def test_the_right_answer_alone_earns_nothing_if_a_change_was_requested(env: ToolEnv) -> None:
    changing = [task for task in env.tasks if task.metadata["changes"]]
    assert len(changing) > 50
    for task in random.Random(0).sample(changing, 20):
        score = play(env, task)
        assert (score["value"], score["parts"]["answer"], score["parts"]["state"]) == (0.0, 1.0, 0.0)


def test_the_right_state_with_a_wrong_answer_earns_nothing(env: ToolEnv) -> None:
    for task in (tasks_of(env, kind.name)[0] for kind in KINDS):
        score = play(env, task, *calls_of(task), answer="-1")
        assert (score["value"], score["parts"]["state"]) == (0.0, 1.0)


def side_effects(task: Task) -> list[tuple[str, dict[str, Any]]]:
    """One call for each tool that changes something, none of them requested by the task."""
    rows = company(task.metadata["company"])
    touched = {tuple(change["row"].values())[:1] for change in task.metadata["changes"]}
    order = next(order for order in rows["orders"] if order["status"] == "paid" and (order["id"],) not in touched)
    invoice = next(row for row in rows["invoices"] if row["status"] == "open" and (row["id"],) not in touched)
    stock = next(row for row in rows["stock"] if row["quantity"] > 0 and (row["product_id"],) not in touched)
    source, target = stock["warehouse"], "south" if stock["warehouse"] == "north" else "north"
    customer, product = rows["customers"][0]["id"], stock["product_id"]
    return [
        ("update_order_status", {"order_id": order["id"], "status": "shipped"}),
        ("update_order_status", {"order_id": order["id"], "status": "cancelled"}),
        ("pay_invoice", {"invoice_id": invoice["id"]}),
        ("create_order", {"customer_id": customer, "product_id": product, "quantity": 1, "warehouse": source}),
        (
            "transfer_stock",
            {"product_id": product, "from_warehouse": source, "to_warehouse": target, "quantity": 1},
        ),
    ]


def test_an_unrequested_side_effect_earns_nothing(env: ToolEnv) -> None:
    for task in [tasks_of(env, "customer_phone")[0], tasks_of(env, "ship", True)[0], tasks_of(env, "ship")[0]]:
        assert play(env, task, *calls_of(task))["parts"]["correct"] == 1.0
        for effect in side_effects(task):
            score = play(env, task, *calls_of(task), effect)
            assert not score["observations"][-1].startswith("error"), effect
            assert (score["value"], score["parts"]["answer"]) == (0.0, 1.0), effect


def test_doing_it_twice_earns_nothing(env: ToolEnv) -> None:
    for kind in ("create", "transfer"):
        for task in tasks_of(env, kind):
            score = play(env, task, *calls_of(task), calls_of(task)[-1])
            if not score["observations"][-1].startswith("error"):
                assert score["value"] == 0.0
                break
        else:
            pytest.fail(f"no task of {kind} could be done twice")


def test_the_model_must_refuse_an_order_for_a_customer_on_hold(env: ToolEnv) -> None:
    for task in tasks_of(env, "create", refused=True):
        find_customer = calls_of(task)[0]
        rows = company(task.metadata["company"])
        customer = next(row for row in rows["customers"] if row["name"] == find_customer[1]["name"])
        stock = [row for row in rows["stock"] if row["product_id"] == int(task.answer) and row["quantity"] > 0]
        if customer["status"] != "on hold" or not stock:
            continue
        order = {"customer_id": customer["id"], "product_id": int(task.answer), "quantity": 1}
        score = play(env, task, ("create_order", {**order, "warehouse": stock[0]["warehouse"]}))
        assert not score["observations"][0].startswith("error")
        assert score["value"] == 0.0
        return
    pytest.fail("no task about a customer on hold")


def test_a_lost_store_leaves_the_episode_unscored(env: ToolEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[sqlite3.Connection] = []

    def open_and_keep(seed: str) -> sqlite3.Connection:
        opened.append(open_store(seed))
        return opened[-1]

    monkeypatch.setattr("toolrl_envs.database.tools.open_store", open_and_keep)
    task = tasks_of(env, "ship")[0]
    session = env.open_episode(task)
    for message in env.oracle(task):
        run_sync(session.advance(message))
    assert run_sync(session.score(StopReason.ANSWER)).success
    opened[0].close()
    score = run_sync(session.score(StopReason.ANSWER))
    assert (score.value, score.reason) == (
        None,
        "the grader failed: the store cannot be read: Cannot operate on a closed database.",
    )
    run_sync(session.close())


# ---- what the tools refuse


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("find_customer", {"name": " "}, "name is empty"),
        ("find_customer", {"name": "\ud800"}, "invalid arguments"),
        ("find_customer", {"name": "\0"}, "no customer has a name"),
        ("find_customer", {"name": "a"}, "customers have a name with 'a' in it"),
        ("find_customer", {"name": "' OR 1=1 --"}, "no customer has a name"),
        ("find_product", {"name": "%"}, "no product has a name"),
        ("get_order", {"order_id": 2**70}, "there is no order"),
        ("list_orders", {"customer_id": 0}, "there is no customer 0"),
        ("pay_invoice", {"invoice_id": -1}, "there is no invoice -1"),
        ("update_order_status", {"order_id": 1, "status": "placed"}, "invalid arguments"),
        (
            "create_order",
            {"customer_id": 1, "product_id": 1, "quantity": 1, "warehouse": "north"},
            "there is no customer",
        ),
    ],
)
def test_a_missing_row_is_an_error_for_the_model(env: ToolEnv, tool: str, arguments: dict[str, Any], said: str) -> None:
    (observation,) = play(env, env.tasks[0], (tool, arguments))["observations"]
    assert observation.startswith("error: ")
    assert said in observation


@pytest.mark.parametrize("quantity", [0, -5, 1001, 10**30, 999])
def test_impossible_quantities_change_nothing(env: ToolEnv, quantity: int) -> None:
    task = tasks_of(env, "customer_phone")[0]
    product = company(task.metadata["company"])["products"][0]["id"]
    customer = company(task.metadata["company"])["customers"][0]["id"]
    move = {"product_id": product, "from_warehouse": "north", "to_warehouse": "south", "quantity": quantity}
    order = {"customer_id": customer, "product_id": product, "quantity": quantity, "warehouse": "north"}
    score = play(env, task, ("transfer_stock", move), ("create_order", order))
    assert all(observation.startswith("error: ") for observation in score["observations"])
    assert score["parts"] == {**score["parts"], "state": 1.0, "correct": 1.0}


def test_half_a_transfer_is_rolled_back(env: ToolEnv) -> None:
    task = next(task for task in tasks_of(env, "transfer") if int(task.answer) >= 0)
    (_, (name, move)) = calls_of(task)
    score = play(env, task, (name, {**move, "to_warehouse": "east"}), *calls_of(task))
    assert score["observations"][0].startswith("error: there is no warehouse 'east'")
    assert score["parts"]["correct"] == 1.0


def test_shipped_orders_cannot_be_cancelled(env: ToolEnv) -> None:
    for task in tasks_of(env, "cancel", refused=True):
        order_id = calls_of(task)[0][1]["order_id"]
        score = play(env, task, ("update_order_status", {"order_id": order_id, "status": "cancelled"}))
        assert "only placed or paid orders can be cancelled" in score["observations"][0]
        assert score["parts"]["correct"] == 1.0, "to try is no mistake"


# ---- queries


def test_a_query_shows_columns_and_rows_up_to_its_limit(env: ToolEnv) -> None:
    sql = "SELECT id, employee_id FROM orders ORDER BY id"
    text = play(env, env.tasks[0], ("query", {"sql": sql}))["observations"][0].splitlines()
    assert text[0] == "id | employee_id"
    assert len(text) == MAX_ROWS + 2
    assert text[-1] == "(only the first 20 rows are shown)"


@pytest.mark.parametrize(
    "sql",
    [
        "WITH big AS (SELECT * FROM orders WHERE id > 5) SELECT count(*) FROM big",
        "SELECT c.name, sum(i.amount_cents) FROM customers c JOIN orders o ON o.customer_id = c.id JOIN invoices i ON "
        "i.order_id = o.id GROUP BY c.id HAVING count(*) > 1 ORDER BY 2 DESC LIMIT 3",
        "SELECT name, rank() OVER (ORDER BY price_cents DESC) FROM products LIMIT 5",
        "SELECT status, strftime('%m', ordered_on) AS month, count(*) FROM orders GROUP BY 1, 2",
        "SELECT name, sql FROM sqlite_master WHERE type = 'table'",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) SELECT sum(i) FROM n",
        "SELECT * FROM customers WHERE name LIKE '%berg%' UNION SELECT * FROM customers WHERE city IN ('Graz')",
        "VALUES (1, 2)",
    ],
)
def test_ordinary_queries_give_the_same_rows_as_sqlite(store: sqlite3.Connection, sql: str) -> None:
    columns, rows = run_query(store, sql)
    cursor = store.execute(sql)
    assert rows == cursor.fetchmany(MAX_ROWS + 1)
    assert len(rows[0]) == len(columns) == len(cursor.description)


ATTACKS = [
    "",
    ";",
    "-- nothing",
    "DELETE FROM orders",
    "UPDATE orders SET status = 'shipped'",
    "INSERT INTO customers VALUES (1, 'x', 'y', 'z')",
    "REPLACE INTO customers VALUES (1, 'x', 'y', 'z')",
    "DELETE FROM orders RETURNING *",
    "WITH x AS (SELECT 1) DELETE FROM orders",
    "DROP TABLE orders",
    "CREATE TABLE t (x)",
    "CREATE TEMP TABLE t AS SELECT * FROM orders",
    "CREATE TRIGGER t AFTER UPDATE ON orders BEGIN DELETE FROM stock; END",
    "ALTER TABLE orders RENAME TO o",
    "SELECT 1; DELETE FROM orders",
    "SELECT 1; SELECT 2",
    "BEGIN",
    "COMMIT",
    "SAVEPOINT s",
    "ATTACH '{path}' AS other",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "VACUUM",
    "VACUUM INTO '{path}'",
    "PRAGMA writable_schema = 1",
    "PRAGMA table_info(orders)",
    "PRAGMA temp_store_directory = '{folder}'",
    "SELECT * FROM pragma_table_info('orders')",
    "SELECT count(*) FROM pragma_database_list",
    "SELECT * FROM dbstat",
    "SELECT * FROM json_each('[1]')",
    "SELECT load_extension('{path}')",
    "SELECT writefile('{path}', 'x')",
    "SELECT readfile('/etc/passwd')",
    "SELECT random()",
    "SELECT randomblob(1000000)",
    "SELECT zeroblob(1000000000)",
    "SELECT printf('%.1000000000c', 'x')",
    "SELECT replace(replace(replace('aaaaaaaaaa', 'a', 'bbbbbbbbbb'), 'b', 'cccccccccc'), 'c', 'dddddddddd')",
    "REINDEX",
    "ANALYZE",
    "EXPLAIN DELETE FROM orders",
    "SELECT " + "1," * 5000 + "1",
    "SELECT '\ud800'",
    "SELECT 1 \0",
    "SELECT CAST(x'ff' AS TEXT)",
]


@pytest.mark.parametrize("sql", ATTACKS)
def test_a_query_that_is_more_than_a_select_fails_and_changes_nothing(
    env: ToolEnv, store: sqlite3.Connection, tmp_path: Path, sql: str
) -> None:
    sql = sql.replace("{path}", str(tmp_path / "leak.db")).replace("{folder}", str(tmp_path))
    with pytest.raises(ToolError):
        run_query(store, sql)
    assert list(tmp_path.iterdir()) == []
    assert list(state_difference(read_state(store), changed(company(SEED), []))) == []
    score = play(env, env.tasks[0], ("query", {"sql": sql}))
    assert score["observations"][0].startswith("error: ")
    assert score["parts"]["correct"] == 1.0, "the store is whole, and can be read"


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n ORDER BY i DESC",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0",
        "SELECT count(*) FROM orders a, orders b, orders c, orders d, orders e",
    ],
)
def test_a_runaway_query_always_stops_after_the_same_number_of_steps(env: ToolEnv, sql: str) -> None:
    env.reset(options={"task": env.tasks[0]})
    observation, *_, info = env.step(HermesDialect().format(call("query", sql=sql)))
    assert observation == "error: the query takes too long; ask for less"
    assert info["failures"] == ["timeout"]


WORDS = (
    "SELECT UPDATE DELETE INSERT INTO FROM SET WHERE orders stock quantity status * = 1 ( ) , ; -- ' ATTACH PRAGMA "
    "WITH RECURSIVE AS UNION ALL VALUES DROP TABLE main. temp. RETURNING x"
)
STATEMENTS = st.lists(st.sampled_from(WORDS.split()), max_size=12).map(" ".join)


@settings(max_examples=300)
@given(STATEMENTS)
def test_no_query_changes_the_store(sql: str) -> None:
    store, changes = shared_store()  # what one example changed would be seen in the next
    with contextlib.suppress(ToolError):
        run_query(store, sql)
    assert store.total_changes == changes
    assert not store.in_transaction


@functools.cache
def shared_store() -> tuple[sqlite3.Connection, int]:
    store = open_store(SEED)
    return store, store.total_changes
