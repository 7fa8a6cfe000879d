r"""What is done to an answer's text before math-verify reads it.

math-verify looks for a formula in a longer text, and takes what it finds last: `3 \to 4`, `3 \\ 4` and `1=2=3=4` equal
4 for it. Here the whole answer has to be one formula, so such texts are refused.
"""

from __future__ import annotations

import re

from toolrl.rewards.quantities import parse_quantity, quantities_equal

MAX_CHARACTERS = 1000

_UNICODE = {
    "°": r"^\circ", "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "≤": r"\le ", "≥": r"\ge ",
    "≠": r"\ne ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "π": r"\pi ", "∈": r"\in ", "∅": r"\emptyset ",
    "²": "^2", "³": "^3", "\u00a0": " ", "\u202f": " ", "\u2009": " ",
}  # fmt: skip
_REWRITES = (
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"(?<![\\\w])sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\\w])pi(?!\w)"), r"\\pi "),
    (re.compile(r"(?<![\\\w])infinity(?!\w)"), r"\\infty "),
    (re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([-+]?\d{1,3})(?![\w.])"), r"\1 \\cdot 10^{\2}"),
    (re.compile(r"(?<![\w./])(\d+)\s+(\d+)/(\d+)(?![\w./])"), r"(\1+\\frac{\2}{\3})"),
    (re.compile(r"(?<=\d)\s*dollars?$"), ""),
    (re.compile(r"(?<=\d)(?:\\,|\\ |~|\{,\}|\\!,)(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\\[,;:! ]|~"), " "),
)

# Two formulas with one of these between them are two answers, or a derivation.
_separators = re.compile(
    r"\\\\|\\(?:to|rightarrow|Rightarrow|implies|iff|mapsto|longrightarrow|Longrightarrow|equiv|approx|quad|qquad|ne|neq"
    r"|mid|vert|newline|cr|f?boxed)(?![a-zA-Z])|->|=>|≈|→|⇒|≡"
)
_matrix = re.compile(r"\\begin\s*\{[a-z]*(?:matrix|array)\}.*?\\end\s*\{[a-z]*(?:matrix|array)\}", re.DOTALL)
_text = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|textrm|mbox|operatorname)\s*\{([^{}]*)\}")
_word = re.compile(r"[A-Za-z][A-Za-z'’.-]*(?: [A-Za-z'’.-]+)*")
_joining = re.compile(r"\s*,?\s*(?:and|or)\s*|\s*")
_equals = re.compile(r"(?<![<>!:\\=])=(?!=)")
_name = re.compile(
    r"\s*\\?[A-Za-z]+'*(?:_\{?\w+\}?)?(?:\s*\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\))?\s*|\s*\\angle\s*[A-Z]{1,3}\s*"
)
_list = re.compile(r",|;|\\text\{[^{}]*(?:or|and)[^{}]*\}|\b(?:or|and)\b")
_bounds = re.compile(r"\\(?:left|right|big|Big|bigl|bigr)(?![a-zA-Z])")


def as_words(text: str) -> str | None:
    r"""The words that an answer consists of, in lower case; None if it is a formula.

    `\text{Evelyn}` and `Evelyn` are words. math-verify reads them as a product of letters, whose order is free. A
    capital letter is a choice; other letters, and short products such as `abc`, are formulas.
    """
    marked = _text.fullmatch(text.strip())
    plain = (marked[1] if marked else text).strip().strip(".").strip()
    if re.fullmatch(r"\([A-Z]\)|[A-Z]", plain):
        return plain.strip("()").casefold()  # a choice
    if not _word.fullmatch(plain) or (marked is None and (len(plain) < 4 or plain in ("sqrt", "infinity"))):
        return None
    return " ".join(plain.casefold().split())


def prepare(text: str) -> str | None:
    """An answer in LaTeX that math-verify reads as it was meant; None if it is not one formula."""
    text = text.strip()
    if not text or len(text) > MAX_CHARACTERS or not _is_balanced(text):
        return None
    for character, latex in _UNICODE.items():
        text = text.replace(character, latex)
    for pattern, latex in _REWRITES:
        text = pattern.sub(latex, text)
    text = text.strip().removesuffix(".").rstrip()  # the end of a sentence
    if _separators.search(_matrix.sub("", text)) or "$" in text.removeprefix("$").removeprefix(r"\$").replace(
        r"\$", ""
    ):
        return None
    if text.count("|") % 2:
        return None
    if any(not _may_stay(word) for word in _text.findall(text)):
        return None
    return text


def parts_to_verify(answer: str, gold: str) -> list[str] | None:
    """The texts that must all equal the expected answer; None if the answer's equations make no sense.

    Of `x = 1/2 = 0.5` both values must be right, where math-verify takes the last. `x = 1, x = 3` stays as it is, but
    what stands on the left has to be one name.
    """
    sides = _equals.split(answer)
    if len(sides) == 1:
        return [answer]
    if wanted := len(_equals.findall(gold)):  # an equation is asked for
        return [answer] if len(sides) - 1 <= wanted else None
    if not _list.search(_without_brackets(answer)):
        values = sides[1:] if _name.fullmatch(sides[0]) else sides
        return values if all(value.strip() for value in values) else None
    equations = [_equals.split(part) for part in _list.split(answer)]
    if all(len(equation) == 2 and _name.fullmatch(equation[0]) for equation in equations):
        return [answer] if len({equation[0].strip() for equation in equations}) == 1 else None
    # `x = 1, 3`, `S = (1, 2)`: one name in front of a list
    return [sides[1]] if len(sides) == 2 and _name.fullmatch(sides[0]) else None


def compare_units(answer: str, gold: str) -> bool | None:
    """Whether two numbers with units are the same quantity; None if one has no unit that we know.

    math-verify drops units: 5 m equals 5 cm there.
    """
    given, wanted = parse_quantity(answer), parse_quantity(gold)
    if given is None or wanted is None or not given.unit or not wanted.unit:
        return None
    return quantities_equal(answer, gold)


def is_set_for_tuple(answer: str, gold: str) -> bool:
    r"""Whether a set `\{1,2\}` is given for a point or an interval `(1,2)`: math-verify equates them."""
    answer, gold = _bounds.sub("", answer).strip(), _bounds.sub("", gold).strip()
    return answer.startswith(r"\{") and gold[:1] in ("(", "[") and "," in gold


def _may_stay(words: str) -> bool:
    """Whether words inside a formula are a unit, or join two values: math-verify drops any others."""
    if _joining.fullmatch(words) or re.fullmatch(r"[\s\d.,%()]*", words):
        return True
    unit = re.sub(r"\^?\{?[23]\}?$|^\s*(?:square|cubic)\s+", "", words.strip())
    return parse_quantity(f"1 {unit}") is not None or unit.rstrip("s") in ("dollar", "cent", "unit", "mph", "inche")


def _is_balanced(text: str) -> bool:
    depth = 0
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth < 0:
            return False
    return depth == 0


def _without_brackets(text: str) -> str:
    """A text without what stands in brackets: a comma inside `(1, 2)` or `f(x, y)` does not separate answers."""
    text = _bounds.sub("", text)
    while (shorter := re.sub(r"\\?[(\[{][^()\[\]{}]*\\?[)\]}]", "", text)) != text:
        text = shorter
    return text
