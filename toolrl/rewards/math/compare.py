"""Equality of two formulas: read by math-verify's grammar, compared exactly, in the process of `worker.py`.

math-verify's own comparison rounds to six decimals, so that 1/2004! equals 1/2006!, compares all lists as sets, and
takes 3(2) and `3 4` for mixed numbers. Here decimals are fractions, and a decimal equals another value only if it is
that value, rounded to at least six digits.

This file is loaded by a script and must not import toolrl.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy, is_expr_of_only_symbols
from latex2sympy2_extended.sets import FiniteSet
from math_verify.grader import should_treat_as_complex
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

DIGITS = 6
"""Significant digits that a decimal needs to equal a value that it only approximates."""

_PRECISION = 60
_CLOSE = sympy.Float("1e-40", 10)
_POINTS = tuple(
    sympy.Rational(top, bottom) for top, bottom in ((17, 11), (-13, 7), (29, 19), (5, 23), (-3, 31), (41, 3))
)
_MATRICES = (sympy.MatrixBase, sympy.MatrixExpr)
_MIRRORED = {sympy.Gt: sympy.Lt, sympy.Ge: sympy.Le}


class Reader(_Latex2Sympy):
    """math-verify's parser, changed to read numbers exactly.

    Attributes:
        places: For each decimal that was read, its number of decimal places as written.
    """

    def __init__(self, *, is_real: bool):
        super().__init__(None, is_real, False, ConversionConfig(lowercase_symbols=False))
        self.places: dict[sympy.Rational, int] = {}

    def parse(self, latex_str: str) -> Any:
        r"""Parse a formula with `\gamma` as a letter, where the grammar takes it for a function."""
        return super().parse(re.sub(r"\\(gamma(?![A-Za-z])|Gamma(?![A-Za-z]|\s*\())", r"\\mathrm{\1}", latex_str))

    def parse_number(self, text: str) -> sympy.Rational:
        """Read a decimal as an exact fraction."""
        text = text.replace(",", "")
        number = sympy.Rational(text)
        if "." in text:
            self.places[number] = len(text.partition(".")[2])
        return number

    def convert_postfix_list(self, arr: list[Any], i: int = 0) -> Any:
        """Read adjacent factors as a product. Mixed numbers have become sums before."""
        factors = [self.convert_postfix(factor) for factor in arr[i:]]
        if any(not isinstance(factor, sympy.Expr | sympy.MatrixBase) for factor in factors):
            return super().convert_postfix_list(arr, i)
        product = factors[0]
        for factor in factors[1:]:
            is_matrix = any(getattr(one, "is_Matrix", False) for one in (product, factor))
            product = (self.mat_mul_flat if is_matrix else self.mul_flat)(product, factor)
        return product

    def convert_interval(self, expr: Any) -> Any:
        """Keep `[3,3]` a pair, where sympy would make it the number 3."""
        left, right = (self.convert_expr(end) for end in expr.expr())
        is_closed = not (expr.L_PAREN() or expr.L_GROUP() or expr.L_PAREN_VISUAL())
        found = super().convert_interval(expr)
        if isinstance(found, sympy.Interval):
            return found
        return sympy.Tuple(left, right, sympy.Symbol("[")) if is_closed else sympy.Tuple(left, right)


def equal(gold: str, answer: str) -> bool:
    """Whether two formulas in LaTeX are equal. An unreadable formula equals nothing."""
    try:
        return _Comparison(gold, answer).verdict()
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001 - whatever the parser or sympy raises on a model's text, it is not a formula
        return False


@functools.lru_cache(maxsize=256)
def _read(text: str, is_real: bool) -> tuple[Any, dict[sympy.Rational, int]]:
    """A formula's value and the places of its decimals; cached, since an expected answer is compared often."""
    reader = Reader(is_real=is_real)
    return reader.parse(text), reader.places


