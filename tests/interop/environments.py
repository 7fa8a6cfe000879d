"""Environment classes as authors write them for TRL; each states the habit that it stands for."""

from __future__ import annotations

import random
from typing import Any


class WordGame:
    """A game whose `reset` shows the board, whose mistakes are `ValueError`s, and whose `reward` is an attribute."""

    def __init__(self) -> None:
        self.reward = 0.0
        self.done = False

    def reset(self, **kwargs: Any) -> str | None:
        """Start a game."""
        self._secret = random.Random(kwargs["seed"]).choice(["crane", "slate", "pound"])
        self.reward = 0.0
        self.done = False
        return f"\nThe word has {len(self._secret)} letters."

    def guess(self, word: str) -> str:
        """
        Make a guess in the word game.

        Args:
            word: The guessed word, in lower case

        Returns:
            The feedback for each letter.
        """
        if self.done:
            raise ValueError("Game over.")
        if len(word) != len(self._secret):
            raise ValueError(f"'{word}' has {len(word)} letters")
        self.done = word == self._secret
        self.reward = float(self.done)
        return " ".join("G" if letter == right else "X" for letter, right in zip(word, self._secret, strict=True))

    def hint(self, position: int) -> str:
        """
        Reveal a letter.

        Args:
            position: Which letter, counted from 0

        Returns:
            The letter.
        """
        return self._secret[position]


class Counter:
    """The smallest one: `reset` returns nothing, and a result is not text."""

    def reset(self, **kwargs: Any) -> None:
        self.count = 0

    def increment(self, step: int) -> int:
        """
        Increment the internal counter.

        Args:
            step: The value to add to the counter.

        Returns:
            The updated counter value.
        """
        self.count += step
        return self.count


class Accounts:
    """Async tools and an async `get_reward`; results that are containers; a property; a static tool; a base class."""

    closed = 0

    def __init__(self) -> None:
        self.balances: dict[str, int] = {}

    @property
    def total(self) -> int:
        raise RuntimeError("properties are not evaluated")

    def reset(self, owners: list[str], goal: int, **row: Any) -> str:
        self.balances = dict.fromkeys(owners, 10)
        self.goal = goal
        return f" Owners: {', '.join(owners)}."

    async def transfer(self, source: str, target: str, amount: int = 1) -> dict[str, int]:
        """
        Transfer money between two accounts.

        Args:
            source: Who pays.
            target: Who is paid.
            amount: How much.

        Returns:
            Both balances.
        """
        if amount > self.balances[source]:
            raise ValueError("not enough money")
        self.balances[source] -= amount
        self.balances[target] += amount
        return {source: self.balances[source], target: self.balances[target]}

    def balance(self, owner: str) -> int | None:
        """
        Look up a balance.

        Args:
            owner: Whose.

        Returns:
            The balance, if there is such an account.
        """
        return self.balances.get(owner)

    def share(self, amount: int, people: int) -> float:
        """
        Compute a share.

        Args:
            amount: What is shared.
            people: By how many.

        Returns:
            The share.
        """
        return amount / people

    @staticmethod
    def rate(currency: str) -> tuple[str, float]:
        """
        Look up an exchange rate.

        Args:
            currency: Which currency.

        Returns:
            The currency and its rate.
        """
        return currency, 1.1

    def statement(self) -> list[dict[str, str]]:
        """
        List all accounts.

        Returns:
            The statement as content blocks.
        """
        return [{"type": "text", "text": f"{owner}: {balance}. "} for owner, balance in self.balances.items()]

    async def get_reward(self) -> float:
        return float(self.balances.get("ann") == self.goal)

    def close(self) -> None:
        type(self).closed += 1


ROWS: dict[type, list[dict[str, Any]]] = {
    WordGame: [{"prompt": [{"role": "user", "content": "Find the word."}], "seed": seed} for seed in (1, 2, 3)],
    Counter: [{"prompt": [{"role": "user", "content": f"Increment by {step}."}], "answer": step} for step in (3, 5)],
    Accounts: [
        {
            "prompt": [
                {"role": "system", "content": "You work in a bank."},
                {"role": "user", "content": [{"type": "text", "text": f"Ann needs {goal}."}]},
            ],
            "owners": ["ann", "bob"],
            "goal": goal,
        }
        for goal in (12, 14)
    ],
}
