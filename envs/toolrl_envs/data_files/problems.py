"""Files and questions about them, drawn from a seed.

The answer is worked out here on plain rows, before they are written to a file; the oracle's code reads the file. So
each checks the other.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from toolrl import MissingExtra, is_held_out

Row = dict[str, Any]

REGIONS = ("north", "south", "east", "west")
PRODUCTS = ("lamp", "desk", "chair", "shelf", "rug", "vase", "clock")
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_SYLLABLES = ("ba", "do", "fe", "gi", "ka", "lu", "mo", "ne", "pi", "ra", "so", "ti", "vu", "ze")
_BROKEN_AMOUNTS = ("", "n/a", "-", "12 pcs", "unknown", "1O")


@dataclass(frozen=True)
class Problem:
    """A question about files.

    Attributes:
        prompt: The question.
        answer: Its answer.
        files: The files the question is about, by name.
        code: Python code that reads the files and prints the answer.
    """

    prompt: str
    answer: str | int
    files: Mapping[str, bytes]
    code: str


Draw = Callable[[random.Random, int, bool], Problem]


def _filtered_sum(rng: random.Random, count: int, in_test: bool) -> Problem:
    name, rows = _name(rng, "csv", in_test), _sales(rng, count)
    region, least = rng.choice(REGIONS), rng.randint(5, 60)
    answer = sum(row["quantity"] for row in rows if row["region"] == region and row["price"] >= least)
    prompt = f"{name} lists sales. What is the total quantity in the {region} region at a price of {least} or more?"
    code = (
        f"import csv\nprint(sum(int(r['quantity']) for r in csv.DictReader(open({name!r}, newline='')) "
        f"if r['region'] == {region!r} and int(r['price']) >= {least}))"
    )
    return Problem(prompt, answer, {name: _csv(rows)}, code)


def _largest_group(rng: random.Random, count: int, in_test: bool) -> Problem:
    name, rows = _name(rng, "csv", in_test), _sales(rng, count)
    by = rng.choice(("product", "region"))
    totals: Counter[str] = Counter()
    for row in rows:
        totals[row[by]] += row["quantity"] * row["price"]
    prompt = f"Revenue is quantity times price, summed. In {name}, what is that of the {by} with the highest?"
    code = (
        f"import csv\nt = {{}}\nfor r in csv.DictReader(open({name!r}, newline='')):\n"
        f"    t[r[{by!r}]] = t.get(r[{by!r}], 0) + int(r['quantity']) * int(r['price'])\nprint(max(t.values()))"
    )
    return Problem(prompt, max(totals.values()), {name: _csv(rows)}, code)


def _dates(rng: random.Random, count: int, in_test: bool) -> Problem:
    name, rows = _name(rng, "csv", in_test), _sales(rng, count)
    month, day = rng.choice(_MONTHS), rng.choice(_DAYS)
    answer = sum(
        row["quantity"]
        for row in rows
        if _MONTHS[row["date"].month - 1] == month or _DAYS[row["date"].weekday()] == day
    )
    prompt = f"What is the total quantity in {name} over dates in {month} or on a {day}? Dates are day.month.year."
    code = (
        f"import csv\nfrom datetime import datetime\ns = 0\nfor r in csv.DictReader(open({name!r}, newline='')):\n"
        f"    d = datetime.strptime(r['date'], '%d.%m.%Y')\n"
        f"    if d.month == {_MONTHS.index(month) + 1} or d.weekday() == {_DAYS.index(day)}:\n"
        f"        s += int(r['quantity'])\nprint(s)"
    )
    return Problem(prompt, answer, {name: _csv(rows, "%d.%m.%Y")}, code)


def _malformed(rng: random.Random, count: int, in_test: bool) -> Problem:
    name, rows = _name(rng, "csv", in_test), _sales(rng, count)
    lines, answer = [",".join(rows[0])], 0
    for row in rows:
        fields = [str(value) for value in row.values()]
        fate = rng.random()
        if fate < 0.1:
            fields[list(row).index("quantity")] = rng.choice(_BROKEN_AMOUNTS)
        elif fate < 0.2:
            fields = fields[:-1] if rng.random() < 0.5 else [*fields, "?"]
        elif fate < 0.25:
            lines.append("")
            answer += row["quantity"]
        else:
            answer += row["quantity"]
        lines.append(",".join(fields))
    prompt = (
        f"Some lines of {name} are broken. Sum the quantity over the lines that have exactly as many fields as the "
        "header and a whole number as quantity; leave out all others."
    )
    code = (
        f"import csv\nhead, *rows = csv.reader(open({name!r}, newline=''))\ni = head.index('quantity')\n"
        "print(sum(int(r[i]) for r in rows if len(r) == len(head) and r[i].isdigit()))"
    )
    return Problem(prompt, answer, {name: "\n".join([*lines, ""]).encode()}, code)


def _join(rng: random.Random, count: int, in_test: bool) -> Problem:
    orders_name, people_name = _name(rng, "csv", in_test), _name(rng, "json", in_test)
    ids = rng.sample(range(100, 1000), max(4, count // 10))
    people = [{"id": number, "city": rng.choice(REGIONS).upper(), "member": rng.random() < 0.5} for number in ids]
    # Some orders belong to no person in the other file.
    orders = [
        {"order": i + 1, "person": rng.choice([*ids, rng.randint(1000, 1100)]), "amount": rng.randint(1, 500)}
        for i in range(count)
    ]
    city, member = rng.choice(REGIONS).upper(), rng.random() < 0.5
    chosen = {person["id"] for person in people if person["city"] == city and person["member"] is member}
    prompt = (
        f"{orders_name} lists orders, {people_name} the people who made them. What is the total amount of orders "
        f"by people in {city} who are {'' if member else 'not '}members?"
    )
    code = (
        f"import csv, json\nids = {{p['id'] for p in json.load(open({people_name!r})) if p['city'] == {city!r} and "
        f"p['member'] is {member}}}\n"
        f"print(sum(int(r['amount']) for r in csv.DictReader(open({orders_name!r}, newline='')) "
        "if int(r['person']) in ids))"
    )
    files = {orders_name: _csv(orders), people_name: json.dumps(people, indent=1).encode()}
    return Problem(prompt, sum(order["amount"] for order in orders if order["person"] in chosen), files, code)


def _nested(rng: random.Random, count: int, in_test: bool) -> Problem:
    name, product = _name(rng, "json", in_test), rng.choice(PRODUCTS)
    orders: list[Row] = [
        {
            "id": i + 1,
            "customer": {"region": rng.choice(REGIONS)},
            "cancelled": rng.random() < 0.2,
            "lines": [
                {"product": item, "quantity": rng.randint(10, 99)} for item in rng.sample(PRODUCTS, rng.randint(1, 3))
            ],
        }
        for i in range(count)
    ]
    region = rng.choice(REGIONS)
    answer = sum(
        line["quantity"]
        for order in orders
        if order["customer"]["region"] == region and not order["cancelled"]
        for line in order["lines"]
        if line["product"] == product
    )
    prompt = f"How many pieces of the product {product} do orders from the {region} in {name} have, if not cancelled?"
    code = (
        f"import json\nprint(sum(l['quantity'] for o in json.load(open({name!r})) if o['customer']['region'] == "
        f"{region!r} and not o['cancelled'] for l in o['lines'] if l['product'] == {product!r}))"
    )
    return Problem(prompt, answer, {name: json.dumps(orders).encode()}, code)


def _parquet(rng: random.Random, count: int, in_test: bool) -> Problem:
    name, rows = _name(rng, "parquet", in_test), _sales(rng, count)
    product, least = rng.choice(PRODUCTS), rng.randint(2, 12)
    answer = sum(row["price"] for row in rows if row["product"] == product and row["quantity"] >= least)
    prompt = (
        f"What is the sum of the prices in {name}, of the product {product} in rows with a quantity of {least} or more?"
    )
    code = (
        f"import pyarrow.parquet as pq\nprint(sum(r['price'] for r in pq.read_table({name!r}, use_threads=False)"
        f".to_pylist() if r['product'] == {product!r} and r['quantity'] >= {least}))"
    )
    return Problem(prompt, answer, {name: _parquet_bytes(rows)}, code)


KINDS: dict[str, Draw] = {
    "filtered_sum": _filtered_sum,
    "largest_group": _largest_group,
    "dates": _dates,
    "malformed": _malformed,
    "join": _join,
    "nested": _nested,
}
# These need more than the standard library.
PACKAGE_KINDS: dict[str, Draw] = {"parquet": _parquet}


def _name(rng: random.Random, extension: str, in_test: bool) -> str:
    """Draw a file name that belongs to the split, so that no question is in both."""
    while True:
        name = f"{''.join(rng.choices(_SYLLABLES, k=3))}{rng.randint(10, 999)}.{extension}"
        if is_held_out(name) is in_test:
            return name


def _sales(rng: random.Random, count: int) -> list[Row]:
    first = date(2024, 1, 1)
    return [
        {
            "date": first + timedelta(days=rng.randrange(270)),
            "region": rng.choice(REGIONS),
            "product": rng.choice(PRODUCTS),
            "quantity": rng.randint(1, 20),
            "price": rng.randint(1, 90),
        }
        for _ in range(count)
    ]


def _csv(rows: list[Row], date_format: str = "%Y-%m-%d") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: v.strftime(date_format) if isinstance(v, date) else v for k, v in row.items()})
    return text.getvalue().encode()


def _parquet_bytes(rows: list[Row]) -> bytes:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", "dev") from None
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()
