"""The company's tools. Each checks its arguments and works on the episode's store in one transaction."""

from __future__ import annotations

import sqlite3
from typing import Any, Literal

from toolrl import Task, ToolError, per_episode, tool
from toolrl_envs.database.company import OPEN_STATUSES, TODAY, open_store
from toolrl_envs.database.query import MAX_ROWS, run_query

MAX_MATCHES = 5
MAX_QUANTITY = 1000
_NEXT = {"shipped": ("paid",), "delivered": ("shipped",), "cancelled": OPEN_STATUSES}


def open_for(task: Task) -> sqlite3.Connection:
    """Open the store of a task's company."""
    return open_store(task.metadata["company"])


# One resource for all tools: they share the episode's store.
_store = per_episode(open_for)


@tool
def find_customer(name: str, store: sqlite3.Connection = _store) -> list[dict[str, Any]]:
    """Find customers by name, or by a part of it.

    Args:
        name: The name or a part of it.
    """
    return _find(store, "customers", name)


@tool
def find_product(name: str, store: sqlite3.Connection = _store) -> list[dict[str, Any]]:
    """Find products by name, or by a part of it, with the stock of each warehouse.

    Args:
        name: The name or a part of it.
    """
    found = _find(store, "products", name)
    for product in found:
        stock = store.execute("SELECT warehouse, quantity FROM stock WHERE product_id = ?", (product["id"],))
        product["stock"] = dict(stock.fetchall())
    return found


@tool
def list_orders(customer_id: int, store: sqlite3.Connection = _store) -> list[dict[str, Any]]:
    """List a customer's orders.

    Args:
        customer_id: The customer's id.
    """
    _one(store, "SELECT id FROM customers WHERE id = ?", customer_id, what="customer")
    ids = store.execute("SELECT id FROM orders WHERE customer_id = ? ORDER BY id", (_whole(customer_id),)).fetchall()
    return [_order(store, order_id) for (order_id,) in ids]


@tool
def get_order(order_id: int, store: sqlite3.Connection = _store) -> dict[str, Any]:
    """Show an order with its lines and its invoice.

    Args:
        order_id: The order's id.
    """
    return _order(store, order_id)


@tool
def update_order_status(
    order_id: int, status: Literal["shipped", "delivered", "cancelled"], store: sqlite3.Connection = _store
) -> dict[str, Any]:
    """Set an order's status. Cancelling puts the goods back in stock and voids the invoice.

    Args:
        order_id: The order's id.
        status: The new status.
    """
    order = _order(store, order_id)
    if order["status"] not in _NEXT[status]:
        raise ToolError(
            f"order {order_id} is {order['status']}; only {' or '.join(_NEXT[status])} orders can be {status}"
        )
    with store:
        store.execute("UPDATE orders SET status = ? WHERE id = ?", (status, order_id))
        if status == "cancelled":
            store.execute("UPDATE invoices SET status = 'void' WHERE order_id = ?", (order_id,))
            for line in order["lines"]:
                _move(store, line["product_id"], order["warehouse"], line["quantity"])
    return _order(store, order_id)


@tool
def create_order(
    customer_id: int, product_id: int, quantity: int, warehouse: str, store: sqlite3.Connection = _store
) -> dict[str, Any]:
    """Place an order of one product for a customer, and write its invoice.

    Args:
        customer_id: The customer's id.
        product_id: The product's id.
        quantity: How many.
        warehouse: The warehouse that delivers.
    """
    _one(store, "SELECT id FROM customers WHERE id = ?", customer_id, what="customer")
    (price,) = _one(store, "SELECT price_cents FROM products WHERE id = ?", product_id, what="product")
    _check_quantity(quantity)
    with store:
        _move(store, product_id, warehouse, -quantity)
        (order_id,) = store.execute("SELECT max(id) + 1 FROM orders").fetchone()
        (invoice_id,) = store.execute("SELECT max(id) + 1 FROM invoices").fetchone()
        order = (order_id, customer_id, None, warehouse, TODAY.isoformat(), "placed")
        store.execute("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?)", order)
        store.execute("INSERT INTO order_lines VALUES (?, ?, ?, ?)", (order_id, product_id, quantity, price))
        store.execute("INSERT INTO invoices VALUES (?, ?, ?, 'open')", (invoice_id, order_id, quantity * price))
    return _order(store, order_id)


@tool
def pay_invoice(invoice_id: int, store: sqlite3.Connection = _store) -> dict[str, Any]:
    """Record that an open invoice was paid; its order is then paid too.

    Args:
        invoice_id: The invoice's id.
    """
    order_id, status = _one(store, "SELECT order_id, status FROM invoices WHERE id = ?", invoice_id, what="invoice")
    if status != "open":
        raise ToolError(f"invoice {invoice_id} is {status}; only open ones can be paid")
    with store:
        store.execute("UPDATE invoices SET status = 'paid' WHERE id = ?", (invoice_id,))
        store.execute("UPDATE orders SET status = 'paid' WHERE id = ? AND status = 'placed'", (order_id,))
    return _order(store, order_id)


