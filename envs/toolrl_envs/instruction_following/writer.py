"""The oracle of the environment: a writer that knows the instructions and nothing else."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence

from toolrl import TaskError
from toolrl.rewards.instructions import (
    CONSTRAINED_RESPONSES,
    CapitalWordFrequency,
    ConstrainedResponse,
    EndPhrase,
    EnglishCapital,
    EnglishLowercase,
    ForbiddenWords,
    Instruction,
    JsonFormat,
    KeywordExistence,
    KeywordFrequency,
    LetterFrequency,
    MultipleSections,
    NoComma,
    NthParagraphFirstWord,
    NumberOfBullets,
    NumberOfHighlights,
    NumberOfParagraphs,
    NumberOfPlaceholders,
    Postscript,
    Quotation,
    RepeatPrompt,
    ResponseLanguage,
    Title,
    TwoResponses,
    follows_strictly,
)

# Numbers of filler sentences to try until all instructions are followed.
_EXTRAS = (0, 1, 2, 3, 5, 8, 12, 20, 40, 80, 160, 320)
_PLAIN = (
    "This is how it often goes.",
    "People like to talk about it.",
    "There is more to say about that.",
    "It is good to begin with a small step.",
    "Most of us learn it slowly.",
    "That makes the day better.",
    "We can try it again soon.",
)
# For `language:response_language`: enough text to detect each language.
FOREIGN = {
    "de": "Das ist eine gute Frage und wir sprechen gern darüber. Am Morgen gehen die Kinder zur Schule.",
    "es": "Esta es una buena pregunta y hablamos de ella con gusto. Por la mañana los niños van a la escuela.",
    "fr": "C'est une bonne question et nous en parlons volontiers. Le matin les enfants vont à l'école.",
    "it": "Questa è una bella domanda e ne parliamo volentieri. La mattina i bambini vanno a scuola.",
    "pt": "Esta é uma boa pergunta e falamos dela com prazer. De manhã as crianças vão para a escola.",
    "ru": "Это хороший вопрос и мы охотно говорим об этом. Утром дети идут в школу.",
}


def write(instructions: Sequence[Instruction], sentences: Sequence[str] = ()) -> str:
    """Write a text that follows all instructions.

    Args:
        instructions: The instructions.
        sentences: Sentences to use; filler is added if they are not enough.

    Raises:
        TaskError: The instructions contradict each other, or this writer cannot follow them.
    """
    for extra in _EXTRAS:
        text = _Draft(instructions, sentences).text(extra)
        if all(follows_strictly(instruction, text) for instruction in instructions):
            return text
    raise TaskError(f"the oracle cannot write a text that follows {', '.join(map(repr, instructions))}")


class _Draft:
    """Assembles the pieces that the instructions ask for, in the one order in which they all fit."""

    def __init__(self, instructions: Sequence[Instruction], sentences: Sequence[str]):
        self._instructions = instructions
        self._of_kind = {type(instruction): instruction for instruction in instructions}
        language = self._of_kind.get(ResponseLanguage)
        pool: Iterable[str] = (*sentences, *_PLAIN)
        if isinstance(language, ResponseLanguage) and language.language in FOREIGN:
            pool = [f"{part}." for part in FOREIGN[language.language].rstrip(".").split(". ")]
        pool = list(pool)
        self._pool = [sentence for sentence in pool if self._allows(sentence)] or pool

    def text(self, extra: int) -> str:
        """The text with a number of filler sentences."""
        units = [*self._demanded(), *itertools.islice(itertools.cycle(self._pool), extra)] or self._pool[:1]
        if ConstrainedResponse in self._of_kind:
            units.insert(0, CONSTRAINED_RESPONSES[0])
        body = self._framed(self._arranged(units))
        if EnglishLowercase in self._of_kind:
            return body.lower()
        return body.upper() if EnglishCapital in self._of_kind else body

    def _allows(self, sentence: str) -> bool:
        """Whether a sentence avoids whatever the instructions forbid."""
        for one in self._instructions:
            if isinstance(one, ForbiddenWords | NoComma) and not one.check(sentence):
                return False
            avoided = ""
            if isinstance(one, KeywordFrequency) and one.relation == "less than":
                avoided = one.keyword
            elif isinstance(one, LetterFrequency) and one.let_relation == "less than":
                avoided = one.letter
            if avoided and avoided.lower() in sentence.lower():
                return False
        return True

    def _demanded(self) -> list[str]:
        """Sentences with the words, letters and marks that the instructions ask for."""
        units = []
        for one in self._instructions:
            if isinstance(one, KeywordExistence):
                units.append(f"It is about {' and '.join(one.keywords)}.")
            elif isinstance(one, KeywordFrequency) and one.relation == "at least":
                units.append(f"We say {' and '.join([one.keyword] * one.frequency)}.")
            elif isinstance(one, LetterFrequency) and one.let_relation == "at least":
                units.append(f"It sounds like {one.letter * one.let_frequency}.")
            elif isinstance(one, CapitalWordFrequency) and one.capital_relation == "at least":
                units.append(f"The sign says {' '.join(['OPEN'] * one.capital_frequency)}.")
            elif isinstance(one, NumberOfPlaceholders):
                units.append(f"Ask {' and '.join(f'[name {n + 1}]' for n in range(one.num_placeholders))}.")
            elif isinstance(one, NumberOfHighlights):
                units.append(f"Note {' and '.join(f'*point {n + 1}*' for n in range(one.num_highlights))}.")
        return units

    def _arranged(self, units: list[str]) -> str:
        """The sentences in the paragraphs, sections, bullets or responses that the instructions ask for."""
        kinds = self._of_kind
        if isinstance(paragraphs := kinds.get(NumberOfParagraphs), NumberOfParagraphs):
            return "\n***\n".join(self._shared_out(units, paragraphs.num_paragraphs))
        if isinstance(nth := kinds.get(NthParagraphFirstWord), NthParagraphFirstWord):
            parts = self._shared_out(units, nth.num_paragraphs)
            parts[nth.nth_paragraph - 1] = f"{nth.first_word.capitalize()} comes first. {parts[nth.nth_paragraph - 1]}"
            return "\n\n".join(parts)
        if isinstance(sections := kinds.get(MultipleSections), MultipleSections):
            parts = self._shared_out(units, sections.num_sections)
            return "\n".join(f"{sections.section_spliter} {number}\n{part}" for number, part in enumerate(parts, 1))
        if isinstance(bullets := kinds.get(NumberOfBullets), NumberOfBullets):
            points = itertools.islice(itertools.cycle(self._pool), bullets.num_bullets)
            return "\n".join([" ".join(units), *(f"* {point}" for point in points)])
        if TwoResponses in kinds:
            return "\n******\n".join((" ".join(units), " ".join([*units, self._pool[-1]])))
        return " ".join(units)

    def _shared_out(self, units: list[str], count: int) -> list[str]:
        """Divide the sentences into non-empty parts."""
        if len(units) < count:
            units = [*units, *itertools.islice(itertools.cycle(self._pool), count - len(units))]
        return [" ".join(units[number::count]) for number in range(count)]

    def _framed(self, body: str) -> str:
        """Add what goes before, after and around the body."""
        kinds = self._of_kind
        if JsonFormat in kinds:
            return json.dumps({"text": body})
        if Title in kinds:
            body = f"<<On this subject>>\n{body}"
        if isinstance(repeat := kinds.get(RepeatPrompt), RepeatPrompt):
            body = f"{repeat.prompt_to_repeat}\n\n{body}"
        if isinstance(postscript := kinds.get(Postscript), Postscript):
            body = f"{body}\n{postscript.postscript_marker} {self._pool[0]}"
        if isinstance(end := kinds.get(EndPhrase), EndPhrase):
            body = f"{body}\n{end.end_phrase}"
        return f'"{body}"' if Quotation in kinds else body
