r"""The letter of a choice in an answer: `B`, `**Answer:** B`, `\boxed{\text{B}}`, `(b) Paris`.

The forms are those of simple-evals (`common.py`: "Answer" in many languages) and Inspect
(`solver/_multiple_choice.py`). Given two letters, those take the first or the last; here, that is not an answer.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

_PLAIN = str.maketrans(
    {
        **{chr(0xFF01 + offset): chr(0x21 + offset) for offset in range(94)},
        **dict.fromkeys("*`$\u200b\u200c\u2060\ufeff", ""),
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
        "。": ".",
        "、": ",",
        "\u00a0": " ",
        "\u202f": " ",
        "\u2009": " ",
    }
)
_box = re.compile(r"\\(?:f?boxed|fbox|framebox)\s*(?=\{)")
_markup = re.compile(
    r"</?(?:b|i|em|strong|u|p|span)>"
    r"|\\(?:text|math)[a-z]*(?=\s*\{)|\\[()\[\],;! ]|[{}]|(?<![A-Za-z0-9])__?|__?(?![A-Za-z0-9])"
)
_ANSWER = (
    "answer|réponse|antwort|respuesta|resposta|risposta|jawaban|jibu|cevap|yanıt|odgovor|ответ|答案|答え|回答|解答|정답|답변|"
    "উত্তর|उत्तर|الإجابة|الجواب"
)
_VERB = "is|was|would be|should be|must be|ist|est|es|是|为|は"
_RIGHT = "correct|right|best|accurate|appropriate|likely|true"
_WRONG = (
    r"\s+(?i:isn't\b|(?:is|was|seems|can be|would be)\s+(?:clearly |also )?(?:not|wrong|false|untrue|invalid|"
    r"impossible|unlikely|excluded|eliminated|ruled|out|less|in(?:correct|accurate|appropriate))\b)"
)
_TAKEN_BACK = (
    r"(?i:[,;:.!?–—\s-]{0,4}(?:(?:no|wait|actually|rather|hmm+|sorry|scratch that|I mean|correction|or)\b"
    r"[,:;.!? ]{0,4}){1,4}(?:it'?s? (?:is )?)?)"
)
_OR = re.compile(r"\s*(?:\bor\b|\boder\b|\bou\b|或)", re.IGNORECASE)
_AND = (
    rf"(?:{_TAKEN_BACK}|\s*(?:,|;|/|&|\+|\|)?\s*(?:\b(?:and|or|und|oder|et|ou|y|o)\b|或|和)?\s*"
    r"(?:(?:also|maybe|perhaps|possibly)\s+)?)"
)
# A word follows the article or the pronoun; a letter is followed by at most one of these, or by punctuation.
_JOINING = "because|since|as|for|due|which|that|given|by|if|so|with|therefore|but|and|or|und|oder|et|ou"


def choice_letter(text: str, letters: str = "ABCDE") -> str | None:
    """The letter that an answer chooses, in texts such as "B", "(b).", "B) Paris" or "the answer is B".

    An explicit "the answer is" takes precedence over options that are only mentioned, and these over letters at the
    start of lines, which may repeat the choices. A letter that is also a word ("A", "I") counts only if no word
    follows it.

    Args:
        text: An answer, or a message.
        letters: The choices.

    Returns:
        The letter in upper case; None if the text chooses no letter, or more than one.
    """
    text = _markup.sub("", _box.sub(" answer: ", text.translate(_PLAIN))).strip()
    patterns = _patterns(letters.upper())
    if whole := patterns.whole.fullmatch(text):
        return _letter(whole)
    for pattern in (patterns.said, patterns.named, patterns.listed):
        found: set[str] = set()
        for match in pattern.finditer(text):
            found.add(_letter(match))
            position = match.end()
            while pattern is not patterns.listed and (more := patterns.more.match(text, position)):
                found.add(_letter(more))
                position = more.end()
            if _OR.match(text, position):  # "A or none of them"
                found.add("")
        if found:
            return found.pop() if len(found) == 1 else None
    return None


class _Patterns(NamedTuple):
    whole: re.Pattern[str]
    said: re.Pattern[str]
    named: re.Pattern[str]
    more: re.Pattern[str]
    listed: re.Pattern[str]


@functools.lru_cache(maxsize=64)
def _patterns(letters: str) -> _Patterns:
    upper, either = re.escape(letters), re.escape(letters + letters.lower())
    alone = r"(?!['.-]?\w|\+\+|#|\s*[\^=]|/\w{2})"
    capital = rf"(?:[\[(]\s?([{upper}])\s?[\])]|([{upper}]){alone})"
    no_word = rf"{alone}(?![ \t]+(?!(?i:{_JOINING})\b)\w)"
    # Capital letters other than A and I are not words, whatever follows; neither are letters in brackets or quotes.
    one = rf"(?:[\[(]\s?([{either}])\s?[\])]|[\"']([{either}])[\"']|((?![AI])[{upper}]){alone}|([{either}]){no_word})"
    noun = rf"(?i:(?:{_ANSWER}|option|choice)(?:\s*\(letter\))?)"
    right = rf"\s+(?i:is|was|must be)\s+(?i:(?:the|my|most)\s+)*(?i:{_RIGHT}|answer)\b"
    kind = r"(?i:(?:option|choice|letter)\s?:?\s?)?"
    return _Patterns(
        re.compile(rf"(?i:(?:option|choice)\s+)?[\[(\"' ]*([{either}])[\])\"'.:, !]*"),
        re.compile(
            rf"(?:{noun}[\"']?\s*(?i:{_VERB}|:|=|>)\s*:?\s*|(?i:{_ANSWER})\s*[-–]?\s*|[故应]选\s*:?\s*"
            rf"|(?i:choose|select|pick|go with)\s+){kind}{one}"
            rf"|(?:\A|[.!?,;:\n]|\b(?i:so|thus|therefore|hence|but))\s{{0,3}}(?i:(?:option|choice)\s+)?{capital}{right}"
        ),
        re.compile(rf"(?<!not )(?<!n't )\b(?i:option|choice)\s+(?:{capital}|{one})(?!{_WRONG})"),
        re.compile(rf"(?!\s*\b(?i:not)\b){_AND}(?<![^\W\d_])(?i:option |choice )?{one}"),
        re.compile(rf"(?m)^[ \t]*(?:\(([{either}])[).:]*|([{either}])[).:])(?=\s|$)|\A\(?([{either}])\)(?=\S)"),
    )


def _letter(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group).upper()
