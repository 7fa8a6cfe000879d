"""Templates with environment variables."""

from __future__ import annotations

import random
import re

from toolrl_envs.terminal.programs.cases import Session, Step

PROGRAM = "render"

EXAMPLE = "host = ${HOST:-localhost}\nport = $PORT\n${TLS:+tls = on}\nprice = 5$$\n"
NAME = "[A-Za-z_][A-Za-z0-9_]*"
PIECES = (
    "$A", "${A}", "$AB", "${AB}x", "$A_1.", "${EMPTY}", "$EMPTY-", "${NONE:-text}", "${NONE-}", "${EMPTY:-for $A}",
    "${EMPTY-no}", "${A:+yes}", "${EMPTY:+no}", "${NONE:+no}", "$$", "$$A", "$$$A", "$5", "${", "${a b}", "$", "$-",
    "${A:=x}", "}", "{A}", "${1}", "text ", "\n", "ü", "${NONE:-two\nlines}", "${NONE:-${A}}", "$É", "\\$A",
    "${A-}", "${}", "`id`", "$(id)", "%s", "\t", "${_x}",
)  # fmt: skip
VALUES = {"A": "1", "AB": "two words", "A_1": "$A ${AB}", "EMPTY": "", "_x": "\\n & \\1"}


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    return {"app.conf.in": EXAMPLE.encode()}


def rendered(template: str, values: dict[str, str]) -> tuple[int, str]:
    """Status and output of the program."""
    missing = False

    def value(found: re.Match[str]) -> str:
        nonlocal missing
        if found[0] == "$$":
            return "$"
        name, operator, text = found[1] or found[2], found[3], found[4]
        current = values.get(name)
        if operator == ":+":
            return text if current else ""
        if operator == ":-":
            return current or text
        if operator == "-":
            return text if current is None else current
        missing = missing or current is None
        return current or ""

    output = re.sub(rf"\$\$|\$({NAME})|\$\{{({NAME})(?:(:-|:\+|-)([^}}]*))?\}}", value, template)
    return (3, "") if missing else (0, output)


def sessions() -> list[Session]:
    """The cases of the tests."""
    rng = random.Random("render-template")
    port = {"PORT": "80"}
    cases = [
        (EXAMPLE, port),
        (EXAMPLE, {}),
        (EXAMPLE, {**port, "HOST": "::1", "TLS": "y"}),
        ("", {}),
        ("$NONE", VALUES),
    ]
    for _ in range(2):
        pieces = rng.sample(PIECES, len(PIECES))
        cases += [("".join(pieces[place : place + 5]), VALUES) for place in range(0, len(pieces), 5)]
    return [Session([_step(template, values) for template, values in cases])]


def _step(template: str, values: dict[str, str]) -> Step:
    status, output = rendered(template, values)
    return Step((), template, values, status, output)
