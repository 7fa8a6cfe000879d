"""Checks the index of a text."""

import random
import sys
from pathlib import Path

WORDS = """\
river stone don't lantern it's harbour wolves o'clock children's window winter and the of in a silver
market they're bridge captain letter morning garden ship over under with there these sail storm rope"""
STOP = ("over", "under", "with", "there", "these", "they're")


def lines() -> list[list[str]]:
    """The words of each line."""
    rng = random.Random("word-index")
    return [rng.choices(WORDS.split(), k=rng.randrange(10)) for _ in range(90)]


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    rng = random.Random("word-index: spelling")
    text = ""
    for words in lines():
        for word in words:
            word = rng.choice((word, word, word.upper(), word.capitalize(), f"'{word}'", f'"{word}"'))
            text += word + rng.choice((" ", " ", ", ", "--", ". ", " 1850 ", "; "))
        text += "\n"
    return {"book.txt": text.encode(), "stop.txt": "".join(f"{word}\n" for word in STOP).encode()}


def main() -> None:
    """Exit with a message unless the task is done."""
    places: dict[str, dict[int, None]] = {}
    for number, words in enumerate(lines(), 1):
        for word in words:
            if len(word) >= 4 and word not in STOP:
                places.setdefault(word, {})[number] = None
    expected = [f"{word}: {', '.join(map(str, found))}" for word, found in sorted(places.items())]
    if Path("index.txt").read_text().splitlines() != expected:
        sys.exit("index.txt is wrong")


if __name__ == "__main__":
    main()
