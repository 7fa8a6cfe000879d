"""Verifiable instructions as in IFEval (arXiv:2311.07911): its 25 kinds, and your own.

A kind is a small class with an id (`make_instruction("punctuation:no_comma")`); `instruction_kind` registers one.
`ifeval_task` reads IFEval's files, `instructions_reward` scores responses.

Verdicts agree with IFEval's code, except where that would reward an empty effort: a text whose language cannot be
detected is in no language, several of the constrained responses do not count as one, and a response that only repeats
the prompt follows nothing. Keywords are plain text, not regular expressions. Sentences and tokens are found by rules
instead of NLTK's models (see `text`), and langdetect is seeded.
"""

from toolrl.rewards.instructions.forms import (
    CONSTRAINED_RESPONSES,
    ConstrainedResponse,
    EndPhrase,
    JsonFormat,
    Postscript,
    Quotation,
    RepeatPrompt,
    Title,
    TwoResponses,
)
from toolrl.rewards.instructions.length import (
    MultipleSections,
    NthParagraphFirstWord,
    NumberOfBullets,
    NumberOfHighlights,
    NumberOfParagraphs,
    NumberOfPlaceholders,
    NumberOfSentences,
    NumberOfWords,
)
from toolrl.rewards.instructions.registry import Instruction, instruction_kind, instruction_kinds, make_instruction
from toolrl.rewards.instructions.scoring import (
    Mode,
    follows_loosely,
    follows_strictly,
    ifeval_task,
    instructions_of,
    instructions_reward,
    is_echo,
)
from toolrl.rewards.instructions.text import count_words, split_sentences
from toolrl.rewards.instructions.words import (
    CapitalWordFrequency,
    EnglishCapital,
    EnglishLowercase,
    ForbiddenWords,
    KeywordExistence,
    KeywordFrequency,
    LetterFrequency,
    NoComma,
    ResponseLanguage,
)

__all__ = [
    "CONSTRAINED_RESPONSES",
    "CapitalWordFrequency",
    "ConstrainedResponse",
    "EndPhrase",
    "EnglishCapital",
    "EnglishLowercase",
    "ForbiddenWords",
    "Instruction",
    "JsonFormat",
    "KeywordExistence",
    "KeywordFrequency",
    "LetterFrequency",
    "Mode",
    "MultipleSections",
    "NoComma",
    "NthParagraphFirstWord",
    "NumberOfBullets",
    "NumberOfHighlights",
    "NumberOfParagraphs",
    "NumberOfPlaceholders",
    "NumberOfSentences",
    "NumberOfWords",
    "Postscript",
    "Quotation",
    "RepeatPrompt",
    "ResponseLanguage",
    "Title",
    "TwoResponses",
    "count_words",
    "follows_loosely",
    "follows_strictly",
    "ifeval_task",
    "instruction_kind",
    "instruction_kinds",
    "instructions_of",
    "instructions_reward",
    "is_echo",
    "make_instruction",
    "split_sentences",
]
