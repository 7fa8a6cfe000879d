"""Checks a ledger's balances."""

import random
import sys
from collections import Counter
from pathlib import Path

ACCOUNTS = (
    "assets:cash",
    "assets:bank:main",
    "assets:bank:old one",
    "expenses:food",
    "expenses:rent",
    "income:job",
    "debts",
)

Entry = tuple[str, list[tuple[str, int | None]]]


def entries() -> list[Entry]:
    """First line, accounts and amounts in cents of each entry."""
    rng = random.Random("ledger")
    drawn: list[Entry] = []
    for number in range(60):
        accounts = rng.sample(ACCOUNTS, rng.randrange(2, 5))
        amounts: list[int | None] = [
            rng.choice((-1, 1)) * rng.randrange(1, 10 ** rng.randrange(3, 8)) for _ in accounts
        ]
        amounts[-1] = -sum(amount or 0 for amount in amounts[:-1])
        if number % 8 == 5:
            amounts[-1] += rng.choice((1, -1, 100))
        elif number % 3 == 0:
            amounts[rng.randrange(len(amounts))] = None
        head = f"2031-{1 + number // 6:02}-{1 + number % 28:02} {rng.choice(('Shop', 'Transfer', 'Pay day'))} {number}"
        drawn.append((head, list(zip(accounts, amounts, strict=True))))
    # Its balance is zero in the end.
    return [
        *drawn,
        ("2031-12-01 Loan", [("loan", 500), ("debts", -500)]),
        ("2031-12-02 Back", [("loan", -500), ("debts", None)]),
    ]


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    rng = random.Random("ledger: spelling")
    blocks = []
    for head, lines in entries():
        block = f"{head}\n"
        for account, cents in lines:
            amount = "" if cents is None else f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02} EUR"
            block += f"    {account}{' ' * rng.randrange(2, 9)}{amount}".rstrip() + "\n"
            block += "; 1.00 EUR  off\n" if rng.random() < 0.1 else ""
        blocks.append(block)
    return {"ledger.txt": "\n".join(blocks).encode()}


def main() -> None:
    """Exit with a message unless the task is done."""
    broken, cents = [], Counter[str]()
    for head, lines in entries():
        rest = -sum(amount or 0 for _, amount in lines)
        if rest and all(amount is not None for _, amount in lines):
            broken.append(head)
            continue
        for account, amount in lines:
            parts = account.split(":")
            for depth in range(len(parts)):
                cents[":".join(parts[: depth + 1])] += rest if amount is None else amount
    balances = [
        f"{'-' if sum < 0 else ''}{abs(sum) // 100}.{abs(sum) % 100:02} {account}"
        for account, sum in sorted(cents.items())
        if sum
    ]
    for name, expected in (("broken.txt", broken), ("balances.txt", balances)):
        if Path(name).read_text().splitlines() != expected:
            sys.exit(f"{name} is wrong")


if __name__ == "__main__":
    main()
