"""Tables from tab-separated values."""

from __future__ import annotations

import random
import re

from toolrl_envs.terminal.programs.cases import Session, Step

PROGRAM = "columns"

TEXTS = ("apple", "Ünïcode", "a b", "", "x", "12a", "1.", "--2", "long entry here", "1,000", "日本")
NUMBERS = ("12", "-3", "4.50", "+.5", "0", "", "1000000")
EXAMPLE = "fruit\tprice\napple\t1.50\npear\t12\n"


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    return {"fruit.tsv": EXAMPLE.encode()}


def table(text: str) -> list[str]:
    """The lines of the table."""
    rows = [[field.strip(" ") for field in line.split("\t")] for line in text.splitlines()]
    count = len(rows[0]) if rows else 0
    columns = [[row[index] if index < len(row) else "" for row in rows] for index in range(count)]
    written = []
    for column in columns:
        entries = [entry for entry in column[1:] if entry]
        numeric = entries and all(re.fullmatch(r"[+-]?([0-9]+(\.[0-9]+)?|\.[0-9]+)", entry) for entry in entries)
        width = max(map(len, column))
        cells = [entry.rjust(width) if numeric else entry.ljust(width) for entry in column]
        written.append([cells[0], "-" * width, *cells[1:]])
    return ["  ".join(cells).rstrip(" ") for cells in zip(*written, strict=True)]


def sessions() -> list[Session]:
    """The cases of the tests."""
    rng = random.Random("columns")
    texts = ["", EXAMPLE, "only a name\n", "a\tb\n1\t\n\n2\tx\textra\n"]
    for _ in range(12):
        kinds = [rng.choice((TEXTS, NUMBERS, NUMBERS, ("",))) for _ in range(rng.randrange(1, 6))]
        lines = ["\t".join(rng.choice(("id", "Größe", "the name", "n")) for _ in kinds)]
        for _ in range(rng.randrange(1, 9)):
            fields = [f"{' ' * rng.randrange(2)}{rng.choice(kind)}{' ' * rng.randrange(2)}" for kind in kinds]
            lines.append("\t".join(fields[: rng.choice((1, 9, 9))] + ["more"] * (rng.random() < 0.1)))
        texts.append("\n".join(lines) + "\n")
    return [Session([Step(stdin=text, output="".join(f"{line}\n" for line in table(text))) for text in texts])]
