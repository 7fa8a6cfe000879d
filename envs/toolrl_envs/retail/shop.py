"""A made-up shop: its tables as plain rows, drawn from a seed, and the SQLite store that holds them.

Money is in whole cents. Every change is also a row of `changes`, so one that is taken back still shows; the row says
whether the order's customer had been identified and had agreed. The customers and orders of the two splits differ.
"""

from __future__ import annotations

import functools
import random
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Mapping
from datetime import date, timedelta
from typing import Any

from toolrl import Task, is_held_out, per_episode
from toolrl.rewards import StoreState
from toolrl_envs.people import draw_names, words
from toolrl_envs.stores import Row, Rows, Schema, changed_rows, open_rows

TODAY = date(2024, 6, 28)
RETURN_DAYS = 30
VOUCHER_CENTS = 1000

SCHEMA = Schema(
    {
        "customers": {
            "id": "INTEGER PRIMARY KEY",
            "name": "TEXT NOT NULL",
            "email": "TEXT NOT NULL",
            "street": "TEXT NOT NULL",
            "city": "TEXT NOT NULL",
            "zip_code": "TEXT NOT NULL",
        },
        "products": {"id": "INTEGER PRIMARY KEY", "name": "TEXT NOT NULL", "final_sale": "INTEGER NOT NULL"},
        "variants": {
            "id": "INTEGER PRIMARY KEY",
            "product_id": "INTEGER NOT NULL REFERENCES products",
            "colour": "TEXT NOT NULL",
            "price_cents": "INTEGER NOT NULL",
            "stock": "INTEGER NOT NULL CHECK (stock >= 0)",
        },
        "orders": {
            "id": "INTEGER PRIMARY KEY",
            "customer_id": "INTEGER NOT NULL REFERENCES customers",
            "status": "TEXT NOT NULL",
            "ordered_on": "TEXT NOT NULL",
            "promised_for": "TEXT NOT NULL",
            "delivered_on": "TEXT",
            "tracking": "TEXT",
            "street": "TEXT NOT NULL",
            "city": "TEXT NOT NULL",
            "zip_code": "TEXT NOT NULL",
        },
        "order_items": {
            "order_id": "INTEGER NOT NULL REFERENCES orders",
            "variant_id": "INTEGER NOT NULL REFERENCES variants",
            "price_cents": "INTEGER NOT NULL",
            "status": "TEXT NOT NULL",
        },
        "changes": {
            "id": "INTEGER PRIMARY KEY",
            "order_id": "INTEGER NOT NULL",
            "action": "TEXT NOT NULL",
            "variant_id": "INTEGER",
            "detail": "TEXT NOT NULL",
            "amount_cents": "INTEGER NOT NULL",
            "identified": "INTEGER NOT NULL",
            "confirmed": "INTEGER NOT NULL",
        },
        "identified": {"customer_id": "INTEGER NOT NULL"},
        "consents": {"order_id": "INTEGER NOT NULL", "action": "TEXT NOT NULL"},
    },
    {
        "order_items": ("order_id", "variant_id"),
        "identified": ("customer_id",),
        "consents": ("order_id", "action"),
    },
)

_CITIES = words("Arnhem Basel Bergen Bruges Cork Delft Gdansk Ghent Graz Leeds Lund Lyon Malmo Porto Turin Vigo")
_STREETS = words("Mill Church Station Garden River Castle Market Bridge Orchard Chapel Harbour Forest")
_WAYS = words("Lane Street Road Square Row")
_GOODS = words("backpack lamp kettle jacket tent blanket umbrella headset suitcase toaster teapot hammock vase clock")
_COLOURS = words("blue green red black white grey yellow purple")
_CUSTOMERS = 4
# Each customer has one order of each: what may be done with it differs.
_STAGES = ("pending", "shipped", "recent", "old")


