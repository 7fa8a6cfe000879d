r"""Mathematical answers, compared with math-verify: `\frac{1}{2}` is 0.5, and `3 \to 4` is not 4."""

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
from toolrl.rewards.math.words import (
    SHARE,
    Measured,
    as_words,
    compare_literally,
    conversion_factor,
    is_above_one,
    measured,
)
from toolrl.types import Episode, Score, Task


@functools.cache
def shared_verifier() -> MathVerifier:
    """The verifier shared by all rewards of this process.

    Raises:
        MissingExtra: math-verify is not installed.
    """
    return MathVerifier()


def verify_math(answer: str, gold: Any, verifier: MathVerifier | None = None) -> MathVerdict:
    r"""Whether an answer is mathematically equal to the expected one.

    Fractions, decimals, LaTeX variants, percentages, thousands separators, sets, intervals, matrices, equations and
    inequalities are read by math-verify's grammar, and compared exactly. The whole answer has to be one formula:
    several answers, a derivation or a sentence are rejected, whatever they contain. Conventions:

    - A decimal equals another value only if it is that value, rounded or truncated to at least six significant digits.
      Whole numbers are compared exactly.
    - A unit, currency or base that only one of the two has is assumed for the other. If both have one, they must agree,
      known units after conversion. A one-letter unit without `\text` needs a space: `5m` is a product.
    - Words next to a number must be nouns (`18 years old`), not numbers, comparisons or negations.
    - `28\%` is 0.28; it is also 28 if the other value has no percent sign and is above 1.
    - Lists and sets are unordered, tuples and matrices are ordered; `1, 2` may stand for the point `(1, 2)`.
    - Words are compared as words, ignoring case. Letters that cannot be a word (`xy`, `abc`) are a product.

    Args:
        answer: The answer, without its tags or box.
        gold: The expected answer, in LaTeX or plain text, or several, of which one must match.
        verifier: Runs math-verify; `shared_verifier()` by default.

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
    """Make a reward for mathematical answers: 1 if equal to `task.answer`, minus a cost per call; else 0.

    `task.answer` may be a list of right answers. Equality is that of `verify_math`.

    Args:
        call_cost: Deducted from a right answer for each tool call; see `with_call_cost`.
        forms: The forms in which answers are found; see `find_answer`.
        verifier: Runs math-verify; `shared_verifier()` by default.

    Raises:
        ConfigError: `call_cost` is negative, or a form is unknown.
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
    if len(answer) > max(MAX_CHARACTERS, 2 * len(gold)):  # so that nothing below has to be fast for long texts
        return MathVerdict(False, "not a single formula")
    answer, gold = clean(answer), clean(gold)
    if not answer or not gold:
        return MathVerdict(False)
    if any(without_spaces(spell(answer)) == without_spaces(spell(gold)) for spell in (canonical, without_fonts)):
        return MathVerdict(True)
    if (words := as_words(gold)) is not None:
        is_letter = len(words) == 1 and choice_letter(answer, ascii_uppercase[:10]) == words.upper()
        return MathVerdict(is_letter or as_words(answer, against_words=True) == words)
    given, wanted = measured(answer), measured(gold)
    factor = conversion_factor(given, wanted)
    if factor is None:
        return MathVerdict(False, "another unit")
    if (literal := compare_literally(given.formula, wanted.formula)) is not None:
        return MathVerdict(literal)
    compare = functools.partial(_compare, verifier=verifier or shared_verifier())
    if SHARE in (given.dimension, wanted.dimension) and given.dimension != wanted.dimension:
        return _compare_percentage(given, wanted, compare)
    return compare(given.formula, wanted.formula, factor)


def _compare_percentage(
    given: Measured, wanted: Measured, compare: Callable[[str, str, Fraction], MathVerdict]
) -> MathVerdict:
    """`28 %` is 0.28, and also 28 where that can be meant: 1 % is not 1."""
    verdict = compare(given.formula, wanted.formula, Fraction(1, 100) if given.dimension == SHARE else Fraction(100))
    if verdict.equal or (given.dimension == SHARE and not is_above_one(wanted.formula)):
        return verdict
    return compare(given.formula, wanted.formula, Fraction(1))


def _compare(answer: str, gold: str, factor: Fraction, verifier: MathVerifier) -> MathVerdict:
    verdict = MathVerdict(False)
    for one in readings(gold):
        wanted = without_steps(prepare(one) or canonical(one))  # whatever the task's author wrote counts as one answer
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
