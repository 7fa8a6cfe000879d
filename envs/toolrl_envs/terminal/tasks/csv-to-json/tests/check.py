"""Checks the conversion of a CSV file to JSON."""

import csv
import io
import json
import random
import sys
from pathlib import Path
from typing import Any

CUSTOMERS = ("Ångström AB", "Ben; Söhne", 'The "Old" Mill', "Kim", "Zoë & Co", "O'Neil")
NOTES = ("", "", "fragile", "two\nlines", 'say "hi"', "a;b;c", " keep my spaces ", "null", "1.234,50")


def orders() -> list[dict[str, Any]]:
    """The records to be found in orders.json."""
    rng = random.Random("csv-to-json")
    return [
        {
            "id": 1000 + number * 7,
            "customer": rng.choice(CUSTOMERS),
            "date": f"20{rng.randrange(29, 33)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}",
            "total": rng.choice((rng.randrange(100), rng.randrange(10_000), rng.randrange(10**9))) / 100,
            "paid": rng.random() < 0.5,
            "note": rng.choice(NOTES) or None,
        }
        for number in range(80)
    ]


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    rng = random.Random("csv-to-json: spaces")
    text = io.StringIO()
    writer = csv.writer(text, delimiter=";", lineterminator="\n")
    writer.writerow(("Nr", "Kunde", "Datum", "Summe", "Bezahlt", "Notiz"))
    for order in orders():
        amount = f"{order['total']:,.2f}".translate(str.maketrans(",.", ".,"))
        customer = " " * rng.randrange(2) + order["customer"] + " " * rng.randrange(2)
        date = ".".join(reversed(order["date"].split("-")))
        writer.writerow((order["id"], customer, date, amount, "ja" if order["paid"] else "nein", order["note"] or ""))
    return {"orders.csv": text.getvalue().encode("utf-8-sig")}


def main() -> None:
    """Exit with a message unless the task is done."""
    found = json.loads(Path("orders.json").read_text("utf-8"))
    if [{**row, "total": float(row["total"])} for row in found] != orders():
        sys.exit("orders.json is wrong")
    if not all(type(row["id"]) is int and type(row["paid"]) is bool and type(row["total"]) is not str for row in found):
        sys.exit("orders.json has values of another type")


if __name__ == "__main__":
    main()
