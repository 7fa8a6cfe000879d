r"""Answers in words, and the units and words next to a number: `\text{odd}`, `5 cm`, `18 years old`, `\$18`, `28\%`.

math-verify reads words as products of letters, in any order, and drops whatever it takes for a unit.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from toolrl.rewards.math.latex import font
from toolrl.rewards.quantities import unit_of

SHARE = "share^1"
"""The dimension of a percentage."""

_word = re.compile(r"[^\W\d_]['’.-]*(?:[^\W\d_]|['’.-](?=\w))*(?:[ ,]+[^\W\d_](?:[^\W\d_]|['’.-])*)*[!?]?")
_choices = re.compile(r"[A-Z](?:\s*(?:,|&|and|,\s*and)\s*[A-Z])+")
_choice = re.compile(r"\(?\s*([A-Z])\s*[.):]?")
_difference = re.compile(r"[^\W\d_](?:-[^\W\d_])+")
_FORMULAS = (
    "sqrt", "infinity", "inf", "pi", "sin", "cos", "tan", "log", "ln", "exp", "alpha", "beta", "gamma", "theta",
)  # fmt: skip

_MONEY = {"$": "usd", "us$": "usd", "usd": "usd", "dollar": "usd", "€": "eur", "eur": "eur", "euro": "eur", "£": "gbp",
          "gbp": "gbp", "¥": "jpy", "yen": "jpy", "yuan": "cny", "rmb": "cny", "₹": "inr", "rs": "inr", "rupee": "inr",
          "cent": "cent", "¢": "cent"}  # fmt: skip
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
# Words that change the number next to them, or leave it open.
_CHANGING = """
not no nor or and than then less more fewer greater least most minus plus times over under above below between to
through until except without excluding into in divided multiplied squared cubed root power factorial percent half
halves third thirds quarter quarters fourth fifth sixth seventh eighth ninth tenth hundredth hundredths thousandth
thousandths double triple twice thrice once dozen dozens score gross pair pairs hundred hundreds thousand thousands
million millions billion billions trillion lakh crore point modulo mod base negative positive maybe probably perhaps
approximately approx about around almost nearly roughly if unless when where either neither both guess wrong false
instead but is are was were equals equal remainder infinite zero one two three four five six seven eight nine ten
eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy
eighty ninety alpha beta gamma delta epsilon zeta eta theta iota kappa lambda sigma upsilon omega phi psi sin cos tan
sec csc cot log exp sqrt inf infinity arcsin arccos arctan sinh cosh tanh gcd lcm max min det
"""
_FILLING = {"of", "per", "the", "a", "an", "each", "every", "unit", "units", "in"}
_trailing = re.compile(
    r"(?P<number>.*?[\d})\]])(?P<gap>[\s~]|\\[,;:! ])*(?P<unit>(?:\^\s*\{?\s*\\circ\s*\}?|°|\\degree|\\circ)?"
    r"[^\d\\{}()\[\]+=<>|,;:!&_]*(?:\^\s*\{?\s*-?[1-4]\s*\}?[^\d\\{}()\[\]+=<>|,;:!&_]*)*)",
    re.DOTALL,
)
_circle = r"\^\s*\{?\s*\\circ\s*\}?"
_marked = re.compile(
    rf"(?P<number>.+?)(?P<gap>\s|~|\\[,;:! ])*"
    rf"(?P<unit>(?:{font.pattern}|{_circle})(?:{font.pattern}|{_circle}|\^\s*\{{?\s*-?[1-4]\s*\}}?|[\s/·*])*)",
    re.DOTALL,
)
_leading = re.compile(r"(?:US\s?)?(?:\\?\$|€|£|¥|₹|(?:Rs\.?|USD|EUR|GBP)(?=\s?\d))\s*", re.IGNORECASE)


class Measured(NamedTuple):
    """A formula, and the unit or words next to it.

    Attributes:
        formula: The formula.
        words: The unit, or words in lower case; empty if there are none.
        dimension: The dimension or currency of the unit; empty if it is unknown.
        factor: The factor from the unit to the first unit of its dimension.
    """

    formula: str
    words: str = ""
    dimension: str = ""
    factor: Fraction = Fraction(1)


def as_words(text: str, *, against_words: bool = False) -> str | None:
    r"""The words of an answer, in lower case; None if it is a formula.

    `\text{Evelyn}` and `Evelyn` are words. A capital letter is a choice. Other letters are formulas, and so are
    products such as `abc`: letters in alphabetical order, or without vowels.

    Args:
        text: An answer.
        against_words: Whether it is compared with words, so that letters are not a product.
    """
    plain = font.sub(r" \1 ", text)
    is_marked = plain != text
    plain = re.sub(r"\\[ ,;:~]|~", " ", plain).strip().strip("\"'").rstrip(".").strip()
    if choice := _choice.fullmatch(plain):
        return choice[1].casefold()
    if _choices.fullmatch(plain):  # several choices, in any order
        return " ".join(sorted(re.findall("[A-Z]", plain))).casefold()
    if not _word.fullmatch(plain) or plain in _FORMULAS or (len(plain) == 1 and not against_words):
        return None
    if not is_marked and _difference.fullmatch(plain):
        return None
    if not is_marked and not against_words and is_product(plain):
        return None
    return " ".join(re.sub(r"[,.!?]+", " ", plain.casefold()).split())


def is_product(letters: str) -> bool:
    """Whether letters are a product, such as `xy` or `abc`, rather than a word."""
    if not letters.isascii() or not letters.isalpha() or len(letters) > 5 or re.search("[eiouEIOU]", letters):
        return False
    return "a" not in letters.lower() or list(letters) == sorted(letters)


def measured(text: str) -> Measured:
    r"""Separate a unit, a currency or harmless words from an answer: `5\text{ cm}`, `\$18`, `18 years old`."""
    plain = font.sub(
        lambda match: f" {match[1]} " if len(match[1].strip()) != 1 or match[1] != match[1].strip() else match[0], text
    )
    if (
        (money := _leading.match(plain))
        and (rest := plain[money.end() :])
        and (rest[0].isdigit() or rest[0] in r".\{-")
    ):
        tail = measured(rest)
        kind = _MONEY.get(money[0].strip().lower().replace("\\", "").strip(" ."), "usd")
        if (tail.dimension in ("", kind, "usd") and not tail.words.strip(r" \$")) or tail.dimension == kind:
            return Measured(tail.formula, kind, kind)
    match = _marked.fullmatch(text) or _trailing.fullmatch(plain.replace(r"\%", "%").replace(r"\$", "$"))
    if match is None or not (
        words := font.sub(r" \1 ", match["unit"]).replace(r"\%", "%").replace(r"\$", "$").strip(" \t\n~.")
    ):
        return Measured(text)
    formula, is_apart = match["number"].strip(), match["gap"] is not None or match.re is _marked
    if (scaled := _scaled(formula, words)) is not None:
        return scaled
    if words.lower() in ("st", "nd", "rd", "th", "^th") and formula.isdigit():
        return Measured(formula)
    lower = words.lower().rstrip(".")
    for name in (lower, lower.removesuffix("s")):
        if name in _MONEY:
            kind, factor = ("usd", Fraction(1, 100)) if _MONEY[name] == "cent" else (_MONEY[name], Fraction(1))
            return Measured(formula, kind, kind, factor)
    if (unit := unit_of(words)) is not None and (is_apart or len(words) > 1 or not words.isalpha()):
        return Measured(formula, words, *unit)
    if _is_number(formula) and is_apart and _are_harmless(words):
        return Measured(formula, " ".join(lower.split()))
    return Measured(text)


def conversion_factor(answer: Measured, gold: Measured) -> Fraction | None:
    """The factor that converts the answer to the gold's unit; None if the units do not match.

    A unit that only one of the two has is assumed for the other.
    """
    if not answer.words or not gold.words or gold.words in ("unit", "units", "square units", "cubic units"):
        return Fraction(1)
    if answer.dimension and gold.dimension:
        return answer.factor / gold.factor if answer.dimension == gold.dimension else None
    if answer.dimension or gold.dimension:
        return None
    stems = [{word.removesuffix("s") for word in one.words.split()} - _FILLING for one in (answer, gold)]
    return Fraction(1) if stems[0] & stems[1] else None


def is_above_one(formula: str) -> bool:
    """Whether a formula is a plain number above 1."""
    plain = formula.replace(",", "")
    return re.fullmatch(r"\d{1,300}(?:\.\d*)?", plain) is not None and float(plain) > 1


def _scaled(formula: str, words: str) -> Measured | None:
    """Read a number with a scale word, such as `1.5 million dollars`."""
    scale, _, rest = words.partition(" ")
    power = _SCALES.get(scale.lower())
    if power is None or not _is_number(formula):
        return None
    tail = measured(f"1 {rest}") if rest else Measured("1")
    return tail._replace(formula=rf"({formula}) \cdot 10^{{{power}}}") if tail.formula == "1" else None


def _is_number(formula: str) -> bool:
    return any(character.isdigit() for character in formula) and not re.search(
        r"[A-Za-z]", re.sub(r"\\(?:[dt]?frac|sqrt|pi|cdot|times|left|right)(?![A-Za-z])|[,;!]", "", formula)
    )


def _are_harmless(text: str) -> bool:
    """Whether the words next to a number do not change it: a few nouns, none a number or a comparison."""
    words = re.findall(r"[^\s/-]+", text)
    if not 0 < len(words) <= 6:
        return False
    return all(
        word.lower().strip(".") not in _CHANGING.split()
        and word.replace("'", "").replace(".", "").isalpha()
        and (word.lower() in _FILLING or (len(word) > 2 and not is_product(word)))
        for word in words
    ) and not all(word.lower() in _FILLING - {"unit", "units"} for word in words)


def compare_literally(answer: str, gold: str) -> bool | None:
    """Whether times, ratios or numbers in other bases are equal; None for anything else.

    12:30 is not a quotient, and the digits of a number are in its base. A base that only one of the two has is assumed
    for the other.
    """
    given, wanted = _in_base(answer), _in_base(gold)
    if given and wanted and (given[1] or wanted[1]):
        return given[0] == wanted[0] and (given[1] == wanted[1] or not given[1] or not wanted[1])
    times = [_time.fullmatch(font.sub(r" \1 ", text).replace("~", " ").strip()) for text in (answer, gold)]
    if times[0] and times[1]:
        halves = [(time[3] or "").lower() for time in times if time]
        return (int(times[0][1]), times[0][2]) == (int(times[1][1]), times[1][2]) and len({*halves} - {""}) < 2
    if times[1] and ":" not in answer:  # it may also be a ratio
        return bool(
            (match := _quotient.fullmatch(answer.replace(" ", "")))
            and f":{match[2]}" == times[1][2]
            and match[1] == times[1][1]
        )
    shares = [re.sub(r"\s|\\[,;! ]|[{}]", "", font.sub(r"\1", text)).split(":") for text in (answer, gold)]
    if min(map(len, shares)) < 2 or not all(
        part.isascii() and part.isdigit() and len(part) < 20 for one in shares for part in one
    ):
        return None
    (first, *others), (wanted_first, *wanted_others) = ([int(part) for part in one] for one in shares)
    if len(others) != len(wanted_others):
        return False
    return all(one * wanted_first == other * first for one, other in zip(others, wanted_others, strict=True))


_quotient = re.compile(r"(?:\\[dt]?frac)?\{?(\d+)(?:\}\{|/)(\d+)\}?")
_time = re.compile(r"(\d{1,2})((?::\d\d){1,2})\s*(?:([AaPp])\.?\s?[Mm]\.?)?")
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_base = re.compile(
    r"(?P<digits>-?[0-9A-F][0-9A-F ,]*)(?:_\s*\{?|\s*\(?base\s*)(?P<base>\d{1,2}|[a-z]{3,5})\s*\}?\)?", re.IGNORECASE
)


def _in_base(text: str) -> tuple[str, int] | None:
    """The digits of a number, and its base, or 0 if it has none."""
    text = re.sub(r"\\(?:text|mathrm)\s*\{([^{}]*)\}|\\[,;! ]", lambda match: match[1] or "", text).strip()
    if match := _base.fullmatch(text):
        base = int(match["base"]) if match["base"].isdigit() else _BASES.get(match["base"].lower(), 0)
        digits = re.sub("[ ,]", "", match["digits"]).upper()
        return (digits, base) if base > 1 and (base > 10 or digits.lstrip("-").isdigit()) else None
    digits = re.sub("[ ,]", "", text).upper()
    return (digits, 0) if re.fullmatch("-?[0-9A-F]+", digits) else None
