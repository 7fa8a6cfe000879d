"""The shop's tools. They keep the store consistent; whether the agent keeps the policy, the table `changes` shows."""

from __future__ import annotations

import sqlite3
from typing import Any

from toolrl import Ended, ToolError, tool
from toolrl_envs.retail.shop import STORE, VOUCHER_CENTS, money, reference
from toolrl_envs.stores import Row

_MAX_ITEMS = 10


@tool
def find_customer_by_email(email: str, store: sqlite3.Connection = STORE) -> dict[str, Any]:
    """Identify a customer by the email address that they gave.

    Args:
        email: The address.
    """
    return _identify(store, "lower(email) = lower(?)", email.strip())


@tool
def find_customer_by_name(name: str, zip_code: str, store: sqlite3.Connection = STORE) -> dict[str, Any]:
    """Identify a customer by the full name and the zip code that they gave.

    Args:
        name: The full name.
        zip_code: The zip code.
    """
    return _identify(store, "lower(name) = lower(?) AND zip_code = ?", name.strip(), zip_code.strip())


@tool
def list_orders(customer_id: int, store: sqlite3.Connection = STORE) -> list[dict[str, Any]]:
    """List a customer's orders.

    Args:
        customer_id: The customer's id.
    """
    sql = "SELECT id AS order_id, status, ordered_on FROM orders WHERE customer_id = ? ORDER BY id"
    orders = _rows(store, sql, customer_id)
    if not orders:
        raise ToolError(f"customer {customer_id} has no orders")
    _record_look(store, orders[0]["order_id"])
    return [{**order, "items": [item["name"] for item in _items(store, order["order_id"])]} for order in orders]


@tool
def get_order(order_id: int, store: sqlite3.Connection = STORE) -> dict[str, Any]:
    """Show an order with its items, dates and address.

    Args:
        order_id: The order number.
    """
    order = _order(store, order_id)
    _record_look(store, order_id)
    return {**order, "items": [_priced(item) for item in _items(store, order_id)]}


@tool
def get_product(product_id: int, store: sqlite3.Connection = STORE) -> dict[str, Any]:
    """Show a product with its variants: colour, price and stock of each.

    Args:
        product_id: The product's id.
    """
    found = _rows(store, "SELECT id AS product_id, name, final_sale FROM products WHERE id = ?", product_id)
    if not found:
        raise ToolError(f"there is no product {product_id}")
    sql = "SELECT id AS variant_id, colour, price_cents, stock FROM variants WHERE product_id = ? ORDER BY id"
    variants = [_priced(row) for row in _rows(store, sql, product_id)]
    return {**found[0], "final_sale": bool(found[0]["final_sale"]), "variants": variants}


@tool
def cancel_order(order_id: int, store: sqlite3.Connection = STORE) -> dict[str, Any]:
    """Cancel a whole order and refund it.

    Args:
        order_id: The order number.
    """
    order = _order(store, order_id)
    if order["status"] == "cancelled":
        raise ToolError(f"order {order_id} is cancelled already")
    cents = sum(item["price_cents"] for item in _items(store, order_id))
    with store:
        store.execute("UPDATE orders SET status = 'cancelled' WHERE id = ?", (order_id,))
        return _record(store, order_id, "cancel", cents=cents, refund=money(cents))


@tool
def change_address(
    order_id: int, street: str, city: str, zip_code: str, store: sqlite3.Connection = STORE
) -> dict[str, Any]:
    """Change the address that an order goes to.

    Args:
        order_id: The order number.
        street: House number and street.
        city: The city.
        zip_code: The zip code.
    """
    _order(store, order_id)
    address = tuple(part.strip() for part in (street, city, zip_code))
    if not all(address):
        raise ToolError("street, city and zip_code must not be empty")
    with store:
        store.execute("UPDATE orders SET street = ?, city = ?, zip_code = ? WHERE id = ?", (*address, order_id))
        return _record(store, order_id, "address", detail=", ".join(address))


@tool
def return_items(order_id: int, variant_ids: list[int], store: sqlite3.Connection = STORE) -> dict[str, Any]:
    """Take items of an order back and refund them.

    Args:
        order_id: The order number.
        variant_ids: The variant ids of the items.
    """
    if not 1 <= len(set(variant_ids)) == len(variant_ids) <= _MAX_ITEMS:
        raise ToolError(f"variant_ids must be 1 to {_MAX_ITEMS} different ids, got {variant_ids}")
    items = [_kept_item(store, order_id, variant_id) for variant_id in variant_ids]
    total = money(sum(item["price_cents"] for item in items))
    made: dict[str, Any] = {}
    with store:
        for item in items:
            _set_item(store, item, "returned")
            made = _record(store, order_id, "return", item["variant_id"], cents=item["price_cents"], refund=total)
    return made


