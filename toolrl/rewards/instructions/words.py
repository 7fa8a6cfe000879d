"""Kinds about words and letters: `keywords:*`, `change_case:*`, `language:*` and `punctuation:*`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator

from toolrl.rewards.instructions.language import known_languages, language_of
from toolrl.rewards.instructions.registry import Instruction, Relation, holds, instruction_kind
from toolrl.rewards.instructions.text import count_capital_words

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Texts = Annotated[tuple[Annotated[str, StringConstraints(min_length=1)], ...], Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]


@instruction_kind("keywords:existence")
class KeywordExistence(Instruction):
    """Each keyword occurs, in any case, perhaps within a longer word."""

    keywords: Texts

    def check(self, response: str) -> bool:
        return all(_occurrences(keyword, response) for keyword in self.keywords)


@instruction_kind("keywords:frequency")
class KeywordFrequency(Instruction):
    """The number of times a keyword occurs, in any case, perhaps within longer words."""

    keyword: Text
    frequency: Count
    relation: Relation

    def check(self, response: str) -> bool:
        return holds(_occurrences(self.keyword, response), self.relation, self.frequency)


@instruction_kind("keywords:forbidden_words")
class ForbiddenWords(Instruction):
    """None of the words occurs as a whole word, in any case."""

    forbidden_words: Texts

    def check(self, response: str) -> bool:
        return not any(
            re.search(rf"\b{re.escape(word)}\b", response, flags=re.IGNORECASE) for word in self.forbidden_words
        )


@instruction_kind("keywords:letter_frequency")
class LetterFrequency(Instruction):
    """The number of times a letter, or another character such as `#`, occurs, in either case."""

    letter: Annotated[str, StringConstraints(min_length=1, max_length=1)]
    let_frequency: Count
    let_relation: Relation

    def check(self, response: str) -> bool:
        return holds(response.lower().count(self.letter.lower()), self.let_relation, self.let_frequency)


@instruction_kind("change_case:capital_word_frequency")
class CapitalWordFrequency(Instruction):
    """The number of words in capitals; a hyphenated word counts once."""

    capital_frequency: Count
    capital_relation: Relation

    def check(self, response: str) -> bool:
        return holds(count_capital_words(response), self.capital_relation, self.capital_frequency)


@instruction_kind("punctuation:no_comma")
class NoComma(Instruction):
    """The response has no comma."""

    def check(self, response: str) -> bool:
        return "," not in response


class _AboutLanguage(Instruction):
    """An instruction that needs the language detector, which is loaded before an episode starts."""

    def model_post_init(self, context: Any) -> None:
        known_languages()


@instruction_kind("language:response_language")
class ResponseLanguage(_AboutLanguage):
    """The response is in a language, given by its ISO 639-1 code.

    A text of unknown language, such as a number, is in no language; the reference lets it pass.
    """

    language: str

    @field_validator("language")
    @classmethod
    def _is_known(cls, language: str) -> str:
        if not any(_is_language(code, language) for code in known_languages()):
            raise ValueError(f"the language must be one of {', '.join(sorted(known_languages()))}")
        return language

    def check(self, response: str) -> bool:
        return _is_language(language_of(response), self.language)


@instruction_kind("change_case:english_capital")
class EnglishCapital(_AboutLanguage):
    """The response is in English, in capital letters only."""

    def check(self, response: str) -> bool:
        return response.isupper() and language_of(response) == "en"


@instruction_kind("change_case:english_lowercase")
class EnglishLowercase(_AboutLanguage):
    """The response is in English, without capital letters."""

    def check(self, response: str) -> bool:
        return response.islower() and language_of(response) == "en"


def _occurrences(keyword: str, response: str) -> int:
    return len(re.findall(re.escape(keyword), response, flags=re.IGNORECASE))


def _is_language(code: str | None, language: str) -> bool:
    """Whether a code is that of a language; "zh" matches both scripts of Chinese."""
    return code is not None and language in (code, code.partition("-")[0])
