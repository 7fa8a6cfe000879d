r"""Mathematical answers, compared by math-verify: `\frac{1}{2}` is 0.5, and `3 \to 4` is not 4."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from string import ascii_uppercase
from typing import Any

from toolrl.rewards.choices import choice_letter
from toolrl.rewards.economy import check_call_cost, with_call_cost
from toolrl.rewards.extraction import AnswerForm, check_forms, find_answer
from toolrl.rewards.math.latex import canonical, without_fonts
from toolrl.rewards.math.pool import MathVerdict, MathVerifier
from toolrl.rewards.math.text import (
    MAX_CHARACTERS,
    clean,
    is_set_for_tuple,
    parts_to_verify,
    prepare,
    readings,
    without_spaces,
    without_steps,
)
from toolrl.rewards.math.words import SHARE, Beside, agree, as_words, beside, compare_literally, is_above_one
from toolrl.types import Episode, Score, Task


@functools.cache
def shared_verifier() -> MathVerifier:
    """The verifier that all rewards of this program share.

    Raises:
        MissingExtra: math-verify is not installed.
    """
    return MathVerifier()


def verify_math(answer: str, gold: Any, verifier: MathVerifier | None = None) -> MathVerdict:
    r"""Whether an answer is mathematically equal to the expected one.

    Fractions, decimals, LaTeX variants, percent, thousands separators, sets, intervals, matrices, equations and
    inequalities are read by math-verify's grammar, and compared exactly. The whole answer has to be one formula:
    several answers, a derivation or a sentence are none, whatever they contain. What is a matter of judgement:

    - A decimal stands for another value only as that value rounded, or cut, to six significant digits or more. A whole
      number is compared exactly.
    - A unit, currency or base that one of the two leaves out is taken from the other; where both have one they must
      agree, known units after conversion. A unit of one letter without `\text` needs a space: `5m` is a product.
    - Words beside a number are nouns (`18 years old`); with a number, a comparison or a negation among them it is none.
    - `28\%` is 0.28, and 28 where the other one has no percent sign and is above 1.
    - Lists and sets have no order, tuples and matrices have one; `1, 2` may stand for the point `(1, 2)`.
    - Words are compared as words, their case aside. Letters are a product only where they make no word (`xy`, `abc`).

    Args:
        answer: The answer, without the tags or the box it stood in.
        gold: The expected answer, in LaTeX or plain, or several of which one is enough.
        verifier: Where math-verify runs; `shared_verifier()` by default.

    Raises:
        InfrastructureError: The verifier failed; the answer cannot be scored.
    """
    golds = gold if isinstance(gold, Iterable) and not isinstance(gold, str) else [gold]
    reason = ""
    for one in golds:
        verdict = _verify_one(answer, str(one), verifier)
        if verdict.equal:
            return verdict
        reason = reason or verdict.reason
    return MathVerdict(False, reason)


def math_reward(
    *,
    call_cost: float = 0.0,
    forms: Sequence[AnswerForm] = ("tag", "boxed"),
    verifier: MathVerifier | None = None,
) -> Callable[[Task, Episode], Score]:
    """Make a reward for mathematical answers: 1 for one that equals `task.answer`, less a cost per call, else 0.

    `task.answer` may be a list of right answers. See `verify_math` for what is equal.

    Args:
        call_cost: Taken off a right answer for each tool call; see `with_call_cost`.
        forms: Where the answer stands, see `find_answer`.
        verifier: Where math-verify runs; `shared_verifier()` by default.

    Raises:
        ConfigError: `call_cost` is negative, or a form does not exist.
        MissingExtra: math-verify is not installed.
    """
    check_call_cost(call_cost)
    check_forms(forms)
    verifier = verifier or shared_verifier()

    def reward(task: Task, episode: Episode) -> Score:
        answer = find_answer(episode.answer, forms)
        if answer is None:
            reason = "no final message" if episode.answer is None else f"no single answer ({', '.join(forms)}) in it"
            return Score(0.0, {"correct": 0.0, "answered": 0.0}, None, reason)
        verdict = verify_math(answer, task.answer, verifier)
        parts = {"correct": float(verdict.equal), "answered": 1.0}
        reason = "right" if verdict.equal else verdict.reason or f"expected {task.answer!r}"
        return with_call_cost(Score(float(verdict.equal), parts, answer, reason), episode, call_cost)

    return reward


def _verify_one(answer: str, gold: str, verifier: MathVerifier | None) -> MathVerdict:
    if len(answer) > max(MAX_CHARACTERS, 2 * len(gold)):  # nothing below has to be quick for a long text
        return MathVerdict(False, "not a single formula")
    answer, gold = clean(answer), clean(gold)
    if not answer or not gold:
        return MathVerdict(False)
    if any(without_spaces(spell(answer)) == without_spaces(spell(gold)) for spell in (canonical, without_fonts)):
        return MathVerdict(True)
    if (words := as_words(gold)) is not None:
        is_letter = len(words) == 1 and choice_letter(answer, ascii_uppercase[:10]) == words.upper()
        return MathVerdict(is_letter or as_words(answer, beside_words=True) == words)
    given, wanted = beside(answer), beside(gold)
    factor = agree(given, wanted)
    if factor is None:
        return MathVerdict(False, "another unit")
    if (literal := compare_literally(given.formula, wanted.formula)) is not None:
        return MathVerdict(literal)
    compare = functools.partial(_compare, verifier=verifier or shared_verifier())
    if SHARE in (given.measures, wanted.measures) and given.measures != wanted.measures:
        return _compare_percentage(given, wanted, compare)
    return compare(given.formula, wanted.formula, factor)


def _compare_percentage(
    given: Beside, wanted: Beside, compare: Callable[[str, str, Fraction], MathVerdict]
) -> MathVerdict:
    """`28 %` is 0.28; it is 28, too, where that can be meant: 1 % is not 1."""
    verdict = compare(given.formula, wanted.formula, Fraction(1, 100) if given.measures == SHARE else Fraction(100))
    if verdict.equal or (given.measures == SHARE and not is_above_one(wanted.formula)):
        return verdict
    return compare(given.formula, wanted.formula, Fraction(1))


def _compare(answer: str, gold: str, factor: Fraction, verifier: MathVerifier) -> MathVerdict:
    verdict = MathVerdict(False)
    for one in readings(gold):
        wanted = without_steps(prepare(one) or canonical(one))  # whatever the task's author wrote is one answer
        for formula in map(prepare, readings(answer)):
            parts = None if formula is None else parts_to_verify(formula, wanted)
            if formula is None or parts is None:
                return MathVerdict(False, "not a single formula")
            if is_set_for_tuple(formula, wanted) or formula.count(r"\ne") > wanted.count(r"\ne"):
                continue
            if factor != 1:
                parts = [rf"({part}) \cdot \frac{{{factor.numerator}}}{{{factor.denominator}}}" for part in parts]
            verdict = verifier.compare(wanted, parts)
            if verdict.equal:
                return verdict
    return verdict
