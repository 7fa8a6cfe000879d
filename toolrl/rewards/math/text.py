r"""Prepares the text of an answer for math-verify's grammar.

The whole answer has to be one formula: no derivation (`3 \to 4`), no surrounding words.
"""

from __future__ import annotations

import functools
import re

from toolrl.rewards.extraction import unwrap
from toolrl.rewards.math.latex import canonical, font, matrix, mixed_number

MAX_CHARACTERS = 1000

_CHARACTERS = {
    "−": "-", "–": "-", "‐": "-", "‑": "-", "﹣": "-", "⁻": "⁻", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
    "∙": r"\cdot ", "∗": "*", "÷": "/", "⁄": "/", "∕": "/", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ",
    "≠": r"\ne ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "π": r"\pi ", "∈": r"\in ", "∅": r"\emptyset ",
    "√": r"\sqrt ", "∛": r"\sqrt[3] ", "±": r"\pm ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "…": r"\ldots ", "’": "'", "′": "'", "｡": ".", "。": ".", "，": ",",
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "⅕": r"\frac{1}{5}", "⅙": r"\frac{1}{6}", "⅛": r"\frac{1}{8}", "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}",
    "⅞": r"\frac{7}{8}", "\u200b": "", "\u2060": "", "\ufeff": "", "\u00ad": "",
}  # fmt: skip
_PLAIN = str.maketrans(
    {**_CHARACTERS, **{chr(0xFF01 + offset): chr(0x21 + offset) for offset in range(94)}, "º": "°", "µ": "μ"}
)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_raised = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+")

_DEPTHS = {"(": 1, "[": 1, "{": 1, r"\{": 1, ")": -1, "]": -1, "}": -1, r"\}": -1}

_emphasis = re.compile(r"(?<![\w)\]}*])(\*\*|__)(?=[^\s*_])([^*\n]{1,200}?)(?<=[^\s*_])\1(?![\w(*])")
_around = re.compile(r"(`{1,3}|\*\*\*?|___?|[\"'])(?=\S)((?:(?!\1).)+)\1|([*_])([^*_]+)\3", re.DOTALL)
_heading = re.compile(r"#{1,6}\s+|>\s+|\\therefore(?![A-Za-z])\s*")
_colour = re.compile(r"\\(?:text)?color\s*\{\w+\}")

# Formulas separated by one of these are several answers, or a derivation.
_separators = re.compile(
    r"\\\\|\\(?:to|rightarrow|Rightarrow|implies|iff|mapsto|longrightarrow|Longrightarrow|equiv|approx|quad|qquad|newline"
    r"|cr|f?boxed|fbox|ldots|sim|pmod|bmod|therefore|because)(?![a-zA-Z])|->|=>(?!=)|≈|→|⇒|≡|\.\.\.|~"
)
_name = re.compile(
    r"\s*\\?[A-Za-z]+'*(?:_\{?\w+\}?)?(?:\s*\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\))?\s*|\s*\\angle\s*[A-Z]{1,3}\s*"
    r"|\s*\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])+\s*\)\s*"
)
_index = re.compile(r"_(?:\w|\{\w+\})")
_prose = re.compile(r"(?<![\\A-Za-z{])(?=[a-zA-Z]*[eiouEIOU])[A-Za-z]{4,}")


def clean(text: str) -> str:
    r"""Strip what surrounds an answer: dollar signs, a box, Markdown, the end of a sentence.

    Unicode characters are replaced with their names in LaTeX, or with ASCII. Ambiguous answers become empty.
    """
    text = re.sub(r"√\s*(\d+)", r"\\sqrt{\1}", text).translate(_PLAIN)
    text = " ".join(_raised.sub(lambda match: f"^{{{match[0].translate(_RAISED)}}}", text).split())
    before = None
    while text != before:
        before = text
        text = _heading.sub("", text, count=1) if _heading.match(text) else text
        text = (match[2] or match[4]).strip() if (match := _around.fullmatch(text)) else text
        text = _colour.sub("", _emphasis.sub(r"\2", text))
        text = (unwrap(text) or "").strip()
        text = re.sub(r"(?:(?<!\.)\.|[,;]|(?<=\S)\\+|\\[,;:! ])$", "", text).rstrip()
    return _without_dollars(re.sub(r"^~(?=\s*[\d.$])", r"\\sim ", text))


def prepare(text: str) -> str | None:
    """A cleaned answer as LaTeX that the grammar reads as intended; None if it is not a single formula."""
    if not text or len(text) > MAX_CHARACTERS or not _is_balanced(text):
        return None
    text = canonical(text)
    if re.search(r"\d\s+\d|\d\s*\.\d*\.|\d\s*['_]|\.\s*\d*\s+\.", text) or "$" in text or text.count("|") % 2:
        return None  # "3 4" and 0.1.2 are not formulas, and a number with a base is not in base 10
    if (
        _prose.search(text)
        or mixed_number.search(text)
        or _separators.search(matrix.sub("", text))
        or font.search(text)
    ):
        return None
    if text.count(r"\pm") == 1 and r"\pm" not in (bare := _without_brackets(text)) and "," not in bare:
        signs = ((r"\pm", "+", "-"), (r"\mp", "-", "+"))  # the grammar reads \pm only outside of brackets
        text = ", ".join(
            functools.reduce(lambda one, sign: one.replace(sign[0], sign[which]), signs, text) for which in (1, 2)
        )
    return text


