"""Restricts answers that a scorer of reasoning-gym evaluates as Python.

Those scorers call `eval` or SymPy's `parse_expr` (which also uses `eval`) on the answer, in the trainer's process. An
answer reaches them only if it is a list of literals, or a formula of known names and bounded powers.
"""

from __future__ import annotations

import re

# According to the sources of reasoning-gym 0.1.25.
EVALUATE_LITERALS = frozenset({"binary_matrix", "n_queens", "number_sorting", "spiral_matrix", "string_insertion"})
EVALUATE_FORMULAS = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)

MAX_CHARACTERS = 2000
MAX_FORMULA_CHARACTERS = 400

_literals = re.compile(r"[\w\s,\[\]'\".+-]*", re.ASCII)
_formula = re.compile(r"[\w\s+\-*/().]*", re.ASCII)
_names = re.compile(r"[A-Za-z_]\w*", re.ASCII)
# Without Integral: the integral of the question's function is right, but solves nothing.
_KNOWN_NAMES = frozenset({"sin", "cos", "tan", "asin", "acos", "atan", "exp", "log", "sqrt", "pi"})
# An exponent is a small number without an exponent of its own: 9**9**9 would never finish.
_power = re.compile(r"\*\*(?!\s*(?:-?\d{1,2}|\(\s*-?\d{1,2}\s*(?:/\s*\d{1,2}\s*)?\))(?![\w.])(?!\s*\*\*))")


def is_safe_to_score(generator: str, answer: str) -> bool:
    """Whether an answer may be passed to the generator's scorer; otherwise it counts as wrong."""
    if generator in EVALUATE_LITERALS:
        return (
            len(answer) <= MAX_CHARACTERS and bool(_literals.fullmatch(answer)) and "__" not in _outside_boards(answer)
        )
    if generator in EVALUATE_FORMULAS:
        return (
            len(answer) <= MAX_FORMULA_CHARACTERS
            and bool(_formula.fullmatch(answer))
            and all(len(name) == 1 or name in _KNOWN_NAMES for name in _names.findall(answer))
            and not _power.search(answer)
            and answer.count(")**") + answer.count(") **") <= 4
            and not re.search(r"\d{13}", answer)
        )
    return len(answer) <= 20 * MAX_CHARACTERS


def _outside_boards(answer: str) -> str:
    """The answer without the empty squares of n_queens."""
    return re.sub(r"(?<!\w)_+(?!\w)", "", answer)