class _Comparison:
    def __init__(self, gold: str, answer: str):
        is_real = not (should_treat_as_complex(gold) or should_treat_as_complex(answer))
        (gold_value, gold_places), (answer_value, answer_places) = _read(gold, is_real), _read(answer, is_real)
        self._gold = _with_i(gold_value)
        self._answer = _in_the_same_case(self._gold, _with_i(answer_value))
        self._places = {**answer_places, **gold_places}

    def verdict(self) -> bool:
        gold, answer = self._gold, self._answer
        if all(isinstance(one, sympy.Tuple) and all(map(_is_assignment, one)) for one in _listed(gold)):
            gold = FiniteSet(*(sympy.Tuple(*(named.rhs for named in one)) for one in _listed(gold)))
        golds, answers = _listed(gold), _listed(answer)
        if not any(map(_is_relation, golds)) and all(map(_is_assignment, answers)):
            answer = answer.rhs if answers == [answer] else FiniteSet(*(one.rhs for one in answers))
        elif all(map(_is_assignment, golds)) and not any(map(_is_relation, answers)):
            if len({one.lhs for one in golds}) == len(golds) > 1:  # `a = 4, b = 5` for `4, 5`
                values = answers if _ends(answer) is None else _ends(answer) or []
                return self._in_order([one.rhs for one in golds], values)
            gold = gold.rhs if golds == [gold] else FiniteSet(*(one.rhs for one in golds))
        return self.same(gold, answer)

    def same(self, gold: Any, answer: Any) -> bool:
        """Whether two values of any kind are equal."""
        if getattr(gold, "is_Matrix", False) or getattr(answer, "is_Matrix", False):
            return self._same_matrix(gold.doit(), answer.doit())
        if isinstance(gold, bool | sympy.logic.boolalg.Boolean) or isinstance(answer, sympy.logic.boolalg.Boolean):
            return self._same_condition(gold, answer)
        if isinstance(gold, sympy.Set | sympy.Tuple) or isinstance(answer, sympy.Set | sympy.Tuple):
            return self._same_collection(gold, answer)
        return self._same_number(gold, answer)

    def _in_order(self, golds: list[Any], answers: list[Any]) -> bool:
        return len(golds) == len(answers) and all(map(self.same, golds, answers))

    def _in_any_order(self, golds: list[Any], answers: list[Any]) -> bool:
        if len(golds) > len(answers):
            return False
        left = list(answers)
        for gold in golds:
            found = next((index for index, one in enumerate(left) if self.same(gold, one)), None)
            if found is None:
                return False
            del left[found]
        return all(any(self.same(gold, one) for gold in golds) for one in left)  # repetitions of the same elements

    def _same_matrix(self, gold: Any, answer: Any) -> bool:
        if not (getattr(gold, "is_Matrix", False) and getattr(answer, "is_Matrix", False)):
            return False
        return gold.shape == answer.shape and self._in_order(list(gold), list(answer))

    def _same_collection(self, gold: Any, answer: Any) -> bool:
        gold, answer = _union(gold), _union(answer)
        gold_ends, answer_ends = _ends(gold), _ends(answer)
        if isinstance(gold, sympy.Interval) and isinstance(answer, sympy.Interval):
            openness = [(one.left_open, one.right_open) for one in (gold, answer)]
            return openness[0] == openness[1] and self._in_order([gold.start, gold.end], [answer.start, answer.end])
        if gold_ends is not None and answer_ends is not None:
            return self._in_order(gold_ends, answer_ends)
        if gold_ends is not None or answer_ends is not None:  # `1, 2` for `(1, 2)`, and vice versa
            return self._in_order(gold_ends or _listed(gold), answer_ends or _listed(answer))
        if isinstance(gold, sympy.FiniteSet) and isinstance(answer, sympy.FiniteSet):
            return self._in_any_order(_listed(gold), _listed(answer))
        if not (isinstance(gold, sympy.Set) and isinstance(answer, sympy.Set)):
            return self._in_any_order(_listed(gold), _listed(answer)) and not isinstance(gold, sympy.Set)
        gold, answer = gold.doit(), answer.doit()
        if gold == answer or gold.symmetric_difference(answer).is_empty:
            return True
        if isinstance(gold, sympy.Union) and isinstance(answer, sympy.Union):
            return self._in_any_order(list(gold.args), list(answer.args))
        return isinstance(gold, sympy.Interval) and isinstance(answer, sympy.Interval) and self.same(gold, answer)

    def _same_condition(self, gold: Any, answer: Any) -> bool:
        """Whether equations or inequalities are equal; an inequality may be a range: `1 < x < 2` is (1, 2)."""
        if isinstance(gold, sympy.Set | sympy.Tuple) or isinstance(answer, sympy.Set | sympy.Tuple):
            gold, answer = (_named(one).as_set() if _is_relation(one) else one for one in (gold, answer))
            if not isinstance(gold, sympy.Set) or not isinstance(answer, sympy.Set):
                return False
            return self.same(gold, answer)
        golds, answers = _conjuncts(gold), _conjuncts(answer)
        if not all(map(_is_relation, (*golds, *answers))):
            return bool(gold == answer)
        if len(golds) == len(answers) and all(
            any(self._same_relation(one, other) for other in answers) for one in golds
        ):
            return all(any(self._same_relation(other, one) for other in golds) for one in answers)
        if any(isinstance(one, sympy.Eq | sympy.Ne) for one in (*golds, *answers)):
            return False
        symbols = gold.free_symbols | answer.free_symbols
        return len(symbols) == 1 and self.same(_named(gold).as_set(), _named(answer).as_set())

    def _same_relation(self, gold: Any, answer: Any) -> bool:
        gold, answer = _mirrored(gold), _mirrored(answer)
        if type(gold) is not type(answer):
            return False
        if gold.lhs == answer.lhs and not (gold.lhs.free_symbols & (gold.rhs.free_symbols | answer.rhs.free_symbols)):
            return self.same(gold.rhs, answer.rhs)
        if not all(
            isinstance(side, sympy.Expr) and not side.has(*_MATRICES) for one in (gold, answer) for side in one.args
        ):
            return False
        gold_side, answer_side = (_named(one.lhs - one.rhs).doit() for one in (gold, answer))
        if self._same_number(gold_side, answer_side):  # identities are equal only if their sides are
            return self._same_number(gold.lhs, answer.lhs) or not self._same_number(gold_side, sympy.S.Zero)
        if gold_side.free_symbols != answer_side.free_symbols or not gold_side.free_symbols:
            return False
        ratio = sympy.cancel(answer_side / gold_side)
        if ratio.is_number and ratio.is_finite and not ratio.is_zero:
            return isinstance(gold, sympy.Eq | sympy.Ne) or bool(ratio.is_positive)
        if not isinstance(gold, sympy.Eq):
            return False
        symbol = min(gold_side.free_symbols, key=str)
        solutions = [sympy.solve(side, symbol) for side in (gold_side, answer_side)]
        return bool(solutions[0]) and len(solutions[0]) == len(solutions[1]) and self._in_any_order(*solutions)

    def _same_number(self, gold: Any, answer: Any) -> bool:
        gold, answer = _named(gold).doit(), _named(answer).doit()
        if gold.has(sympy.zoo, sympy.nan) or answer.has(sympy.zoo, sympy.nan):
            return False
        if gold == answer:
            return True
        if not (isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr)):
            return False
        if gold.has(sympy.oo) or answer.has(sympy.oo):
            return False
        symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
        if symbols:
            return self._same_function(gold, answer, symbols)
        if not (gold.is_Rational and answer.is_Rational) and _close(gold, answer):
            return True
        return self._rounds_to(answer, gold) or self._rounds_to(gold, answer)

    def _same_function(self, gold: Any, answer: Any, symbols: list[Any]) -> bool:
        compared = 0
        for shift in range(len(_POINTS)):
            at = {
                symbol: _POINTS[(index + shift) % len(_POINTS)] + index // len(_POINTS)
                for index, symbol in enumerate(symbols)
            }
            values = [one.xreplace(at).doit() for one in (gold, answer)]
            if any(value.has(sympy.oo, sympy.zoo, sympy.nan) or not value.is_number for value in values):
                continue
            if values[0] != values[1] and not _close(values[0], values[1]):
                return False
            compared += 1
        return compared > 2 or bool(sympy.simplify(gold - answer) == 0)

    def _rounds_to(self, decimal: Any, value: Any) -> bool:
        """Whether a decimal is a value with more places, rounded or truncated."""
        places = self._places.get(decimal)
        if places is None or decimal.is_integer or value.is_integer or not value.is_real:
            return False
        unit = sympy.Rational(1, 10**places)
        digits = len(str(abs(decimal) / unit))
        exact = value if value.is_Rational else sympy.Rational(str(value.evalf(digits + 30)))
        if digits >= 15 and abs(decimal - exact) <= abs(exact) * sympy.Rational(1, 10**15):  # float noise
            return True
        is_cut = abs(decimal) <= abs(exact) and abs(exact - decimal) < unit
        return digits >= DIGITS and (abs(exact - decimal) * 2 <= unit or is_cut)


