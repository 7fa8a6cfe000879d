"""Checks the percentiles of times per path."""

import random
import sys
from collections import defaultdict
from pathlib import Path

PATHS = ("/", "/cart", "/cart/pay", "/help", "/item", "/login", "/search")
RARE = ("/admin", "/robots.txt")


def requests() -> list[tuple[str, str, int, int, bool]]:
    """Path, query, status, milliseconds, and whether the line is whole."""
    rng = random.Random("slow-requests")
    drawn = []
    for _ in range(420):
        path = rng.choice(PATHS) if rng.random() < 0.97 else rng.choice(RARE)
        query = f"?id={rng.randrange(90)}" if rng.random() < 0.4 else ""
        status = rng.choice((200, 200, 200, 200, 201, 301, 404, 500))
        # Failures are slow, so counting them shows.
        milliseconds = int(rng.lognormvariate(3 + PATHS.index(path) / 3 if path in PATHS else 2, 0.9)) + 1
        drawn.append((path, query, status, milliseconds + (900 if status >= 300 else 0), rng.random() > 0.03))
    return drawn


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    text = ""
    for second, (path, query, status, milliseconds, whole) in enumerate(requests()):
        start = f"10.0.{second % 7}.{second % 31} [02/May/2031:10:{second // 60 % 60:02}:{second % 60:02}]"
        line = f'{start} "GET {path}{query} HTTP/1.1" {status} {milliseconds}ms'
        text += (line if whole else line[: line.rindex(" ")]) + "\n"
    return {"access.log": text.encode()}


def main() -> None:
    """Exit with a message unless the task is done."""
    times = defaultdict(list)
    for path, _, status, milliseconds, whole in requests():
        if whole and 200 <= status < 300:
            times[path].append(milliseconds)
    rows = [
        (path, len(found), sorted(found)[-(-95 * len(found) // 100) - 1])
        for path, found in times.items()
        if len(found) >= 10
    ]
    rows.sort(key=lambda row: (-row[2], row[0]))
    expected = ["\t".join(map(str, row)) for row in rows]
    if Path("slow.tsv").read_text().splitlines() != expected:
        sys.exit("slow.tsv is wrong")


if __name__ == "__main__":
    main()
