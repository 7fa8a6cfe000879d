"""Checks the conversion of nested JSON lines to CSV."""

import csv
import json
import random
import sys
from pathlib import Path
from typing import Any


def events() -> list[tuple[dict[str, Any], dict[str, str]]]:
    """Each event with the fields expected of it."""
    rng = random.Random("jsonl-to-csv")
    drawn = []
    for number in range(70):
        event: dict[str, Any] = {"id": number}
        row = {"id": str(number)}
        if rng.random() < 0.7:
            name = rng.choice(("Ann", "Bo, Jr.", 'C "Dee"', "Eve\nF", "Ģirts"))
            active, age = rng.choice((True, False, None)), rng.choice((3.5, 40, 1250000, 0))
            event["user"] = {"name": name, "active": active, "meta": {"age": age} if rng.random() < 0.6 else {}}
            row |= {"user.name": name, "user.active": {True: "true", False: "false", None: ""}[active]}
            if event["user"]["meta"]:
                row["user.meta.age"] = str(age)
        if rng.random() < 0.5:
            tags = rng.sample(["new", "red", 7, "x y", -0.5], rng.randrange(4))
            event["tags"], row["tags"] = tags, "|".join(map(str, tags))
        if rng.random() < 0.3:
            column, text = rng.choice(("Zone", "user.meta.age2", "_id")), rng.choice(("", "true", "null", "a|b"))
            event[column], row[column] = text, text
        drawn.append((event, row))
    return drawn


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    rng = random.Random("jsonl-to-csv: broken lines")
    lines = []
    for event, _ in events():
        lines.append(json.dumps(event, ensure_ascii=rng.random() < 0.5))
        if rng.random() < 0.2:
            lines.append(rng.choice((lines[-1][:-3], "", "[1, 2]", "null", '"id"', lines[-1] + "}")))
    return {"events.jsonl": ("\n".join(lines) + "\n").encode()}


def main() -> None:
    """Exit with a message unless the task is done."""
    columns = sorted({column for _, row in events() for column in row}, key=str.encode)
    expected = [columns, *([row.get(column, "") for column in columns] for _, row in events())]
    with Path("events.csv").open(encoding="utf-8", newline="") as file:
        if list(csv.reader(file)) != expected:
            sys.exit("events.csv is wrong")


if __name__ == "__main__":
    main()
