r"""What is done to an answer's text before math-verify's grammar reads it.

The whole answer has to be one formula: no derivation (`3 \to 4`), no words around it. Text is rewritten token by token,
where a token is a command of LaTeX, a run of digits or a character: `\\` is never half of `\\ 2`.
"""

from __future__ import annotations

import re

from toolrl.rewards.extraction import unwrap

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

_COMMANDS = {
    **dict.fromkeys((r"\dfrac", r"\tfrac", r"\cfrac"), r"\frac"),
    **dict.fromkeys((r"\leq", r"\leqslant", r"\leqq"), r"\le"),
    **dict.fromkeys((r"\geq", r"\geqslant", r"\geqq"), r"\ge"),
    **dict.fromkeys((r"\neq",), r"\ne"),
    **dict.fromkeys((r"\lbrace",), r"\{"),
    **dict.fromkeys((r"\rbrace",), r"\}"),
    **dict.fromkeys((r"\vert", r"\lvert", r"\rvert", r"\mid"), "|"),
    **dict.fromkeys((r"\varnothing",), r"\emptyset"),
    **dict.fromkeys((r"\dots", r"\cdots"), r"\ldots"),
    **dict.fromkeys((r"\degree",), r"^\circ"),
    **dict.fromkeys((r"\ast",), "*"),
    **dict.fromkeys((r"\colon",), ":"),
    **dict.fromkeys((r"\backslash",), r"\setminus"),
    **dict.fromkeys((r"\prime",), "'"),
    r"\lt": "<", r"\gt": ">", r"\lbrack": "[", r"\rbrack": "]", r"\langle": "(", r"\rangle": ")", r"\infin": r"\infty",
}  # fmt: skip
_SPACES = {
    r"\,",
    r"\;",
    r"\:",
    r"\>",
    "\\ ",
    "\\\n",
    "\\\t",
    "~",
    r"\thinspace",
    r"\medspace",
    r"\thickspace",
    r"\enspace",
}
_NOTHING = {
    r"\!", r"\left", r"\right", r"\big", r"\Big", r"\bigg", r"\Bigg", r"\bigl", r"\bigr", r"\Bigl", r"\Bigr", r"\biggl",
    r"\biggr", r"\middle", r"\displaystyle", r"\textstyle", r"\limits", r"\nolimits", r"\negthinspace", r"\(", r"\)",
    r"\[", r"\]", r"\hline", r"\/",
}  # fmt: skip
_FONTS = (
    r"\mathrm", r"\mathbf", r"\mathit", r"\mathsf", r"\mathtt", r"\boldsymbol", r"\bm", r"\text", r"\textbf",
    r"\textit", r"\textrm", r"\textnormal", r"\textsf", r"\texttt", r"\textup", r"\textsc", r"\emph", r"\mbox",
    r"\hbox", r"\operatorname", r"\rm",
)  # fmt: skip
_WORDS = (
    "arcsin|arccos|arctan|sin|cos|tan|sec|csc|cot|sinh|cosh|tanh|log|ln|exp|sqrt|pi|alpha|beta|gamma|delta|theta|lambda|"
    "mu|sigma|phi|omega|infty"
)
_tokens = re.compile(r"\\(?:[A-Za-z]+|.)|\d+|\s+|.", re.DOTALL)
font = re.compile(rf"(?:{'|'.join(map(re.escape, _FONTS))})(?![A-Za-z])\s*\{{([^{{}}]*)\}}")
"""Words, or a letter in another font: their content is group 1."""
_joiner = re.compile(r"(?<![A-Za-z\\])\s*,?\s*(?:and|or)(?![A-Za-z])", re.IGNORECASE)
_JOINED = re.compile(r"\s*,?\s*(?:and|or)?\s*,?\s*", re.IGNORECASE)
_DEPTHS = {"(": 1, "[": 1, "{": 1, r"\{": 1, ")": -1, "]": -1, "}": -1, r"\}": -1}
_CLOSING = {"(": ")", "[": "]", "{": "}"}