@functools.lru_cache(maxsize=64)
def shop(seed: str) -> Rows:
    """The shop with this seed, which begins with the split. Callers share its rows and must not change them."""
    rng, held_out = random.Random(f"shop/{seed}"), seed.startswith("test/")
    rows: Rows = {table: [] for table in SCHEMA.columns}
    names = _draw(lambda: draw_names(rng, 1)[0], _CUSTOMERS, held_out)
    numbers = _draw(lambda: str(rng.randint(10_000, 99_999)), _CUSTOMERS * len(_STAGES), held_out)
    base = rng.randint(100, 899)
    goods = rng.sample(_GOODS, 8)
    for product_id, name in enumerate(goods, base):
        rows["products"].append({"id": product_id, "name": name, "final_sale": int(name == goods[0])})
        price, sold_out = rng.randint(2000, 15_000), rng.randrange(4)
        for index, colour in enumerate(rng.sample(_COLOURS, 4)):
            rows["variants"].append(
                {
                    "id": product_id * 10 + index,
                    "product_id": product_id,
                    "colour": colour,
                    "price_cents": price + index * rng.randint(101, 499),
                    "stock": 0 if index == sold_out else rng.randint(2, 40),
                }
            )
    for name in names:
        customer = {
            "id": rng.randint(1000, 9999) * 10 + len(rows["customers"]),
            "name": name,
            "email": f"{name.lower().replace(' ', '.')}{rng.randint(10, 99)}@example.com",
            **draw_address(rng),
        }
        rows["customers"].append(customer)
        for stage in rng.sample(_STAGES, len(_STAGES)):
            _add_order(rows, rng, customer, stage, int(numbers.pop()))
    return rows


def _draw(draw: Callable[[], str], count: int, held_out: bool) -> list[str]:
    """Draw distinct texts of one split."""
    found: dict[str, None] = {}
    while len(found) < count:
        if is_held_out(text := draw()) is held_out:
            found[text] = None
    return list(found)


def draw_address(rng: random.Random) -> Row:
    """Draw an address."""
    return {
        "street": f"{rng.randint(1, 199)} {rng.choice(_STREETS)} {rng.choice(_WAYS)}",
        "city": rng.choice(_CITIES),
        "zip_code": str(rng.randint(10_000, 99_999)),
    }


def open_shop(task: Task) -> sqlite3.Connection:
    """Open the store of a task's shop in its initial state."""
    return open_rows(SCHEMA, shop(task.metadata["shop"]))


# One resource for the tools and the scripted customer: they share the episode's store.
STORE = per_episode(open_shop)


def changed(seed: str, changes: Iterable[Mapping[str, Any]]) -> StoreState:
    """The state of a shop's store after changes to its rows; see `changed_rows`."""
    return changed_rows(SCHEMA, shop(seed), changes)


def reference(order_id: int, action: str) -> str:
    """The reference number of a change."""
    return f"{action[0].upper()}{100_000 + zlib.crc32(f'{action}/{order_id}'.encode()) % 900_000}"


def money(cents: int) -> str:
    """An amount as the shop writes it."""
    return f"${cents // 100}.{cents % 100:02d}"


def _add_order(rows: Rows, rng: random.Random, customer: Row, stage: str, order_id: int) -> None:
    # In days before today; negative ones are ahead. Half of the recent orders come more than two days late.
    promised, delivered = -rng.randint(1, 9), None
    if stage == "recent":
        promised = rng.randint(12, RETURN_DAYS - 1)
        delivered = promised - rng.choice((rng.randint(-1, 2), rng.randint(3, 9)))
    elif stage == "old":
        promised = delivered = rng.randint(RETURN_DAYS + 1, 90)
    ordered = max(promised, 0) + rng.randint(2, 6)
    rows["orders"].append(
        {
            "id": order_id,
            "customer_id": customer["id"],
            "status": stage if delivered is None else "delivered",
            "ordered_on": _days_ago(ordered),
            "promised_for": _days_ago(promised),
            "delivered_on": None if delivered is None else _days_ago(delivered),
            "tracking": None if stage == "pending" else f"TR{rng.randint(10_000_000, 99_999_999)}",
            **{column: customer[column] for column in ("street", "city", "zip_code")},
        }
    )
    final, *others = rows["products"]
    chosen = [final, *rng.sample(others, 2)] if delivered is not None else rng.sample(others, rng.randint(1, 3))
    for product in chosen:
        variant = rng.choice([variant for variant in rows["variants"] if variant["product_id"] == product["id"]])
        item = {"order_id": order_id, "variant_id": variant["id"], "price_cents": variant["price_cents"]}
        rows["order_items"].append({**item, "status": "ordered"})


def _days_ago(days: int) -> str:
    return (TODAY - timedelta(days=days)).isoformat()
