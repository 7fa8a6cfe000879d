"""Statistics of whole numbers."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction

from toolrl_envs.terminal.programs.cases import Session, Step

PROGRAM = "stats.py"

BROKEN = '''"""Statistics of whole numbers."""

import sys


def main():
    numbers = sorted(line.strip() for line in sys.stdin)
    count = len(numbers)
    print("count", count)
    values = [int(number) for number in numbers]
    print("sum", sum(values))
    print(f"mean {sum(values) / count:.2f}")
    middle = count // 2
    if count % 2:
        median = values[middle]
    else:
        median = (values[middle] + values[middle + 1]) / 2
    print(f"median {median:.2f}")
    print("mode", max(set(values), key=values.count))


main()
'''


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    return {"stats.py": BROKEN.encode(), "numbers.txt": b"10\n9\n\n2\n33\n9\n"}


def _rounded(value: Fraction) -> str:
    hundredths = int(abs(value) * 100 + Fraction(1, 2))
    return f"{'-' if value < 0 and hundredths else ''}{hundredths // 100}.{hundredths % 100:02}"


def statistics(values: list[int]) -> str:
    """What the script should write."""
    if not values:
        return "count 0\n"
    values = sorted(values)
    counts = Counter(values)
    mode = min(counts, key=lambda value: (-counts[value], value))
    median = Fraction(values[(len(values) - 1) // 2] + values[len(values) // 2], 2)
    mean = Fraction(sum(values), len(values))
    head = f"count {len(values)}\nsum {sum(values)}\n"
    return f"{head}mean {_rounded(mean)}\nmedian {_rounded(median)}\nmode {mode}\n"


def sessions() -> list[Session]:
    """The cases of the tests."""
    rng = random.Random("fix-stats")
    lists = [[], [7], [1, 2], [0] * 7 + [1], [0] * 7 + [-1], [10**30 + 1, 10**30, -5], [3, -3, 2, -2]]
    lists += [rng.choices(range(-30, 120), k=rng.randrange(1, 40)) for _ in range(9)]
    steps = []
    for values in lists:
        lines = [f"{' ' * rng.randrange(2)}{value}\n" + rng.choice(("", "", "\n", "  \n")) for value in values]
        steps.append(Step(stdin="".join(lines), output=statistics(values)))
    return [Session(steps)]
