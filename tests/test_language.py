"""The prose of the project reads as a native engineer writes it: phrases that read as translated are refused.

Checked are the sources of both packages, the pages, and the notebooks' Markdown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ("*.md", "docs/**/*.md", "envs/**/*.md", "toolrl/**/*.md", "toolrl/**/*.yaml")
SOURCES = ("toolrl/**/*.py", "envs/**/*.py")

# The phrase, and what to write in its place. A space matches a line break too.
NO_NOUN = r"(is|are) no (?!such|longer|more|less|fewer|other|different|better|match|doubt)\w+(?! than)"
PHRASES = {
    r"(?<![Tt]here\s)\b(is|are) none\b(?! of)": '"is not set", "is rejected", "no task has this id"',
    rf"(?<![Tt]here\s)\b{NO_NOUN}": '"is not a ..."',
    r"\b(is|are) not there\b": '"is missing", "does not exist"',
    r"\bon end\b": '"consecutive"',
    r"\bno doing of\b|\b\w+'s doing\b|\bwhose doing\b": '"caused by"',
    r"\b[Aa]t most so (many|much)\b|: [Ss]o many\b|\b(by|of|for) so many\b": '"at most N", "the number of"',
    r"\bgoes before (it|them|that)\b": '"takes precedence"',
    r"\bheld against\b": '"counts against"',
    r"\bfor good\b": '"permanently"',
    r"\b(lies?|stands?) (beside|loose|behind|written)\b|\b[Ff](ile|older)s? (lies?|stands?)\b": '"is in", "is next to"',
    r"\bstands? in (?!for\b)": '"is in"',
    r"\bin good order\b": '"cleanly"',
    r"\banew\b": '"again", "is rebuilt", "starts over"',
    r"\b(is|are) ours\b|\bof ours\b": "name the owner",
    r"\b(model|code|caller|author)'s to \w+": '"that the model should see"',
    r"\bfor want of\b": '"for lack of"',
    r"\bout of (its|their) range\b": '"out of range"',
    r"\bin the manner of\b": '"like", "as in"',
    r"\bmakes? (something|nothing) of\b": "say what it returns",
    r'"""What (is|was) (asked|done|given|kept|left|said|seen|told|there|wanted)\b': "name the thing",
    r"\b(is|are) to be had\b": '"is available"',
}


def prose() -> Iterator[tuple[str, str]]:
    """Each file with its text; of notebooks the Markdown."""
    for pattern in (*PAGES, *SOURCES):
        for path in ROOT.glob(pattern):
            yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        yield path.relative_to(ROOT).as_posix(), text


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return dict(prose())


@pytest.mark.parametrize("phrase", PHRASES)
def test_no_phrase_reads_as_translated(texts: dict[str, str], phrase: str) -> None:
    pattern = re.compile(phrase.replace(" ", r"[\s#]+"))
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {' '.join(match[0].split())!r}"
        for name, text in texts.items()
        for match in pattern.finditer(text)
    ]
    assert not found, f"write {PHRASES[phrase]}: {found}"
