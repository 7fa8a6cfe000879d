r"""Normalises the spelling of formulas: `\dfrac12`, `1{,}000`, `x^-1` and other variants of LaTeX and typed text.

Text is rewritten token by token, where a token is a command, a run of digits or a character, so that `\\ 2` is never
taken for `\` and `\ 2`.
"""

from __future__ import annotations

import re

_MAX_DEPTH = 50
_COMMANDS = {
    **dict.fromkeys((r"\dfrac", r"\tfrac", r"\cfrac"), r"\frac"),
    **dict.fromkeys((r"\leq", r"\leqslant", r"\leqq"), r"\le"),
    **dict.fromkeys((r"\geq", r"\geqslant", r"\geqq"), r"\ge"),
    **dict.fromkeys((r"\vert", r"\lvert", r"\rvert", r"\mid"), "|"),
    **dict.fromkeys((r"\dots", r"\cdots"), r"\ldots"),
    r"\neq": r"\ne", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\varnothing": r"\emptyset", r"\degree": r"^\circ",
    r"\ast": "*", r"\colon": ":", r"\backslash": r"\setminus", r"\prime": "'", r"\lt": "<", r"\gt": ">",
    r"\lbrack": "[", r"\rbrack": "]", r"\langle": "(", r"\rangle": ")", r"\infin": r"\infty",
}  # fmt: skip
_SPACES = {
    r"\,", r"\;", r"\:", r"\>", "\\ ", "\\\n", "\\\t", "~", r"\thinspace", r"\medspace", r"\thickspace", r"\enspace",
}  # fmt: skip
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
"""Words, or a letter in another font; the content is group 1."""
_joiner = re.compile(r"(?<![A-Za-z\\])\s*,?\s*(?:and|or)(?![A-Za-z])", re.IGNORECASE)
_JOINED = re.compile(r"\s*,?\s*(?:and|or)?\s*,?\s*", re.IGNORECASE)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
matrix = re.compile(r"\\begin\{([a-zA-Z]*(?:matrix|array))\}(?:\{[lcr|\s]*\})?(.*?)\\end\{\1\}", re.DOTALL)
_member = re.compile(r"\s*\\?[A-Za-z]+(?:_\{?\w+\}?)?\s*\\in(?![A-Za-z])")
_builder = re.compile(r"\\\{\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?[|:](.*)\\\}", re.DOTALL)
_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+)(?!\d|,\d)")
_SPACED = re.compile(r"(?<![\d.,^_{])(?<![\d.,^_{] )(\d{1,3}(?: \d{3})+)(?! ?\d)")
mixed_number = re.compile(r"(?<![\w./}^])(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}(?![\d.^!])")
_REWRITES = (
    (re.compile(r"\\log\s*_\s*(\d)"), r"\\log_{\1} "),
    (re.compile(r"(?<![\w.\\])(\d+(?:\.\d+)?)\s*(?:\\times|\\cdot|\*|x|X)\s*10\s*\^"), r"\1 \\cdot 10^"),
    (re.compile(r"(?<![\w.\\])(\d+(?:\.\d*)?|\.\d+)[eE]([-+]?\d{1,4})(?![\w.])"), r"\1 \\cdot 10^{\2}"),
    (re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\{?(\d+)\}?(?!\d)"), lambda match: _repeating(*match.groups())),
    (mixed_number, lambda match: _mixed(match)),
    (re.compile(r"(?<![\w./}^])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d./^!])"), lambda match: _mixed(match)),
    (re.compile(r"(?<![\d.])\.(?=\d)"), "0."),
    (re.compile(r"(?<=\d)\.(?!\d)"), ""),
)


def canonical(text: str) -> str:
    """Normalise the spelling of a text, whether or not it is a formula."""
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
    text = matrix.sub(_as_pmatrix, text)
    if match := _builder.fullmatch(text.strip()):
        text = match[2]
    return _member.sub("", text, count=1).strip() if _member.match(text) else text.strip()


def without_fonts(text: str) -> str:
    r"""A text without `\text{}` and similar commands, with white space collapsed."""
    return " ".join(font.sub(r" \1 ", text).split())


def _plain_font(match: re.Match[str]) -> str:
    r"""`\mathrm{e}` becomes e, `\text{ and }` a comma, `\operatorname{arctan}` a function; other words stay marked."""
    inner = match[1]
    if re.fullmatch(rf"\s*(?:[A-Za-z]|{_WORDS})\s*", inner) or re.fullmatch(r"[\s\d.,%()=+*/-]*", inner):
        return f" {inner} "
    if _JOINED.fullmatch(inner):
        return ", "
    return match[0]


def _arguments(text: str, depth: int = 0) -> str:
    r"""Add the braces that LaTeX does not need (`\frac12`, `x^-2`) or people do not type (`sqrt(x+1)`, `x^(1/2)`)."""
    if depth > _MAX_DEPTH:
        return text
    tokens, out, index = _tokens.findall(text), [], 0
    wanted = {r"\frac": 2, r"\binom": 2, **dict.fromkeys((r"\sqrt", r"\vec", r"\bar", r"\hat", r"\pmod", "^"), 1)}
    while index < len(tokens):
        token = tokens[index]
        out.append(token)
        index += 1
        for _ in range(wanted.get(token, 0)):
            while index < len(tokens) and tokens[index].isspace():
                index += 1
            if token == r"\sqrt" and tokens[index : index + 1] == ["["]:
                end = _closing(tokens, index)
                out += tokens[index : end + 1]
                index = end + 1
            argument, index = _argument(tokens, index, token, depth)
            out.append(argument)
    return "".join(out)


def _argument(tokens: list[str], index: int, command: str, depth: int) -> tuple[str, int]:
    if index >= len(tokens) or depth > _MAX_DEPTH:
        return "", index
    token = tokens[index]
    if token in ("{", "(") and (token == "{" or command in ("^", r"\sqrt")):
        end = _closing(tokens, index)
        return "{" + _arguments("".join(tokens[index + 1 : end]), depth + 1) + "}", end + 1
    if command == "^":
        if token in ("-", "+"):
            inner, end = _argument(tokens, index + 1, command, depth + 1)
            return "{" + token + inner.strip("{}") + "}", end
        end = index + 1
        if tokens[end : end + 1] == ["^"]:  # 2^3^2 is 2^9
            inner, end = _argument(tokens, end + 1, command, depth + 1)
            return f"{{{token}^{inner}}}", end
        return f"{{{token}}}" if token.isdigit() and len(token) > 1 else token, end
    if token.isdigit() and len(token) > 1:  # LaTeX takes one digit
        tokens[index] = token[1:]
        return f"{{{token[0]}}}", index
    if token in (r"\frac", r"\sqrt"):
        inner, end = "", index + 1
        for _ in range(2 if token == r"\frac" else 1):
            argument, end = _argument(tokens, end, token, depth + 1)
            inner += argument
        return "{" + token + inner + "}", end
    return f"{{{token}}}", index + 1


def _closing(tokens: list[str], start: int) -> int:
    """The index of the bracket that closes the one at `start`; the last index if there is none."""
    opening, depth = tokens[start], 0
    for index in range(start, len(tokens)):
        depth += {opening: 1, _CLOSING.get(opening, opening): -1}.get(tokens[index], 0)
        if depth == 0:
            return index
    return len(tokens) - 1


def _separated(text: str) -> str:
    """Put a space after separating commas, and remove thousands separators.

    `1,234` is a number, but `(1,234)` is a pair, unless the other commas in the brackets are followed by spaces.
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
    """Write a mixed number as a sum; `1 9/5` is not one, and is kept."""
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
