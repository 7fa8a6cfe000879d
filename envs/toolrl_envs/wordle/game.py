"""The word game: marks, the user who gives them, and a player who goes by nothing else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from toolrl import Ended, Task, award
from toolrl_envs.wordle.words import WORDS

GUESSES = 6
LETTERS = 5
PLACE_AWARD, LETTER_AWARD = 0.03, 0.01  # for a letter first found in its place, and first found in the word
MOST_AWARDED = LETTERS * (PLACE_AWARD + LETTER_AWARD)

_COMPARED = 40  # candidates
_SAID = {"=": "here", "~": "elsewhere", "-": "no"}


def marks(guess: str, secret: str) -> str:
    """(5) one mark a letter: "=" in its place, "~" in another, "-" not in the word, or not that often."""
    left = Counter(letter for letter, other in zip(secret, guess, strict=True) if letter != other)
    found = []
    for letter, other in zip(guess, secret, strict=True):
        if letter == other:
            found.append("=")
        elif left[letter]:
            left[letter] -= 1
            found.append("~")
        else:
            found.append("-")
    return "".join(found)


def told(guess: str, secret: str) -> str:
    """The marks in words."""
    return ", ".join(f"{letter}: {_SAID[mark]}" for letter, mark in zip(guess, marks(guess, secret), strict=True))


def fitting(words: Iterable[str], guess: str, found: str) -> list[str]:
    """The words that would have earned a guess these marks."""
    return [word for word in words if marks(guess, word) == found]


def best_guess(candidates: list[str]) -> str:
    """The word whose marks are expected to leave the fewest candidates, one of these if they are as good."""
    if len(candidates) > _COMPARED:  # too many to compare: common letters tell most
        common = Counter(letter for word in candidates for letter in set(word))
        return max(candidates, key=lambda word: sum(common[letter] for letter in set(word)))

    def left(guess: str) -> int:
        return sum(count * count for count in Counter(marks(guess, word) for word in candidates).values())

    best = min(candidates, key=left)
    # Words that differ in one letter are better told apart by a word that is none of them.
    return best if left(best) <= 2 * len(candidates) else min((best, *WORDS), key=left)


def solution(secret: str, opening: str) -> list[str]:
    """The guesses of a player who knows the list of words and the marks so far."""
    candidates, guesses = fitting(WORDS, opening, marks(opening, secret)), [""]
    while guesses[-1] != secret:
        guesses.append(best_guess(candidates))
        candidates = fitting(candidates, guesses[-1], marks(guesses[-1], secret))
    return guesses[1:]


class GameMaster:
    """The user of an episode: tells the marks of each guess, and ends the game.

    Attributes:
        guesses: What was guessed, in order, without messages that were no guess.
        is_solved: Whether the last guess was right.
    """

    def __init__(self, task: Task) -> None:
        """Begin the game of a task."""
        self._secret = str(task.answer)
        self._opening = str(task.metadata["opening"])
        self._places: set[int] = set()
        self._letters: set[str] = set()
        self._learn(self._opening)
        self.guesses: list[str] = []
        self.is_solved = False

    def __call__(self, message: str) -> str | Ended:
        """Answer a guess. One that is refused is not counted, but takes a turn."""
        guess = read_guess(message)
        if guess is None:
            return "error: say one word of five letters"
        if guess in (self._opening, *self.guesses):
            return f"error: {guess} was guessed before"
        self.guesses.append(guess)
        if earned := self._learn(guess):
            award(earned, "letters found")
        if guess == self._secret:
            self.is_solved = True
            return Ended(f"{guess} is the word.", "solved")
        left = GUESSES - len(self.guesses)
        text = f"{told(guess, self._secret)}. {left} {'guess' if left == 1 else 'guesses'} left."
        return text if left else Ended(text, "lost")

    def _learn(self, guess: str) -> float:
        """Note what a guess tells, and return what it earns: each place and each letter counts once."""
        found = marks(guess, self._secret)
        places = {place for place, mark in enumerate(found) if mark == "="} - self._places
        letters = {letter for letter, mark in zip(guess, found, strict=True) if mark != "-"} - self._letters
        self._places |= places
        self._letters |= letters
        return PLACE_AWARD * len(places) + LETTER_AWARD * len(letters)


def read_guess(message: str) -> str | None:
    """The word of five letters in `<answer>`, or which is all of the message; None if there is none."""
    said = message.rpartition("<answer>")[2].partition("</answer>")[0].strip(" \t\r\n.,;:!?\"'`*").lower()
    return said if re.fullmatch(f"[a-z]{{{LETTERS}}}", said) else None


def value(guesses: int) -> float:
    """What a solved game is worth: 1 with the first guess, half with the last."""
    return 1 - 0.5 * (guesses - 1) / (GUESSES - 1)