@tool
def transfer_stock(
    product_id: int, from_warehouse: str, to_warehouse: str, quantity: int, store: sqlite3.Connection = _store
) -> dict[str, int]:
    """Move stock of a product from one warehouse to another; shows what both have then.

    Args:
        product_id: The product's id.
        from_warehouse: Where it is taken from.
        to_warehouse: Where it goes.
        quantity: How many.
    """
    _one(store, "SELECT id FROM products WHERE id = ?", product_id, what="product")
    _check_quantity(quantity)
    if from_warehouse == to_warehouse:
        raise ToolError("from_warehouse and to_warehouse are the same")
    with store:
        _move(store, product_id, from_warehouse, -quantity)
        _move(store, product_id, to_warehouse, quantity)
    return dict(store.execute("SELECT warehouse, quantity FROM stock WHERE product_id = ?", (product_id,)).fetchall())


@tool
def query(sql: str, store: sqlite3.Connection = _store) -> str:
    """Run one SELECT on the company's tables (SQLite); it changes nothing.

    Args:
        sql: The SELECT statement.
    """
    columns, rows = run_query(store, sql)
    lines = [
        " | ".join(columns),
        *(" | ".join("NULL" if value is None else str(value) for value in row) for row in rows),
    ]
    if len(rows) > MAX_ROWS:
        lines[-1] = f"(only the first {MAX_ROWS} rows are shown)"
    return "\n".join(lines)


TOOLS = (
    find_customer,
    find_product,
    list_orders,
    get_order,
    update_order_status,
    create_order,
    pay_invoice,
    transfer_stock,
    query,
)


def _find(store: sqlite3.Connection, table: Literal["customers", "products"], name: str) -> list[dict[str, Any]]:
    if not name.strip():
        raise ToolError("name is empty; give a part of it")
    cursor = store.execute(f"SELECT * FROM {table} WHERE instr(lower(name), ?) ORDER BY id", (name.strip().lower(),))
    columns = [column[0] for column in cursor.description]
    rows = cursor.fetchall()
    if not rows:
        raise ToolError(f"no {table.removesuffix('s')} has a name with {name!r} in it")
    if len(rows) > MAX_MATCHES:
        raise ToolError(f"{len(rows)} {table} have a name with {name!r} in it; give more of it")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _one(store: sqlite3.Connection, sql: str, row_id: int, *, what: str) -> tuple[Any, ...]:
    row = store.execute(sql, (_whole(row_id),)).fetchone()
    if row is None:
        raise ToolError(f"there is no {what} {row_id}")
    return tuple(row)


def _whole(number: int) -> int:
    return number if abs(number) < 2**63 else -1  # larger numbers do not fit into SQLite


def _order(store: sqlite3.Connection, order_id: int) -> dict[str, Any]:
    sql = "SELECT id, customer_id, warehouse, ordered_on, status FROM orders WHERE id = ?"
    row = _one(store, sql, order_id, what="order")
    order: dict[str, Any] = dict(zip(("id", "customer_id", "warehouse", "ordered_on", "status"), row, strict=True))
    lines = store.execute("SELECT product_id, quantity, price_cents FROM order_lines WHERE order_id = ?", (row[0],))
    order["lines"] = [dict(zip(("product_id", "quantity", "price_cents"), line, strict=True)) for line in lines]
    invoice = store.execute("SELECT id, amount_cents, status FROM invoices WHERE order_id = ?", (row[0],)).fetchone()
    order["invoice"] = dict(zip(("id", "amount_cents", "status"), invoice, strict=True))
    return order


def _check_quantity(quantity: int) -> None:
    if not 1 <= quantity <= MAX_QUANTITY:
        raise ToolError(f"quantity must be from 1 to {MAX_QUANTITY}, got {quantity}")


def _move(store: sqlite3.Connection, product_id: int, warehouse: str, quantity: int) -> None:
    sql = "SELECT quantity FROM stock WHERE product_id = ? AND warehouse = ?"
    row = store.execute(sql, (product_id, warehouse)).fetchone()
    if row is None:
        raise ToolError(f"there is no warehouse {warehouse!r} with product {product_id}")
    if row[0] + quantity < 0:
        raise ToolError(f"warehouse {warehouse!r} has only {row[0]} of product {product_id}")
    sql = "UPDATE stock SET quantity = quantity + ? WHERE product_id = ? AND warehouse = ?"
    store.execute(sql, (quantity, product_id, warehouse))
