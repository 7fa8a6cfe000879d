"""Checks that huge numbers were sorted by value."""

import random
import sys
from pathlib import Path


def numbers() -> list[int]:
    """The values, some of them several times."""
    rng = random.Random("huge-numbers")
    drawn = [rng.randrange(-(10**digits), 10**digits) for digits in (1, 2, 9, 40, 40, 41, 299, 300) for _ in range(9)]
    drawn += [0, 0, 0, *(value + 1 for value in drawn[40:50]), *(-value for value in drawn[50:60])]
    return drawn + rng.choices(drawn, k=20)


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    rng = random.Random("huge-numbers: spelling")
    lines = []
    for value in rng.sample(numbers(), len(numbers())):
        sign = "-" if value < 0 else rng.choice(("", "", "+", "-" if value == 0 else ""))
        lines.append(f"{sign}{'0' * rng.choice((0, 0, 1, 5))}{abs(value)}\n")
    return {"numbers.txt": "".join(lines).encode()}


def main() -> None:
    """Exit with a message unless the task is done."""
    if Path("sorted.txt").read_text().split() != [str(value) for value in sorted({*numbers()})]:
        sys.exit("sorted.txt is wrong")


if __name__ == "__main__":
    main()
