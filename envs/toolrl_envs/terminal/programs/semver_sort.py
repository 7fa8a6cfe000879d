"""Sorts versions."""

from __future__ import annotations

import random
import re

from toolrl_envs.terminal.programs.cases import Session, Step

PROGRAM = "semver-sort"

NUMBER = r"(?:0|[1-9][0-9]*)"
PRE = rf"(?:{NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
VERSION = re.compile(
    rf"({NUMBER})\.({NUMBER})\.({NUMBER})(?:-({PRE}(?:\.{PRE})*))?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?", re.ASCII
)
FIXED = """1.0.0
1.0.0-alpha
1.0.0-alpha.1
1.0.0-alpha.beta
1.0.0-beta.11
1.0.0-beta.2
1.0.0-rc.1
1.0.0-0
1.0.0--
1.0.0-01
1.0.0-0a
1.0.0+001
1.0.0-a+b-c.7
1.0.0+
1.0.0-
1.0.0-a..b
1.0
01.0.0
v1.0.0
 1.0.0

1.0.0.0
99999999999999999999.0.0
99999999999999999998.0.0-rc.99999999999999999999
1.0.0-rc_1
١.0.0
1.0.0-Beta
2.0.0
10.0.0
1.10.0
1.9.0"""
EXAMPLES = "1.10.0\n1.9.0-rc.1\nv2\n1.9.0\n"


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    return {"examples.txt": EXAMPLES.encode()}


def precedence(version: str) -> tuple[list[int], bool, list[tuple[bool, int, str]]]:
    """A key to sort by; ValueError for what is not a version."""
    found = VERSION.fullmatch(version)
    if found is None:
        raise ValueError(version)
    names = (found[4] or "").split(".")
    keys = [(not name.isdigit(), int(name) if name.isdigit() else 0, name) for name in names]
    return [int(found[1]), int(found[2]), int(found[3])], found[4] is None, keys


def sessions() -> list[Session]:
    """The cases of the tests."""
    rng = random.Random("semver-sort")
    lines = FIXED.split("\n")
    for _ in range(150):
        core = ".".join(str(rng.choice((0, 1, 2, 10))) for _ in range(3))
        names = ".".join(
            rng.choice(("a", "B", "rc", "1", "2", "10", "a1", "-1", "x-y")) for _ in range(rng.randrange(1, 4))
        )
        lines.append(core + rng.choice(("", f"-{names}", f"-{names}")) + rng.choice(("", "", "+7", f"+{names}")))
    rng.shuffle(lines)
    right = sorted((line for line in lines if VERSION.fullmatch(line)), key=precedence)
    stdin, output = ("".join(f"{line}\n" for line in texts) for texts in (lines, right))
    return [Session([Step(stdin=stdin, output=output), Step(stdin="no version\n")])]
