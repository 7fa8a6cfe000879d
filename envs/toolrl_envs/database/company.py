"""A made-up company: its tables as plain rows, drawn from a seed, and the SQLite store that holds them.

Money is in whole cents. The goal of a task is computed on the rows (`changed`), not with the tools.
"""

from __future__ import annotations

import functools
import random
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import Any

from toolrl.rewards import StoreState
from toolrl_envs.people import draw_names, words
from toolrl_envs.stores import Row, Rows, Schema, changed_rows, open_rows

TODAY = date(2024, 6, 28)
WAREHOUSES = ("north", "south")
OPEN_STATUSES = ("placed", "paid")
STATUSES = (*OPEN_STATUSES, "shipped", "delivered", "cancelled")

_COLUMNS = {
    "customers": {
        "id": "INTEGER PRIMARY KEY",
        "name": "TEXT NOT NULL",
        "city": "TEXT NOT NULL",
        "phone": "TEXT NOT NULL",
        "status": "TEXT NOT NULL",
    },
    "employees": {"id": "INTEGER PRIMARY KEY", "name": "TEXT NOT NULL", "department": "TEXT NOT NULL"},
    "products": {"id": "INTEGER PRIMARY KEY", "name": "TEXT NOT NULL", "price_cents": "INTEGER NOT NULL"},
    "stock": {
        "product_id": "INTEGER NOT NULL REFERENCES products",
        "warehouse": "TEXT NOT NULL",
        "quantity": "INTEGER NOT NULL CHECK (quantity >= 0)",
    },
    "orders": {
        "id": "INTEGER PRIMARY KEY",
        "customer_id": "INTEGER NOT NULL REFERENCES customers",
        "employee_id": "INTEGER REFERENCES employees",
        "warehouse": "TEXT NOT NULL",
        "ordered_on": "TEXT NOT NULL",
        "status": "TEXT NOT NULL",
    },
    "order_lines": {
        "order_id": "INTEGER NOT NULL REFERENCES orders",
        "product_id": "INTEGER NOT NULL REFERENCES products",
        "quantity": "INTEGER NOT NULL",
        "price_cents": "INTEGER NOT NULL",
    },
    "invoices": {
        "id": "INTEGER PRIMARY KEY",
        "order_id": "INTEGER NOT NULL REFERENCES orders",
        "amount_cents": "INTEGER NOT NULL",
        "status": "TEXT NOT NULL",
    },
}
SCHEMA = Schema(_COLUMNS, {"stock": ("product_id", "warehouse"), "order_lines": ("order_id", "product_id")})

_CITIES = words("Arnhem Basel Bergen Bruges Cork Delft Gdansk Ghent Graz Leeds Lund Lyon Malmo Porto Turin Vigo")
_DEPARTMENTS = ("sales", "warehouse", "accounting")
_MATERIALS = words("oak steel linen glass wool copper paper cork clay bamboo")
_GOODS = words("desk lamp chair shelf rug vase bowl clock tray stool frame basket kettle mirror")


@functools.lru_cache(maxsize=64)
def company(seed: str) -> Rows:
    """The company with this seed. Callers share its rows and must not change them; `changed` copies them."""
    rng = random.Random(f"company/{seed}")
    names = iter(draw_names(rng, 40))
    base = rng.randint(100, 899) * 100
    customers = [
        {
            "id": base + i,
            "name": next(names),
            "city": rng.choice(_CITIES),
            "phone": f"0{rng.randint(20, 89)}-{rng.randint(100_000, 999_999)}",
            "status": _status(rng),
        }
        for i in range(30)
    ]
    employees = [{"id": i + 1, "name": next(names), "department": rng.choice(_DEPARTMENTS)} for i in range(6)]
    goods = rng.sample([f"{material} {thing}" for material in _MATERIALS for thing in _GOODS], 20)
    products = [
        {"id": base // 10 + i, "name": name, "price_cents": rng.randint(5, 400) * 100 - rng.choice((1, 5, 50))}
        for i, name in enumerate(goods)
    ]
    stock = [
        {"product_id": product["id"], "warehouse": warehouse, "quantity": rng.randint(60, 900)}
        for product in products
        for warehouse in WAREHOUSES
    ]
    rows: Rows = {
        "customers": customers,
        "employees": employees,
        "products": products,
        "stock": stock,
        "orders": [],
        "order_lines": [],
        "invoices": [],
    }
    first_order, first_invoice = rng.randint(1000, 9000) * 10, rng.randint(1000, 9000) * 10
    day = TODAY - timedelta(days=120)
    for i in range(50):
        day += timedelta(days=rng.randint(1, 2))
        status = rng.choice(STATUSES if i < 30 else ("placed", "paid", "shipped"))
        order = {
            "id": first_order + i,
            "customer_id": rng.choice(customers)["id"],
            "employee_id": rng.choice(employees)["id"],
            "warehouse": rng.choice(WAREHOUSES),
            "ordered_on": day.isoformat(),
            "status": status,
        }
        lines: list[Row] = [
            {
                "order_id": order["id"],
                "product_id": product["id"],
                "quantity": rng.randint(1, 5),
                "price_cents": product["price_cents"],
            }
            for product in rng.sample(products, rng.randint(1, 3))
        ]
        invoice = {
            "id": first_invoice + i,
            "order_id": order["id"],
            "amount_cents": sum(line["quantity"] * line["price_cents"] for line in lines),
            "status": "void" if status == "cancelled" else "open" if status == "placed" else "paid",
        }
        rows["orders"].append(order)
        rows["order_lines"] += lines
        rows["invoices"].append(invoice)
    return rows


def open_store(seed: str) -> sqlite3.Connection:
    """Open the company's store in its initial state, in memory. Several threads may call it."""
    return open_rows(SCHEMA, company(seed))


def changed(rows: Rows, changes: Iterable[Mapping[str, Any]]) -> StoreState:
    """The state of the store after changes to a company's rows; see `changed_rows`."""
    return changed_rows(SCHEMA, rows, changes)


def total_cents(rows: Rows, order_id: int) -> int:
    """The total of an order."""
    return sum(line["quantity"] * line["price_cents"] for line in rows["order_lines"] if line["order_id"] == order_id)


def _status(rng: random.Random) -> str:
    return "on hold" if rng.random() < 0.2 else "active"
