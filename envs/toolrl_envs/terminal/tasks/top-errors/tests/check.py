"""Checks the counts of errors per service."""

import random
import sys
from collections import Counter
from pathlib import Path

SERVICES = ("auth", "billing", "cart", "mail", "search", "stock", "video")
MESSAGES = ("timeout", "ERROR budget: spent", "retry after ERROR", "card refused", "slow query", "ERROR: none left")


def lines() -> list[tuple[str, str, str]]:
    """File, level and service with message of each line."""
    rng = random.Random("top-errors")
    drawn = []
    for number in range(260):
        level = rng.choice(("ERROR", "INFO", "INFO", "WARN", "DEBUG"))
        # "video" has no error, "cart" and "auth" have equally many.
        service = rng.choice([name for name in SERVICES if level != "ERROR" or name not in ("video", "auth", "cart")])
        drawn.append((f"logs/node-{number % 3}.log", level, f"{service}: {rng.choice(MESSAGES)}"))
    for service in ("cart", "auth") * 9:
        drawn.insert(rng.randrange(len(drawn)), ("logs/node-1.log", "ERROR", f"{service}: {rng.choice(MESSAGES)}"))
    return drawn


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    files: dict[str, str] = {}
    for second, (name, level, rest) in enumerate(lines()):
        time = f"2031-05-03T{10 + second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
        files[name] = files.get(name, "") + f"{time} {level} {rest}\n"
    return {name: text.encode() for name, text in files.items()}


def main() -> None:
    """Exit with a message unless the task is done."""
    counts = Counter(rest.split(":")[0] for _, level, rest in lines() if level == "ERROR")
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    expected = ["service,errors", *(f"{service},{count}" for service, count in rows)]
    if Path("errors.csv").read_text().split() != expected:
        sys.exit("errors.csv is wrong")


if __name__ == "__main__":
    main()
