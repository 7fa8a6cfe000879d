"""Where two episodes part: the first token that differs, and turn by turn what was written."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from toolrl.trajectory import Trajectory, Turn

_CHARACTERS = 20_000
_WORDS = 800  # matching is quadratic: longer texts are compared by lines
_LINES = 2_000


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of one side: "same", "del" (only on the left) or "ins" (only on the right)."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Compared:
    """What stands at one place of two episodes.

    Attributes:
        title: Which place.
        left: Pieces of the first; None if it has no such place.
        right: Pieces of the second.
        cut: Whether the texts are longer than what was compared.
    """

    title: str
    left: tuple[Piece, ...] | None
    right: tuple[Piece, ...] | None
    cut: bool

    @property
    def is_same(self) -> bool:
        """Whether both are there and alike."""
        return self.left is not None and self.left == self.right


@dataclass(frozen=True, slots=True)
class TrajectoryDiff:
    """Two episodes side by side.

    Attributes:
        places: The prompt's messages, then what each turn wrote and was told.
        first_difference: Place of the first token of the completion that differs; None if one begins with the other.
    """

    places: tuple[Compared, ...]
    first_difference: int | None


def diff_trajectories(a: Trajectory, b: Trajectory) -> TrajectoryDiff:
    """Compare two episodes."""
    left, right = _texts(a), _texts(b)
    names = sorted({*left, *right})
    places = tuple(compare(title, left.get((order, title)), right.get((order, title))) for order, title in names)
    first = next(
        (
            place
            for place, (one, other) in enumerate(zip_longest(a.completion_ids, b.completion_ids))
            if one != other and None not in (one, other)
        ),
        None,
    )
    return TrajectoryDiff(places, first)


def compare(title: str, left: str | None, right: str | None) -> Compared:
    """Compare two texts, word by word; long ones line by line."""
    cut = any(text is not None and len(text) > _CHARACTERS for text in (left, right))
    if left is None or right is None:
        only = "del" if right is None else "ins"
        sides = [None if text is None else (Piece(only, text[:_CHARACTERS]),) for text in (left, right)]
        return Compared(title, sides[0], sides[1], cut)
    units = [re.findall(r"\s+|\w+|[^\w\s]", text[:_CHARACTERS]) for text in (left, right)]
    if max(map(len, units)) > _WORDS:
        units = [text[:_CHARACTERS].splitlines(keepends=True)[:_LINES] for text in (left, right)]
    matcher = difflib.SequenceMatcher(None, units[0], units[1], autojunk=False)
    pieces: tuple[list[Piece], list[Piece]] = ([], [])
    for kind, a_start, a_end, b_start, b_end in matcher.get_opcodes():
        for side, start, end, name in ((0, a_start, a_end, "del"), (1, b_start, b_end, "ins")):
            if end > start:
                pieces[side].append(Piece("same" if kind == "equal" else name, "".join(units[side][start:end])))
    return Compared(title, tuple(pieces[0]), tuple(pieces[1]), cut)


def _texts(trajectory: Trajectory) -> dict[tuple[int, str], str]:
    """Texts by their order and title."""
    found = {
        (number, message.role if len(trajectory.prompt) < 3 else f"{message.role} {number + 1}"): message.content
        for number, message in enumerate(trajectory.prompt)
    }
    for number, turn in enumerate(trajectory.turns, 1):
        found[100 * number, f"turn {number}, assistant"] = _written(turn)
        if turn.results:
            found[100 * number + 1, f"turn {number}, tools"] = "\n".join(result.content for result in turn.results)
    return found


def _written(turn: Turn) -> str:
    message = turn.message
    calls: Sequence[str] = [call.raw or f"{call.name}({dict(call.arguments)})" for call in message.tool_calls]
    thinking = f"<think>\n{message.thinking}\n</think>" if message.thinking else ""
    return "\n".join(part for part in (thinking, message.content, *calls) if part)
