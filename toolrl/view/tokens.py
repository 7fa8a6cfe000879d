"""The tokens of a trajectory with their statistics, and the texts of token ids."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml
from tokenizers import Tokenizer

from toolrl.tiny import PATH as TINY
from toolrl.trajectory import Trajectory

# Surprisal in nats: 0.01 is a probability of 0.99, 0.7 of 0.5, 4.6 of 0.01.
_SURPRISAL_STEPS = (0.01, 0.05, 0.15, 0.35, 0.7, 1.4, 2.8, 4.6)
_ADVANTAGE_STEPS = (0.1, 0.5, 1.0, 1.5)
_ENTROPY_WINDOW = 5


class Vocabulary:
    """Texts of token ids, from a `tokenizer.json`."""

    def __init__(self, path: Path):
        """Load the file."""
        self._tokenizer = Tokenizer.from_file(str(path))
        self.text: Callable[[int], str] = lru_cache(maxsize=200_000)(self._text)

    @classmethod
    def of_run(cls, run: Path) -> Vocabulary | None:
        """The vocabulary of a run's model, or else of the model it started from; None if neither is found."""
        folder = run if run.is_dir() else run.parent
        checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: _number(path.name))
        candidates = [folder / "model", *reversed(checkpoints)]
        config = folder / "config.yaml"
        if config.is_file():
            try:
                model = (yaml.safe_load(config.read_text("utf-8")) or {}).get("model_name_or_path", "")
            except (yaml.YAMLError, AttributeError, OSError):
                model = ""
            candidates.append(TINY if model == "tiny" else Path(str(model)))
        for candidate in candidates:
            path = candidate / "tokenizer.json"
            if path.is_file() and _is_whole(path):
                return cls(path)
        return None

    def name(self, token_id: int) -> str:
        """The token as the vocabulary spells it; empty for an unknown id."""
        return self._tokenizer.id_to_token(token_id) or ""

    def _text(self, token_id: int) -> str:
        # A decoder may strip the first token's leading space; what the second adds is the token's own text.
        once = self._tokenizer.decode([token_id], skip_special_tokens=False)
        twice = self._tokenizer.decode([token_id, token_id], skip_special_tokens=False)
        return twice[len(once) :] if twice.startswith(once) else once


@dataclass(frozen=True, slots=True)
class Token:
    """One token of the prompt or the completion.

    Attributes:
        position: Its position in the prompt or the completion, from 0.
        id: Its id.
        text: Its text; empty without a vocabulary.
        name: The token as the vocabulary spells it.
        logprob: Natural logarithm of the probability it was sampled with; None if the policy did not sample it.
        entropy: Mean of -logprob over the five sampled tokens around it, an estimate of the policy's entropy from one
            sample. None if the policy did not sample it.
        advantage: The trajectory's advantage, for a sampled token.
    """

    position: int
    id: int
    text: str
    name: str
    logprob: float | None = None
    entropy: float | None = None
    advantage: float | None = None

    @property
    def classes(self) -> str:
        """Its CSS classes, one for each colouring: `s` or `e` (mask), `l0`-`l8`, `h0`-`h8`, `a-4`-`a4`."""
        if self.logprob is None:
            return "e"
        found = [f"s l{_step(-self.logprob)}", f"h{_step(self.entropy or 0.0)}"]
        if self.advantage is not None:
            size = bisect.bisect(_ADVANTAGE_STEPS, abs(self.advantage))
            found.append(f"a{'-' if self.advantage < 0 and size else ''}{size}")
        return " ".join(found)


@dataclass(frozen=True, slots=True)
class TokenSection:
    """Tokens of one origin: the prompt, a sampled turn, or an observation."""

    title: str
    tokens: tuple[Token, ...]


def token_sections(
    trajectory: Trajectory,
    vocabulary: Vocabulary | None,
    advantage: float | None = None,
    start: int = 0,
    count: int = 4_000,
) -> Iterator[TokenSection]:
    """The tokens of a trajectory, prompt first: at most `count`, from `start` on."""
    before = 0
    for title, ids, logprobs in _sections(trajectory):
        first, last = max(0, start - before), min(len(ids), start + count - before)
        before += len(ids)
        if first >= last:
            continue
        offset = 0 if title == "prompt" else before - len(ids) - len(trajectory.prompt_ids)
        tokens = []
        for index in range(first, last):
            text, name = (vocabulary.text(ids[index]), vocabulary.name(ids[index])) if vocabulary else ("", "")
            if logprobs is None:
                tokens.append(Token(offset + index, ids[index], text, name))
            else:
                around = logprobs[max(0, index - _ENTROPY_WINDOW // 2) : index + _ENTROPY_WINDOW // 2 + 1]
                entropy = -sum(around) / len(around)
                tokens.append(Token(offset + index, ids[index], text, name, logprobs[index], entropy, advantage))
        yield TokenSection(title, tuple(tokens))


def token_count(trajectory: Trajectory) -> int:
    """The number of tokens in prompt and completion."""
    return len(trajectory.prompt_ids) + sum(
        len(turn.sample.token_ids) + len(turn.observation_ids) for turn in trajectory.turns
    )


def _sections(trajectory: Trajectory) -> Iterator[tuple[str, list[int], list[float] | None]]:
    yield "prompt", trajectory.prompt_ids, None
    for number, turn in enumerate(trajectory.turns, 1):
        ids, logprobs, (start, stop) = turn.sample.token_ids, turn.sample.logprobs, turn.sample.forced
        if start < stop:
            yield f"turn {number}, sampled", ids[:start], logprobs[:start]
            yield f"turn {number}, inserted to end the thinking", ids[start:stop], None
        yield f"turn {number}, sampled", ids[stop:], logprobs[stop:]
        yield f"turn {number}, observed", list(turn.observation_ids), None


def _step(surprisal: float) -> int:
    return bisect.bisect(_SURPRISAL_STEPS, surprisal)


def _is_whole(path: Path) -> bool:
    """Whether a file is whole JSON; a checkpoint may still be being written."""
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def _number(name: str) -> int:
    found = re.search(r"\d+$", name)
    return int(found[0]) if found else -1
