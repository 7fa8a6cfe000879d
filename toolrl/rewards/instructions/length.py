"""Kinds about counts: `length_constraints:*`, and the counts of `detectable_*`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from toolrl.rewards.instructions.registry import Instruction, Relation, holds, instruction_kind
from toolrl.rewards.instructions.text import count_words, split_sentences
from toolrl.rewards.instructions.words import Count, Text

Positive = Annotated[int, Field(ge=1)]

_divider = re.compile(r"\s?\*{3}\s?")
_highlight = re.compile(r"\*([^\n*]*)\*")
_double_highlight = re.compile(r"\*\*([^\n*]*)\*\*")
_word_end = re.compile(r"[.,?!'\"]")


@instruction_kind("length_constraints:number_sentences")
class NumberOfSentences(Instruction):
    """The number of sentences is at least, or less than, a threshold."""

    num_sentences: Count
    relation: Relation

    def check(self, response: str) -> bool:
        return holds(len(split_sentences(response)), self.relation, self.num_sentences)


@instruction_kind("length_constraints:number_words")
class NumberOfWords(Instruction):
    """The number of words (runs of letters, digits and underscores) is at least, or less than, a threshold."""

    num_words: Count
    relation: Relation

    def check(self, response: str) -> bool:
        return holds(count_words(response), self.relation, self.num_words)


@instruction_kind("length_constraints:number_paragraphs")
class NumberOfParagraphs(Instruction):
    """An exact number of paragraphs, separated by `***`. A divider may begin or end the text, but none is empty."""

    num_paragraphs: Count

    def check(self, response: str) -> bool:
        first, *inner = [bool(paragraph.strip()) for paragraph in _divider.split(response)]
        if not inner:
            return self.num_paragraphs == int(first)
        last = inner.pop()
        return all(inner) and first + len(inner) + last == self.num_paragraphs


@instruction_kind("length_constraints:nth_paragraph_first_word")
class NthParagraphFirstWord(Instruction):
    """An exact number of paragraphs between empty lines, the nth of which begins with a word, in any case."""

    num_paragraphs: Positive
    nth_paragraph: Positive
    first_word: Text

    @field_validator("first_word")
    @classmethod
    def _is_one_word(cls, word: str) -> str:
        if len(word.split()) > 1:
            raise ValueError("the first word must be a single word")
        return word

    @model_validator(mode="after")
    def _is_there(self) -> NthParagraphFirstWord:
        if self.nth_paragraph > self.num_paragraphs:
            raise ValueError("nth_paragraph must not be greater than num_paragraphs")
        return self

    def check(self, response: str) -> bool:
        """Empty paragraphs do not count, except towards the nth, as in IFEval."""
        paragraphs = [paragraph.strip() for paragraph in response.split("\n\n")]
        if sum(map(bool, paragraphs)) != self.num_paragraphs or not paragraphs[self.nth_paragraph - 1]:
            return False
        word = paragraphs[self.nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
        return _word_end.split(word)[0].lower() == self.first_word.lower()


@instruction_kind("detectable_content:number_placeholders")
class NumberOfPlaceholders(Instruction):
    """A minimum number of placeholders in square brackets, such as [address]."""

    num_placeholders: Count

    def check(self, response: str) -> bool:
        return sum(map(_placeholders, response.split("\n"))) >= self.num_placeholders


@instruction_kind("detectable_format:number_bullet_lists")
class NumberOfBullets(Instruction):
    """An exact number of lines that begin with `*` or `-`."""

    num_bullets: Count

    def check(self, response: str) -> bool:
        lines = (line.strip() for line in response.split("\n"))
        bullets = (line[:1] == "-" or (line[:1] == "*" and line[1:2] not in ("", "*")) for line in lines)
        return sum(bullets) == self.num_bullets


@instruction_kind("detectable_format:number_highlighted_sections")
class NumberOfHighlights(Instruction):
    """A minimum number of `*highlighted*` or `**highlighted**` passages, each within a line."""

    num_highlights: Count

    def check(self, response: str) -> bool:
        found = _highlight.findall(response) + _double_highlight.findall(response)
        return sum(bool(text.strip()) for text in found) >= self.num_highlights


@instruction_kind("detectable_format:multiple_sections")
class MultipleSections(Instruction):
    """A minimum number of sections, each introduced by a word such as "Section" and a number."""

    section_spliter: Text
    num_sections: Count

    def check(self, response: str) -> bool:
        return len(re.findall(rf"{re.escape(self.section_spliter)}\s?\d+", response)) >= self.num_sections


def _placeholders(line: str) -> int:
    """The number of `[...]` in a line. A regular expression would be quadratic in the number of `[`."""
    count, end = 0, -1
    while (start := line.find("[", end + 1)) >= 0 and (end := line.find("]", start)) >= 0:
        count += 1
    return count
