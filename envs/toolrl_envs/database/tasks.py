"""Tasks about a company: the prompt, the right final state, and the calls that lead to it.

Every answer is a number or a name that only the store shows, and requests that the rules allow and forbid are worded
alike. So neither guessing nor doing nothing pays.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from toolrl import ConfigError, Task, TaskError, TaskSet, is_held_out
from toolrl_envs.common import Split, check_split, task_id
from toolrl_envs.database.company import OPEN_STATUSES, STATUSES, TODAY, WAREHOUSES, company, total_cents
from toolrl_envs.stores import Row, Rows

Call = tuple[str, dict[str, Any]]

MAX_DIFFICULTY = 4
_TASKS_PER_COMPANY = 8
_DRAWS = 300
_REFUSED_SHARE = 0.4  # of the tasks whose kind may be refused


@dataclass(frozen=True)
class Draft:
    """A task before it gets an id.

    Attributes:
        prompt: The question or request.
        answer: The answer, which the last call shows.
        calls: Tool calls that solve it.
        changes: Changes made by the calls, for `company.changed`.
        refused: Whether a rule forbids the request, so that nothing may change.
    """

    prompt: str
    answer: str | int
    calls: Sequence[Call]
    changes: Sequence[dict[str, Any]] = ()
    refused: bool = False


@dataclass(frozen=True)
class Kind:
    """A family of tasks.

    Attributes:
        name: The name, for metrics.
        calls: Maximum number of calls.
        may_be_refused: Whether a rule may forbid the request.
        draw: Draws a draft, or None if the rows drawn are unsuitable.
    """

    name: str
    calls: int
    may_be_refused: bool
    draw: Callable[[Rows, random.Random], Draft | None]


def make_tasks(split: Split, difficulty: int, size: int, seed: int, kinds: Sequence[str] = ()) -> TaskSet:
    """Draw tasks, cycling through the kinds, with a new company every eight; no task is in both splits.

    Raises:
        ConfigError: `difficulty` is not from 1 to 4, `size` is below 1, or one of `kinds` is unknown or too difficult.
        TaskError: Too few distinct tasks exist.
    """
    if difficulty not in range(1, MAX_DIFFICULTY + 1):
        raise ConfigError(f"difficulty must be from 1 to {MAX_DIFFICULTY}, got {difficulty!r}")
    check_split(split, size)
    chosen = _choose_kinds(kinds, difficulty)
    tasks: dict[str, Task] = {}
    for index in range(size):
        name = f"{split}/{seed}/{index // _TASKS_PER_COMPANY}"
        rng = random.Random(f"task/{name}/{index}")
        task = _draw(chosen[index % len(chosen)], name, split, rng, tasks)
        tasks[task.prompt] = task
    return TaskSet(tasks.values())


def _choose_kinds(names: Sequence[str], difficulty: int) -> list[Kind]:
    easy = {kind.name: kind for kind in KINDS if kind.calls <= difficulty}
    if isinstance(names, str) or not all(name in easy for name in names):
        raise ConfigError(f"kinds must be some of {', '.join(easy)} (difficulty {difficulty}), got {names!r}")
    return [easy[name] for name in dict.fromkeys(names)] or list(easy.values())


def _draw(kind: Kind, name: str, split: Split, rng: random.Random, taken: dict[str, Task]) -> Task:
    refused = kind.may_be_refused and rng.random() < _REFUSED_SHARE
    for attempt in range(_DRAWS):
        # Use another company if this one has nothing left to ask.
        source = name if attempt < _DRAWS // 4 else f"{name}/{attempt // 20}"
        draft = kind.draw(company(source), rng)
        if draft is None or draft.refused != refused or draft.prompt in taken:
            continue
        # The companies of the splits differ, but might share a name or a number.
        if is_held_out(draft.prompt) != (split == "test"):
            continue
        metadata = {
            "company": source,
            "calls": [list(call) for call in draft.calls],
            "changes": list(draft.changes),
            "refused": draft.refused,
        }
        id = task_id(kind.name, draft.prompt)
        return Task(id, draft.prompt, str(draft.answer), metadata, kind=kind.name, needs_tool=True)
    raise TaskError(f"found no more distinct tasks of kind {kind.name!r}; lower size=")


# ---- questions


def _customer_phone(rows: Rows, rng: random.Random) -> Draft | None:
    customer = rng.choice(rows["customers"])
    prompt = rng.choice(("What is the phone number of our customer {0}?", "Which phone number does {0} have?"))
    return Draft(prompt.format(customer["name"]), customer["phone"], [_find_customer(customer)])


def _order_total(rows: Rows, rng: random.Random) -> Draft | None:
    order = rng.choice(rows["orders"])
    prompt = rng.choice(("What is the total of order {0}, in cents?", "How many cents does order {0} come to?"))
    return Draft(prompt.format(order["id"]), total_cents(rows, order["id"]), [_get_order(order)])


def _orders_since(rows: Rows, rng: random.Random) -> Draft | None:
    status, first = rng.choice(STATUSES), rng.choice(rows["orders"])["id"]
    chosen = [order["id"] for order in rows["orders"] if order["status"] == status and order["id"] >= first]
    prompt = f"What do the orders with an id of at least {first} that are {status} now come to in total, in cents?"
    sql = (
        "SELECT sum(quantity * price_cents) FROM order_lines JOIN orders ON orders.id = order_id WHERE "
        f"order_id >= {first} AND status = '{status}'"
    )
    total = sum(total_cents(rows, order_id) for order_id in chosen)
    return Draft(prompt, total, [("query", {"sql": sql})]) if chosen else None


def _product_sold(rows: Rows, rng: random.Random) -> Draft | None:
    product, first = rng.choice(rows["products"]), rng.choice(rows["orders"])["id"]
    live = {order["id"] for order in rows["orders"] if order["status"] != "cancelled" and order["id"] >= first}
    lines = [line for line in rows["order_lines"] if line["product_id"] == product["id"] and line["order_id"] in live]
    prompt = f"How many cents of product {product['id']} were ordered in orders from {first} on, cancelled ones aside?"
    sql = (
        "SELECT sum(quantity * price_cents) FROM order_lines JOIN orders ON orders.id = order_id WHERE product_id = "
        f"{product['id']} AND order_id >= {first} AND status <> 'cancelled'"
    )
    total = sum(line["quantity"] * line["price_cents"] for line in lines)
    return Draft(prompt, total, [("query", {"sql": sql})]) if lines else None


# ---- changes


def _ship(rows: Rows, rng: random.Random) -> Draft | None:
    order = rng.choice(rows["orders"])
    prompt = rng.choice(("Mark order {0} as shipped.", "Order {0} goes out: set it to shipped."))
    prompt = f"{prompt.format(order['id'])} In any case answer with the amount of its invoice in cents."
    total = total_cents(rows, order["id"])
    if order["status"] != "paid":
        return Draft(prompt, total, [_get_order(order)], refused=True)
    changes = [{"table": "orders", "row": {"id": order["id"], "status": "shipped"}}]
    return Draft(prompt, total, [_update(order, "shipped")], changes)


def _cancel(rows: Rows, rng: random.Random) -> Draft | None:
    order = rng.choice(rows["orders"])
    prompt = rng.choice(("Cancel order {0}.", "The customer wants order {0} cancelled.", "Please call off order {0}."))
    prompt = f"{prompt.format(order['id'])} In any case answer with its total in cents."
    total = total_cents(rows, order["id"])
    if order["status"] not in OPEN_STATUSES:
        return Draft(prompt, total, [_get_order(order)], refused=True)
    return Draft(prompt, total, [_get_order(order), _update(order, "cancelled")], _cancelled(rows, order))


def _transfer(rows: Rows, rng: random.Random) -> Draft | None:
    product = rng.choice(rows["products"])
    source, target = rng.sample(WAREHOUSES, 2)
    quantity, available = rng.randint(40, 700), _stock(rows, product, source)
    prompt = (
        f"Move {quantity} pieces of the {product['name']} (product {product['id']}) from the {source} warehouse to the "
        f"{target} one. Answer with the number of pieces that the {source} warehouse has then."
    )
    find = ("find_product", {"name": product["name"]})
    if available < quantity:
        return Draft(prompt, available, [find], refused=True)
    left, more = available - quantity, _stock(rows, product, target) + quantity
    move = {"product_id": product["id"], "from_warehouse": source, "to_warehouse": target, "quantity": quantity}
    changes = [_stock_change(product["id"], source, left), _stock_change(product["id"], target, more)]
    return Draft(prompt, left, [find, ("transfer_stock", move)], changes)


def _pay(rows: Rows, rng: random.Random) -> Draft | None:
    order = rng.choice(rows["orders"])
    customer = _customer_of(rows, order)
    (invoice,) = (invoice for invoice in rows["invoices"] if invoice["order_id"] == order["id"])
    prompt = (
        f"{customer['name']} says that the invoice of order {order['id']} is paid: record it if it is open. In any "
        "case answer with the invoice's id."
    )
    calls = [_find_customer(customer), ("list_orders", {"customer_id": customer["id"]})]
    if invoice["status"] != "open":
        return Draft(prompt, invoice["id"], calls, refused=True)
    changes = [
        {"table": "invoices", "row": {"id": invoice["id"], "status": "paid"}},
        {"table": "orders", "row": {"id": order["id"], "status": "paid"}},
    ]
    return Draft(prompt, invoice["id"], [*calls, ("pay_invoice", {"invoice_id": invoice["id"]})], changes)


def _create(rows: Rows, rng: random.Random) -> Draft | None:
    customer, product, warehouse = rng.choice(rows["customers"]), rng.choice(rows["products"]), rng.choice(WAREHOUSES)
    stock = _stock(rows, product, warehouse)
    quantity = rng.randint(2, 50) if rng.random() < 0.8 else stock + rng.randint(1, 20)
    prompt = (
        f"{customer['name']} orders {quantity} pieces of the {product['name']} from the {warehouse} warehouse. Place "
        "the order, and answer with its id; if that cannot be done, answer with the product's id."
    )
    find = [_find_customer(customer), ("find_product", {"name": product["name"]})]
    if customer["status"] == "on hold" or stock < quantity:
        return Draft(prompt, product["id"], find, refused=True)
    create, changes = _created(rows, customer, product, warehouse, quantity, stock)
    return Draft(prompt, changes[0]["row"]["id"], [*find, create], changes)


def _replace(rows: Rows, rng: random.Random) -> Draft | None:
    order, product = rng.choice(rows["orders"]), rng.choice(rows["products"])
    customer, quantity = _customer_of(rows, order), rng.randint(2, 4)
    same_day = [
        other
        for other in rows["orders"]
        if (other["customer_id"], other["ordered_on"]) == (customer["id"], order["ordered_on"])
    ]
    if len(same_day) > 1:
        return None
    prompt = (
        f"{customer['name']} wants the order of {order['ordered_on']} cancelled, and {quantity} pieces of product "
        f"{product['id']} instead, from the same warehouse. Do both and answer with the new order's id; if one of them "
        "cannot be done, do neither, and answer with the old order's id."
    )
    calls = [_find_customer(customer), ("list_orders", {"customer_id": customer["id"]})]
    changes = _cancelled(rows, order)
    back = {change["row"]["product_id"]: change for change in changes if change["table"] == "stock"}
    stock = _stock(rows, product, order["warehouse"])
    if product["id"] in back:  # returned goods can be sold again
        stock = back[product["id"]]["row"]["quantity"]
    if order["status"] not in OPEN_STATUSES or customer["status"] == "on hold":
        return Draft(prompt, order["id"], calls, refused=True)
    if stock < quantity:
        return None  # finding out would take one more call
    create, created = _created(rows, customer, product, order["warehouse"], quantity, stock)
    answer = created[0]["row"]["id"]
    return Draft(prompt, answer, [*calls, _update(order, "cancelled"), create], [*changes, *created])


KINDS = (
    Kind("customer_phone", 1, False, _customer_phone),
    Kind("order_total", 1, False, _order_total),
    Kind("ship", 1, True, _ship),
    Kind("orders_since", 1, False, _orders_since),
    Kind("product_sold", 1, False, _product_sold),
    Kind("cancel", 2, True, _cancel),
    Kind("transfer", 2, True, _transfer),
    Kind("pay", 3, True, _pay),
    Kind("create", 3, True, _create),
    Kind("replace", 4, True, _replace),
)


# ---- shared helpers


def _find_customer(customer: Row) -> Call:
    return "find_customer", {"name": customer["name"]}


def _get_order(order: Row) -> Call:
    return "get_order", {"order_id": order["id"]}


def _update(order: Row, status: str) -> Call:
    return "update_order_status", {"order_id": order["id"], "status": status}


def _customer_of(rows: Rows, order: Row) -> Row:
    return next(customer for customer in rows["customers"] if customer["id"] == order["customer_id"])


def _stock(rows: Rows, product: Row, warehouse: str) -> int:
    return next(
        int(stock["quantity"])
        for stock in rows["stock"]
        if (stock["product_id"], stock["warehouse"]) == (product["id"], warehouse)
    )


def _stock_change(product_id: int, warehouse: str, quantity: int) -> dict[str, Any]:
    return {"table": "stock", "row": {"product_id": product_id, "warehouse": warehouse, "quantity": quantity}}


def _cancelled(rows: Rows, order: Row) -> list[dict[str, Any]]:
    (invoice,) = (invoice for invoice in rows["invoices"] if invoice["order_id"] == order["id"])
    changes: list[dict[str, Any]] = [
        {"table": "orders", "row": {"id": order["id"], "status": "cancelled"}},
        {"table": "invoices", "row": {"id": invoice["id"], "status": "void"}},
    ]
    for line in rows["order_lines"]:
        if line["order_id"] == order["id"]:
            product = {"id": line["product_id"]}
            quantity = _stock(rows, product, order["warehouse"]) + line["quantity"]
            changes.append(_stock_change(line["product_id"], order["warehouse"], quantity))
    return changes


def _created(
    rows: Rows, customer: Row, product: Row, warehouse: str, quantity: int, stock: int
) -> tuple[Call, list[dict[str, Any]]]:
    order_id = max(order["id"] for order in rows["orders"]) + 1
    order = {
        "id": order_id,
        "customer_id": customer["id"],
        "employee_id": None,
        "warehouse": warehouse,
        "ordered_on": TODAY.isoformat(),
        "status": "placed",
    }
    price = product["price_cents"]
    line = {"order_id": order_id, "product_id": product["id"], "quantity": quantity, "price_cents": price}
    invoice = {
        "id": max(invoice["id"] for invoice in rows["invoices"]) + 1,
        "order_id": order_id,
        "amount_cents": quantity * price,
        "status": "open",
    }
    arguments = {
        "customer_id": customer["id"],
        "product_id": product["id"],
        "quantity": quantity,
        "warehouse": warehouse,
    }
    rows_made = [("orders", order), ("order_lines", line), ("invoices", invoice)]
    changes: list[dict[str, Any]] = [{"table": table, "row": row} for table, row in rows_made]
    return ("create_order", arguments), [*changes, _stock_change(product["id"], warehouse, stock - quantity)]