@tool
def exchange_item(
    order_id: int, variant_id: int, new_variant_id: int, store: sqlite3.Connection = STORE
) -> dict[str, Any]:
    """Exchange an item of an order for another variant of the same product; the difference is charged or refunded.

    Args:
        order_id: The order number.
        variant_id: The variant id of the item.
        new_variant_id: The variant that replaces it.
    """
    item = _kept_item(store, order_id, variant_id)
    sql = "SELECT * FROM variants WHERE id = ? AND product_id = (SELECT product_id FROM variants WHERE id = ?)"
    found = _rows(store, sql, new_variant_id, variant_id)
    if not found or new_variant_id == variant_id:
        raise ToolError(f"{new_variant_id} is not another variant of the same product")
    if not found[0]["stock"]:
        raise ToolError(f"variant {new_variant_id} is out of stock")
    cents = item["price_cents"] - found[0]["price_cents"]
    with store:
        _set_item(store, item, "exchanged")
        store.execute("UPDATE variants SET stock = stock - 1 WHERE id = ?", (new_variant_id,))
        difference = {"refund" if cents > 0 else "charge": money(abs(cents))}
        return _record(store, order_id, "exchange", variant_id, str(new_variant_id), cents, **difference)


@tool
def give_voucher(order_id: int, store: sqlite3.Connection = STORE) -> dict[str, Any]:
    """Give the customer of an order a voucher as a compensation.

    Args:
        order_id: The order number.
    """
    _order(store, order_id)
    with store:
        return _record(store, order_id, "voucher", cents=VOUCHER_CENTS, voucher=money(VOUCHER_CENTS))


@tool
def transfer_to_human(order_id: int, reason: str, store: sqlite3.Connection = STORE) -> Ended:
    """Hand the conversation over to a human colleague, which ends it.

    Args:
        order_id: The order that it is about.
        reason: Why, in a few words.
    """
    with store:
        _record(store, order_id, "transfer")
    return Ended("The customer is transferred to a human.", reason="transferred")


TOOLS = (
    find_customer_by_email,
    find_customer_by_name,
    list_orders,
    get_order,
    get_product,
    cancel_order,
    change_address,
    return_items,
    exchange_item,
    give_voucher,
    transfer_to_human,
)


def _rows(store: sqlite3.Connection, sql: str, *values: str | int) -> list[Row]:
    # Numbers that do not fit into SQLite match nothing, like -1.
    cursor = store.execute(sql, [-1 if isinstance(value, int) and abs(value) >= 2**63 else value for value in values])
    columns = [column[0] for column in cursor.description]
    return [dict(zip(columns, row, strict=True)) for row in cursor]


def _identify(store: sqlite3.Connection, condition: str, *values: str) -> Row:
    sql = "SELECT id AS customer_id, name, email, street, city, zip_code FROM customers WHERE"
    found = _rows(store, f"{sql} {condition}", *values)
    if not found:
        raise ToolError("no customer has these details")
    with store:
        store.execute("INSERT OR IGNORE INTO identified VALUES (?)", (found[0]["customer_id"],))
    return found[0]


def _order(store: sqlite3.Connection, order_id: int) -> Row:
    sql = (
        "SELECT id AS order_id, customer_id, status, ordered_on, promised_for, delivered_on, tracking, street, city, "
        "zip_code FROM orders WHERE id = ?"
    )
    found = _rows(store, sql, order_id)
    if not found:
        raise ToolError(f"there is no order {order_id}")
    return found[0]


def _items(store: sqlite3.Connection, order_id: int) -> list[Row]:
    sql = (
        "SELECT variant_id, product_id, colour || ' ' || name AS name, order_items.price_cents, status "
        "FROM order_items JOIN variants ON variants.id = variant_id JOIN products ON products.id = product_id "
        "WHERE order_id = ? ORDER BY variant_id"
    )
    return _rows(store, sql, order_id)


def _priced(row: Row) -> Row:
    return {**{name: row[name] for name in row if name != "price_cents"}, "price": money(row["price_cents"])}


def _kept_item(store: sqlite3.Connection, order_id: int, variant_id: int) -> Row:
    _order(store, order_id)
    for item in _items(store, order_id):
        if item["variant_id"] == variant_id:
            if item["status"] != "ordered":
                raise ToolError(f"item {variant_id} of order {order_id} is {item['status']} already")
            return {**item, "order_id": order_id}
    raise ToolError(f"order {order_id} has no item {variant_id}")


def _set_item(store: sqlite3.Connection, item: Row, status: str) -> None:
    sql = "UPDATE order_items SET status = ? WHERE order_id = ? AND variant_id = ?"
    store.execute(sql, (status, item["order_id"], item["variant_id"]))


def _record_look(store: sqlite3.Connection, order_id: int) -> None:
    """Record that an order is looked at before anybody has been identified."""
    if not _rows(store, "SELECT 1 FROM identified"):
        with store:
            _record(store, order_id, "look")


def _record(
    store: sqlite3.Connection,
    order_id: int,
    action: str,
    variant_id: int | None = None,
    detail: str = "",
    cents: int = 0,
    **shown: str,
) -> Row:
    """Record a change, within the caller's transaction; returns what the tool shows."""
    owned = "SELECT 1 FROM identified JOIN orders USING (customer_id) WHERE orders.id = ?"
    known = "SELECT 1 FROM identified" if action in ("look", "transfer") else owned
    identified = bool(_rows(store, known, *([order_id] if known is owned else [])))
    confirmed = bool(_rows(store, "SELECT 1 FROM consents WHERE order_id = ? AND action = ?", order_id, action))
    store.execute(
        "INSERT INTO changes VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
        (order_id if abs(order_id) < 2**63 else -1, action, variant_id, detail, cents, identified, confirmed),
    )
    return {"order_id": order_id, "reference": reference(order_id, action), **shown}
