"""Two trajectories side by side: the first token that differs, and their texts turn by turn."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from toolrl.trajectory import Trajectory, Turn

_CHARACTERS = 20_000
_WORDS = 800  # matching is quadratic in it: longer texts are compared by lines
_LINES = 2_000


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of one side; its kind is "same", "del" (only on the left) or "ins" (only on the right)."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class TextDiff:
    """A text of one trajectory, and the one in the same position of another.

    Attributes:
        title: The position, as in "turn 1, tools".
        left: Pieces of the first text; None if the first trajectory has none.
        right: Pieces of the second.
        cut: Whether only the beginnings were compared.
    """

    title: str
    left: tuple[Piece, ...] | None
    right: tuple[Piece, ...] | None
    cut: bool

    @property
    def is_same(self) -> bool:
        """Whether both exist and are equal."""
        return self.left is not None and self.left == self.right


@dataclass(frozen=True, slots=True)
class TrajectoryDiff:
    """Two trajectories side by side.

    Attributes:
        texts: The prompt's messages, then each turn's message and tool outputs.
        first_difference: Position of the first different token in the completions; None if one is a prefix of the
            other.
    """

    texts: tuple[TextDiff, ...]
    first_difference: int | None


def diff_trajectories(a: Trajectory, b: Trajectory) -> TrajectoryDiff:
    """Compare two trajectories."""
    left, right = _texts(a), _texts(b)
    names = sorted({*left, *right})
    texts = tuple(diff_texts(title, left.get((order, title)), right.get((order, title))) for order, title in names)
    pairs = enumerate(zip(a.completion_ids, b.completion_ids, strict=False))
    return TrajectoryDiff(texts, next((position for position, (one, other) in pairs if one != other), None))


def diff_texts(title: str, left: str | None, right: str | None) -> TextDiff:
    """Compare two texts word by word, or line by line if they are long."""
    cut = any(text is not None and len(text) > _CHARACTERS for text in (left, right))
    if left is None or right is None:
        only = "del" if right is None else "ins"
        sides = [None if text is None else (Piece(only, text[:_CHARACTERS]),) for text in (left, right)]
        return TextDiff(title, sides[0], sides[1], cut)
    units = [re.findall(r"\s+|\w+|[^\w\s]", text[:_CHARACTERS]) for text in (left, right)]
    if max(map(len, units)) > _WORDS:
        units = [text[:_CHARACTERS].splitlines(keepends=True)[:_LINES] for text in (left, right)]
    matcher = difflib.SequenceMatcher(None, units[0], units[1], autojunk=False)
    pieces: tuple[list[Piece], list[Piece]] = ([], [])
    for kind, a_start, a_end, b_start, b_end in matcher.get_opcodes():
        for side, start, end, name in ((0, a_start, a_end, "del"), (1, b_start, b_end, "ins")):
            if end > start:
                pieces[side].append(Piece("same" if kind == "equal" else name, "".join(units[side][start:end])))
    return TextDiff(title, tuple(pieces[0]), tuple(pieces[1]), cut)


def _texts(trajectory: Trajectory) -> dict[tuple[int, str], str]:
    """The texts of a trajectory, by order and title."""
    found = {
        (number, message.role if len(trajectory.prompt) < 3 else f"{message.role} {number + 1}"): message.content
        for number, message in enumerate(trajectory.prompt)
    }
    for number, turn in enumerate(trajectory.turns, 1):
        found[100 * number, f"turn {number}, assistant"] = _written(turn)
        if turn.results:
            found[100 * number + 1, f"turn {number}, tools"] = "\n".join(result.content for result in turn.results)
        if turn.reply is not None:
            found[100 * number + 2, f"turn {number}, user"] = turn.reply
    return found


def _written(turn: Turn) -> str:
    message = turn.message
    calls: Sequence[str] = [call.raw or f"{call.name}({dict(call.arguments)})" for call in message.tool_calls]
    thinking = f"<think>\n{message.thinking}\n</think>" if message.thinking else ""
    return "\n".join(part for part in (thinking, message.content, *calls) if part)