def readings(text: str) -> list[str]:
    """The possible readings of a text: `100,200` may be a number or a list."""
    if not re.fullmatch(r"\d{1,3}(?:,\d{3})+", text):
        return [text]
    number = text.replace(",", "." if text.startswith("0,") else "")
    return [number, text.replace(",", ", ")]


def without_spaces(text: str) -> str:
    """A text without spaces, except those between two digits or two letters, which matter."""
    return re.sub(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])|(?<=[0-9]) (?=[A-Za-z])|(?<=[A-Za-z]) (?=[0-9])", "", text)


def without_steps(gold: str) -> str:
    """Reduce an expected answer such as `x = 1 + 1 = 2` to its name and its value."""
    sides = _sides(gold)
    is_chain = len(sides) > 2 and not re.search("[,;]", _without_brackets(gold)) and _name.fullmatch(sides[0])
    return f"{sides[0]}={sides[-1]}" if is_chain else gold


def parts_to_verify(answer: str, gold: str) -> list[str] | None:
    """The texts that must all equal the expected answer; None if the answer's equations make no sense.

    Both values of `x = 1/2 = 0.5` must be right, where math-verify takes the last. `x = 1, x = 3` is kept as it is, but
    each left side has to be a name.
    """
    sides = _sides(answer)
    if len(sides) == 1:
        return [answer]
    if wanted := len(_sides(gold)) - 1:  # an equation is expected
        if len(sides) - 1 <= wanted:
            return [answer]
        return [f"{sides[0]}={value}" for value in sides[1:]] if wanted == 1 and _name.fullmatch(sides[0]) else None
    if "," not in (outside := _without_brackets(answer)) and ";" not in outside:
        if len(sides) == 2 and re.fullmatch(r"\s*[a-zA-Z]\s*", sides[1]) and not _name.fullmatch(sides[0]):  # `5 = x`
            sides.reverse()
        values = sides[1:] if _name.fullmatch(sides[0]) else sides
        return values if all(value.strip() for value in values) else None
    equations = [_sides(part) for part in re.split("[,;]", answer)]
    if all(len(equation) == 2 and _name.fullmatch(equation[0]) for equation in equations):
        if len({_index.sub("", equation[0]).strip() for equation in equations}) == 1:  # `x_1 = 2, x_2 = 3`
            return [answer]
        if gold.startswith("(") and not _without_brackets(gold):  # `x = 1, y = 2` for a point
            return [f"({', '.join(equation[1] for equation in equations)})"]
        return None
    # `x = 1, 3`, `S = (1, 2)`, `(x, y) = (1, 2), (3, 4)`: one name before a list
    return [sides[1]] if len(sides) == 2 and _name.fullmatch(sides[0]) else None


def is_set_for_tuple(answer: str, gold: str) -> bool:
    r"""Whether a set `\{1,2\}` is given for a point or an interval `(1,2)`, or vice versa."""
    groups = [text[:2] if text.startswith("\\") else text[:1] for text in (answer, gold) if not _without_brackets(text)]
    return "," in gold and len(groups) == 2 and groups.count(r"\{") == 1 and (groups[0] in "([" or groups[1] in "([")


def _without_dollars(text: str) -> str:
    r"""Turn `$5$ cm` into `5 cm`; a single dollar sign is money, and is kept."""
    bare = text.replace(r"\$", "")
    return " ".join(re.sub(r"(?<!\\)\$", " ", text).split()) if bare.count("$") % 2 == 0 else text


def _is_balanced(text: str) -> bool:
    depth = 0
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth < 0:
            return False
    return depth == 0


def _sides(text: str) -> list[str]:
    """The sides of an equation; equals signs in brackets, as in a sum from `k = 0`, do not count."""
    pieces, bare = re.findall(r"\\.|(?<![<>!:=])=(?![=>])|.", text, re.DOTALL), _without_brackets(text)
    if "=" not in bare:
        return [text]
    sides, depth = [""], 0
    for piece in pieces:
        depth += _DEPTHS.get(piece, 0)
        if piece == "=" and depth <= 0:
            sides.append("")
        else:
            sides[-1] += piece
    return sides


def _without_brackets(text: str) -> str:
    """A text without the contents of brackets: a comma in `(1, 2)` or `f(x, y)` does not separate answers."""
    depth, out = 0, []
    for piece in re.findall(r"\\.|.", text, re.DOTALL):
        change = _DEPTHS.get(piece, 0)
        depth += change
        if not change and depth <= 0:
            out.append(piece)
    return "".join(out)