def _close(gold: Any, answer: Any) -> bool:
    """Whether two numbers agree in forty significant digits: a tiny number is not zero."""
    values = [one.evalf(_PRECISION) for one in (gold, answer)]
    difference = (gold - answer).evalf(_PRECISION)
    sizes = [abs(value) for value in values]
    if not all(size.is_Float or size.is_Rational for size in sizes):
        return bool(sympy.simplify(gold - answer) == 0)
    if difference == 0 or all(_is_noise(part) for part in difference.as_real_imag()):
        return True
    return bool(abs(difference) <= _CLOSE * max(sizes))


def _is_noise(value: Any) -> bool:
    return bool(value == 0 or (value.is_Float and value._prec < 10))


def _is_relation(value: Any) -> bool:
    return isinstance(value, Relational) or (
        isinstance(value, sympy.And | sympy.Or) and all(isinstance(one, Relational) for one in value.args)
    )


def _is_assignment(value: Any) -> bool:
    """Whether an equation names a value: `x = 1`, `f(x) = 1`, `AB = 1`, `(x, y) = (1, 2)`."""
    return isinstance(value, sympy.Eq) and (
        isinstance(value.lhs, AppliedUndef) or (is_expr_of_only_symbols(value.lhs) and not value.lhs.is_Add)
    )


