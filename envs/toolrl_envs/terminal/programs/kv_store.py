"""A store of keys and values."""

from __future__ import annotations

import random
import re

from toolrl_envs.terminal.programs.cases import Session, Step

PROGRAM = "kv"

KEYS = ("a", "a b", "ä", "B", "-x", "", "k=v", "a.b", "tab\tin", "*", "--help", '"')
VALUES = ("", "1", "-7", "two\nlines", "x=y", "  spaces  ", "ü", "1.5", "\n", "\\n", "007", "1_0", str(10**25))
WRONG: tuple[list[str], ...] = (
    [],
    ["set", "a"],
    ["get"],
    ["set", "a", "b", "c"],
    ["put", "a", "b"],
    ["del"],
    ["list", "a", "b"],
    ["incr"],
)


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    return {"examples.txt": b"kv set color blue\nkv get color\nkv incr visits\nkv list\n"}


def expected(store: dict[str, str], command: list[str]) -> tuple[int, str]:
    """Apply a command to the store; its status and output."""
    match command:
        case ["set", key, value]:
            store[key] = value
            return 0, ""
        case ["get", key]:
            return (0, f"{store[key]}\n") if key in store else (1, "")
        case ["del", key]:
            return (0, "") if store.pop(key, None) is not None else (1, "")
        case ["list", *rest] if len(rest) < 2:
            prefix = rest[0] if rest else ""
            return 0, "".join(f"{key}\n" for key in sorted(store, key=str.encode) if key.startswith(prefix))
        case ["incr", key, *rest] if len(rest) < 2:
            numbers = [store.get(key, "0"), *(rest or ["1"])]
            if not all(re.fullmatch("[+-]?[0-9]+", number) for number in numbers):
                return 2, ""
            store[key] = str(sum(map(int, numbers)))
            return 0, f"{store[key]}\n"
    return 2, ""


def sessions() -> list[Session]:
    """The cases of the tests."""
    rng = random.Random("kv-store")
    stores: list[tuple[str, dict[str, str]]] = [("one", {}), ("the other", {})]
    steps = []
    for number in range(60):
        key = rng.choice(KEYS)
        command = rng.choice(
            (
                ["set", key, rng.choice(VALUES)],
                ["set", key, rng.choice(VALUES)],
                ["get", key],
                ["del", key],
                ["list"] if number % 2 else ["list", key[:1]],
                ["incr", key, *rng.sample(["5", "-12", "x", "", "+3"], number % 2)],
            )
        )
        command = list(WRONG[number % 8]) if number % 11 == 5 else command
        path, store = stores[rng.random() < 0.3]
        status, output = expected(store, command)
        steps.append(Step(command, "", {"KV_FILE": path}, status, output))
    return [Session(steps, free=[path for path, _ in stores])]
