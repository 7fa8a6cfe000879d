"""A calculator in reverse Polish notation."""

from __future__ import annotations

import random
import re

from toolrl_envs.terminal.programs.cases import Session, Step

PROGRAM = "rpn"

NEEDS = {"+": 2, "-": 2, "*": 2, "/": 2, "%": 2, "swap": 2, "dup": 1, "drop": 1}
ODD = ("1.5", "x", "--1", "1e3", "DUP", "1_0", "²", "0x1", "1,2")


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    return {"examples.txt": b"1 2 + 3 *\n-7 2 /\n-7 2 %\n1 +\n"}


def value(line: str) -> str:
    """What the program should write for a line."""
    stack: list[int] = []
    for word in line.split():
        if re.fullmatch(r"[+-]?[0-9]+", word):
            stack.append(int(word))
            continue
        if word not in NEEDS:
            return f"error: word {word}"
        if len(stack) < NEEDS[word]:
            return "error: stack"
        b = stack.pop()
        if word == "dup":
            stack += [b, b]
        elif word != "drop":
            a = stack.pop()
            if word in "/%" and b == 0:
                return "error: zero"
            if word == "swap":
                stack += [b, a]
            else:
                quotient = 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
                stack.append({"+": a + b, "-": a - b, "*": a * b, "/": quotient, "%": a - b * quotient}[word])
    return " ".join(map(str, stack)) or "empty"


def sessions() -> list[Session]:
    """The cases of the tests."""
    rng = random.Random("rpn")
    lines = [
        "",
        "   ",
        "5 drop",
        "7 0 /",
        "7 0 %",
        "0 5 %",
        "-7 2 %",
        "7 -2 /",
        "+007 -0",
        f"{7**200} {3**150} % dup *",
    ]
    for _ in range(200):
        words = [str(rng.randrange(-20, 20)) for _ in range(rng.randrange(1, 4))]
        for _ in range(rng.randrange(8)):
            number = str(rng.choice((rng.randrange(-2, 3), rng.randrange(-(10**30), 10**30))))
            words.append(rng.choice((number, number, *NEEDS, *rng.sample(ODD, rng.random() < 0.6))))
        lines.append((" " * rng.randrange(1, 3)).join(words))
    return [Session([Step(stdin=f"{line}\n", output=f"{value(line)}\n") for line in lines[:4]]), _together(lines)]


def _together(lines: list[str]) -> Session:
    stdin, output = ("".join(f"{text}\n" for text in texts) for texts in (lines, map(value, lines)))
    return Session([Step(stdin=stdin, output=output)])