def _mirrored(relation: Any) -> Any:
    mirrored = _MIRRORED.get(type(relation))
    return mirrored(relation.rhs, relation.lhs, evaluate=False) if mirrored else relation


def _conjuncts(value: Any) -> list[Any]:
    return list(value.args) if isinstance(value, sympy.And) else [value]


def _listed(value: Any) -> list[Any]:
    """The elements of a list or set, as written."""
    if isinstance(value, sympy.FiniteSet):
        return list(getattr(value, "_unsorted_args", value.args))
    return [value]


def _union(value: Any) -> Any:
    """The set described by `x < 1 or x > 2`; any other value unchanged."""
    parts = _listed(value)
    if len(parts) < 2 or not all(
        isinstance(one, Relational) and not isinstance(one, sympy.Eq | sympy.Ne) for one in parts
    ):
        return value
    if len(value.free_symbols) != 1:
        return value
    sets = [_named(one).as_set() for one in parts]
    are_apart = all(one.is_disjoint(other) for index, one in enumerate(sets) for other in sets[index + 1 :])
    return sympy.Union(*sets) if are_apart else value  # otherwise both conditions may have to hold


def _ends(value: Any) -> list[Any] | None:
    """The elements of an ordered value: a tuple, or a point that looks like an open interval; else None."""
    if isinstance(value, sympy.Tuple):
        return list(value)
    if isinstance(value, sympy.Interval) and value.left_open and value.right_open:
        return [value.start, value.end]
    return None


def _named(value: Any) -> Any:
    """A value with undefined functions such as f(x) replaced with symbols."""
    functions = value.atoms(AppliedUndef)
    return value.xreplace({one: sympy.Symbol(str(one), real=True) for one in functions}) if functions else value


def _with_i(value: Any) -> Any:
    """A value with the letter i as the imaginary unit, unless i is an index."""
    if not isinstance(value, sympy.Basic | sympy.MatrixBase) or not hasattr(value, "free_symbols"):
        return value
    indices = (
        {symbol.name for one in value.atoms(sympy.Sum, sympy.Product) for symbol in one.variables}
        if isinstance(value, sympy.Basic)
        else set()
    )
    letters = [one for one in value.free_symbols if one.name == "i" and "i" not in indices]
    return value.xreplace(dict.fromkeys(letters, sympy.I)) if letters else value


def _in_the_same_case(gold: Any, answer: Any) -> Any:
    """The answer with its letters in the gold's case, unless a letter occurs in both cases."""
    if not (hasattr(gold, "free_symbols") and hasattr(answer, "free_symbols")):
        return answer
    golds = {symbol.name.casefold(): symbol for symbol in gold.free_symbols}
    folded = [symbol.name.casefold() for symbol in answer.free_symbols]
    if len(golds) < len(gold.free_symbols) or len(set(folded)) < len(folded):
        return answer
    renamed = {one: golds[one.name.casefold()] for one in answer.free_symbols if one.name.casefold() in golds}
    return answer.xreplace(renamed) if renamed else answer
