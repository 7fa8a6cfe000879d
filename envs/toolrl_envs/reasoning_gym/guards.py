"""What an answer may consist of where a scorer of reasoning-gym evaluates it as Python.

Those scorers call `eval` or SymPy's `parse_expr` (which is `eval` too) on the answer, in the process that trains. Here
an answer reaches them only if it is a list of literals, or a formula of known names and bounded powers.
"""

from __future__ import annotations

import re

# By their sources, in reasoning-gym 0.1.25.
EVALUATE_LITERALS = frozenset({"binary_matrix", "n_queens", "number_sorting", "spiral_matrix", "string_insertion"})
EVALUATE_FORMULAS = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)

MAX_CHARACTERS = 2000
MAX_FORMULA_CHARACTERS = 400

_literals = re.compile(r"[\w\s,\[\]'\".+-]*", re.ASCII)
_formula = re.compile(r"[\w\s+\-*/().]*", re.ASCII)
_names = re.compile(r"[A-Za-z_]\w*", re.ASCII)
# Integral is not among them: that of the question's own function is right, and solves nothing.
_KNOWN_NAMES = frozenset({"sin", "cos", "tan", "asin", "acos", "atan", "exp", "log", "sqrt", "pi"})
# A power's exponent is a small number, and is not raised itself: 9**9**9 would not end.
_power = re.compile(r"\*\*(?!\s*(?:-?\d{1,2}|\(\s*-?\d{1,2}\s*(?:/\s*\d{1,2}\s*)?\))(?![\w.])(?!\s*\*\*))")


def is_safe_to_score(generator: str, answer: str) -> bool:
    """Whether an answer may be handed to the generator's scorer; one that may not is wrong."""
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
    """The answer without runs of n_queens' empty squares."""
    return re.sub(r"(?<!\w)_+(?!\w)", "", answer)