_emphasis = re.compile(r"(?<![\w)\]}*])(\*\*|__)(?=[^\s*_])([^*\n]{1,200}?)(?<=[^\s*_])\1(?![\w(*])")
_around = re.compile(r"(`{1,3}|\*\*\*?|___?)(?=\S)((?:(?!\1).)+)\1|([*_])([^*_]+)\3", re.DOTALL)
_heading = re.compile(r"#{1,6}\s+|>\s+")

# Two formulas with one of these between them are two answers, or a derivation.
_separators = re.compile(
    r"\\\\|\\(?:to|rightarrow|Rightarrow|implies|iff|mapsto|longrightarrow|Longrightarrow|equiv|approx|quad|qquad|newline"
    r"|cr|f?boxed|fbox|ldots|sim|pmod|bmod|therefore|because)(?![a-zA-Z])|->|=>(?!=)|≈|→|⇒|≡|\.\.\.|~"
)
_matrix = re.compile(r"\\begin\{([a-zA-Z]*(?:matrix|array))\}(?:\{[lcr|\s]*\})?(.*?)\\end\{\1\}", re.DOTALL)
_name = re.compile(
    r"\s*\\?[A-Za-z]+'*(?:_\{?\w+\}?)?(?:\s*\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\))?\s*|\s*\\angle\s*[A-Z]{1,3}\s*"
    r"|\s*\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])+\s*\)\s*"
)
_member = re.compile(r"\s*\\?[A-Za-z]+(?:_\{?\w+\}?)?\s*\\in(?![A-Za-z])")
_builder = re.compile(r"\\\{\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?[|:](.*)\\\}", re.DOTALL)
_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+)(?!\d|,\d)")
_SPACED = re.compile(r"(?<![\d.,^_{])(?<![\d.,^_{] )(\d{1,3}(?: \d{3})+)(?! ?\d)")
_prose = re.compile(r"(?<![\\A-Za-z{])(?=[a-zA-Z]*[eiouEIOU])[A-Za-z]{4,}")
_beside_fraction = re.compile(r"(?<![\w./}^])(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}(?![\d.^!])")
_REWRITES = (
    (re.compile(r"(?<![\w.\\])(\d+(?:\.\d+)?)\s*(?:\\times|\\cdot|\*|x|X)\s*10\s*\^"), r"\1 \\cdot 10^"),
    (re.compile(r"(?<![\w.\\])(\d+(?:\.\d*)?|\.\d+)[eE]([-+]?\d{1,4})(?![\w.])"), r"\1 \\cdot 10^{\2}"),
    (re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\{?(\d+)\}?(?!\d)"), lambda match: _repeating(*match.groups())),
    (_beside_fraction, lambda match: _mixed(match)),
    (re.compile(r"(?<![\w./}^])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d./^!])"), lambda match: _mixed(match)),
    (re.compile(r"(?<![\d.])\.(?=\d)"), "0."),
    (re.compile(r"(?<=\d)\.(?!\d)"), ""),
)


def clean(text: str) -> str:
    r"""An answer without what it is wrapped in: dollar signs, a box, Markdown's marks, the end of a sentence.

    Characters that have a name in LaTeX or ASCII get it. An answer that is no single one is empty.
    """
    text = text.translate(_PLAIN)
    text = " ".join(_raised.sub(lambda match: f"^{{{match[0].translate(_RAISED)}}}", text).split())
    before = None
    while text != before:
        before = text
        text = _heading.sub("", text, count=1) if _heading.match(text) else text
        text = (match[2] or match[4]).strip() if (match := _around.fullmatch(text)) else text
        text = _emphasis.sub(r"\2", text)
        text = (unwrap(text) or "").strip()
        text = re.sub(r"(?:(?<!\.)\.|[,;]|(?<=\S)\\+|\\[,;:! ])$", "", text).rstrip()
    return _without_dollars(text)


def prepare(text: str) -> str | None:
    """A clean answer in LaTeX that is read as it was meant; None if it is not one formula."""
    if not text or len(text) > MAX_CHARACTERS or not _is_balanced(text):
        return None
    text = canonical(text)
    if re.search(r"\d\s+\d|\d\s*\.\d*\.|\d\s*_|\.\s*\d*\s+\.", text) or "$" in text or text.count("|") % 2:
        return None  # "3 4" is no formula, nor is 0.1.2, and a number with a base is not one of base 10
    if (
        _prose.search(text)
        or _beside_fraction.search(text)
        or _separators.search(_matrix.sub("", text))
        or font.search(text)
    ):
        return None
    return text


def canonical(text: str) -> str:
    """One spelling for what LaTeX spells in several ways; whether it is a formula is not looked at."""
    if r"\begin" not in text:  # escaped twice
        text = re.sub(r"\\\\(?=[A-Za-z]{2})", r"\\", text)
    tokens = _tokens.findall(font.sub(_plain_font, text))
    out: list[str] = []
    for index, token in enumerate(tokens):
        if token in _SPACES or token.isspace():
            token = " "
        elif token in (r"\quad", r"\qquad"):
            token = f" {token} "
        elif token in _NOTHING:
            if token in (r"\left", r"\right") and tokens[index + 1 : index + 2] == ["."]:
                tokens[index + 1] = ""
            if token == r"\!" and tokens[index + 1 : index + 2] and tokens[index + 1].isspace():
                tokens[index + 1] = ""
            continue
        elif token == r"\\":
            token = "\\\\ "
        token = _COMMANDS.get(token, token)
        if re.fullmatch(r"\\[A-Za-z]+", token) and not (out and out[-1] == "^" and token == r"\circ"):
            token += " "
        out.append(token)
    text = re.sub(r" +", " ", "".join(out)).strip()
    text = re.sub(r" ?\\q?quad (?=,|and\b|or\b)|(?<=,) ?\\q?quad ", " ", text)
    text = re.sub(r"(?<=[{^_]) | (?=[}^_])|(?<=\}) (?=\{)", "", text)
    text = re.sub(r"\\(begin|end) \{", r"\\\1{", text)
    text = re.sub(r"(\\[A-Za-z]+) (?=[^A-Za-z]|$)", r"\1", text)
    text = re.sub(r"(?<=\d)\s*\{\s*,\s*\}\s*(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<=\d)\s*\{\s*,\s*\}\s*(?=\d)", ".", text)
    text = _joiner.sub(", ", text)
    text = re.sub(r",(?:\s*,)+", ",", text)
    text = re.sub(rf"(?<![\\A-Za-z])({_WORDS})(?![A-Za-z])", r"\\\1 ", text)
    text = re.sub(r"(?<![\\A-Za-z])(?:infinity|inf)(?![A-Za-z])", r"\\infty ", text)
    text = re.sub(r"\^\s*\{?\s*('+)\s*\}?", r"\1", text)
    text = re.sub(r"(?<=[A-Za-z])('+)", lambda match: f"_{{{'p' * len(match[1])}}}", text)
    text = re.sub(r"\\not\s*=|!=", r"\\ne ", text)
    text = re.sub(r"(?<=[0-9})\]a-zA-Z])\^(?:\\circ|\{\s*\\circ\s*\})", "", text)
    text = re.sub(r"\s*\*\*\s*", "^", text)
    text = _arguments(_SPACED.sub(lambda match: match[1].replace(" ", ""), text))
    for pattern, plain in _REWRITES:
        text = pattern.sub(plain, text)
    text = _separated(text)
    text = re.sub(r"[(\[]\s*(?=\\begin\{array\})|(?<=\\end\{array\})\s*[)\]]", "", text)
    text = _matrix.sub(_as_pmatrix, text)
    if match := _builder.fullmatch(text.strip()):
        text = match[2]
    return _member.sub("", text, count=1).strip() if _member.match(text) else text.strip()


def readings(text: str) -> list[str]:
    """A text, or the number and the list that `100,200` may be."""
    if not re.fullmatch(r"\d{1,3}(?:,\d{3})+", text):
        return [text]
    number = text.replace(",", "." if text.startswith("0,") else "")
    return [number, text.replace(",", ", ")]


def without_steps(gold: str) -> str:
    """An expected answer such as `x = 1 + 1 = 2` without what stands between its name and its value."""
    sides = _sides(gold)
    is_chain = len(sides) > 2 and not re.search("[,;]", _without_brackets(gold)) and _name.fullmatch(sides[0])
    return f"{sides[0]}={sides[-1]}" if is_chain else gold


def parts_to_verify(answer: str, gold: str) -> list[str] | None:
    """The texts that must all equal the expected answer; None if the answer's equations make no sense.

    Of `x = 1/2 = 0.5` both values must be right, where math-verify takes the last. `x = 1, x = 3` stays as it is, but
    what stands on the left has to be one name.
    """
    sides = _sides(answer)
    if len(sides) == 1:
        return [answer]
    if wanted := len(_sides(gold)) - 1:  # an equation is asked for
        if len(sides) - 1 <= wanted:
            return [answer]
        return [f"{sides[0]}={value}" for value in sides[1:]] if wanted == 1 and _name.fullmatch(sides[0]) else None
    if "," not in (outside := _without_brackets(answer)) and ";" not in outside:
        values = sides[1:] if _name.fullmatch(sides[0]) else sides
        return values if all(value.strip() for value in values) else None
    equations = [_sides(part) for part in re.split("[,;]", answer)]
    if all(len(equation) == 2 and _name.fullmatch(equation[0]) for equation in equations):
        return [answer] if len({equation[0].strip() for equation in equations}) == 1 else None
    # `x = 1, 3`, `S = (1, 2)`, `(x, y) = (1, 2), (3, 4)`: one name in front of a list
    return [sides[1]] if len(sides) == 2 and _name.fullmatch(sides[0]) else None


def is_set_for_tuple(answer: str, gold: str) -> bool:
    r"""Whether a set `\{1,2\}` is given for a point or an interval `(1,2)`, or the other way round."""
    kinds = [("{" if text.startswith(r"\{") else "(" if text[:1] in ("(", "[") else "") for text in (answer, gold)]
    return "," in gold and set(kinds) == {"{", "("}


def _without_dollars(text: str) -> str:
    r"""`$5$ cm` as `5 cm`; a single dollar sign is money, and stays."""
    bare = text.replace(r"\$", "")
    return " ".join(re.sub(r"(?<!\\)\$", " ", text).split()) if bare.count("$") % 2 == 0 else text


def _plain_font(match: re.Match[str]) -> str:
    r"""`\mathrm{e}` is e, `\text{ and }` a comma, `\operatorname{arctan}` a function; other words stay marked."""
    inner = match[1]
    if re.fullmatch(rf"\s*(?:[A-Za-z]|{_WORDS})\s*", inner) or re.fullmatch(r"[\s\d.,%()=+*/-]*", inner):
        return f" {inner} "
    if _JOINED.fullmatch(inner):
        return ", "
    return match[0]


def _arguments(text: str) -> str:
    r"""Braces where LaTeX needs none: `\frac12`, `\sqrt3`, `x^-2`, and `sqrt(x+1)`, `x^(1/2)` as people type them."""
    tokens, out, index = _tokens.findall(text), [], 0
    wanted = {r"\frac": 2, r"\binom": 2, r"\sqrt": 1, "^": 1}
    while index < len(tokens):
        token = tokens[index]
        out.append(token)
        index += 1
        for place in range(wanted.get(token, 0)):
            while index < len(tokens) and tokens[index].isspace():
                index += 1
            if token == r"\sqrt" and place == 0 and tokens[index : index + 1] == ["["]:
                end = _closing(tokens, index)
                out += tokens[index : end + 1]
                index = end + 1
            argument, index = _argument(tokens, index, token)
            out.append(argument)
    return "".join(out)


def _argument(tokens: list[str], index: int, command: str) -> tuple[str, int]:
    if index >= len(tokens):
        return "", index
    token = tokens[index]
    if token in ("{", "(") and (token == "{" or command in ("^", r"\sqrt")):
        end = _closing(tokens, index)
        return "{" + _arguments("".join(tokens[index + 1 : end])) + "}", end + 1
    if command == "^":
        if token in ("-", "+"):
            inner, end = _argument(tokens, index + 1, command)
            return "{" + token + inner.strip("{}") + "}", end
        argument, end = token, index + 1
        if tokens[end : end + 1] == ["^"]:  # 2^3^2 is 2^9
            inner, end = _argument(tokens, end + 1, command)
            return f"{{{argument}^{inner}}}", end
        return f"{{{argument}}}" if token.isdigit() and len(token) > 1 else argument, end
    if token.isdigit() and len(token) > 1:  # LaTeX takes one digit
        tokens[index] = token[1:]
        return f"{{{token[0]}}}", index
    if token in (r"\frac", r"\sqrt"):
        rest = _arguments("".join(tokens[index:]))
        tokens[index:] = _tokens.findall(rest)
        end = index + 1
        for _ in range(2 if token == r"\frac" else 1):
            end = _closing(tokens, end) + 1
        return "{" + "".join(tokens[index:end]) + "}", end
    return f"{{{token}}}", index + 1


def _closing(tokens: list[str], start: int) -> int:
    """Where the bracket at `start` is closed; the last token, if nowhere."""
    opening, depth = tokens[start], 0
    for index in range(start, len(tokens)):
        depth += {opening: 1, _CLOSING.get(opening, opening): -1}.get(tokens[index], 0)
        if depth == 0:
            return index
    return len(tokens) - 1


def _separated(text: str) -> str:
    """Commas that separate get a space, those between thousands vanish.

    `1,234` is a number, unless it stands in brackets, where `(1,234)` is a pair. In a list whose other commas have
    spaces it is a number everywhere.
    """
    out: list[str] = []
    levels: list[tuple[str, int]] = [("", 0)]
    pieces = re.split(r"(\\.|[()\[\]{}])", text, flags=re.DOTALL)
    contents: dict[int, list[int]] = {0: []}
    for index, piece in enumerate(pieces):
        if piece in ("(", "[", r"\{"):
            levels.append((piece, index))
            contents[index] = []
        elif piece in (")", "]", r"\}") and len(levels) > 1:
            levels.pop()
        else:
            contents[levels[-1][1]].append(index)
        out.append(piece)
    for level, indices in contents.items():
        has_spaces = any(re.search(r",\s|;", pieces[index]) for index in indices)
        for index in indices:
            if level == 0 or has_spaces:
                out[index] = _THOUSANDS.sub(lambda match: match[1].replace(",", ""), out[index])
            out[index] = re.sub(r"\s*,\s*", ", ", out[index])
    return "".join(out)


def _mixed(match: re.Match[str]) -> str:
    """The sum that a mixed number is; `1 9/5` is none, and stays."""
    whole, top, bottom = match.groups()
    is_proper = max(len(top), len(bottom)) < 19 and int(top) < int(bottom)
    return rf"({whole}+\frac{{{top}}}{{{bottom}}})" if is_proper else match[0]


def _repeating(whole: str, start: str, repeated: str) -> str:
    bottom = "9" * len(repeated) + "0" * len(start)
    top = int((start + repeated)[:300]) - int(start[:300] or 0)
    return rf"({whole or 0}+\frac{{{top}}}{{{bottom}}})"


def _as_pmatrix(match: re.Match[str]) -> str:
    rows = re.sub(r"\\\\\s*(?:\[[^\]]*\])?|\\cr(?![A-Za-z])", r"\\\\ ", match[2]).strip().removesuffix(r"\\").strip()
    kind = match[1] if "vmatrix" in match[1].lower() else "pmatrix"
    return rf"\begin{{{kind}}}{rows}\end{{{kind}}}"


def _is_balanced(text: str) -> bool:
    depth = 0
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth < 0:
            return False
    return depth == 0


def _sides(text: str) -> list[str]:
    """What stands between the equals signs, those in brackets aside, as in a sum from `k = 0`."""
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
    """A text without what stands in brackets: a comma inside `(1, 2)` or `f(x, y)` does not separate answers."""
    depth, out = 0, []
    for piece in re.findall(r"\\.|.", text, re.DOTALL):
        change = _DEPTHS.get(piece, 0)
        depth += change
        if not change and depth <= 0:
            out.append(piece)
    return "".join(out)
