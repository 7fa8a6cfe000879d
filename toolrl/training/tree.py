"""Episodes with several conversations as rows for training: an agent forked, forgot or delegated.

All conversations of an episode have its reward and its advantage, so they are one row of the batch: its completion is
the completions of all of them, the main one last, and its prompt is the main one's. What each of them follows is kept
beside the row. Their log-probabilities are computed as a tree, in which what conversations share is there once: a token
sees what precedes it in its own conversation, at the position that it has there. The last shared token is repeated at
each fork, since each conversation's first own token is predicted from it.

Losses that average over an episode's tokens (`grpo`) average over all its conversations.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from toolrl.training.shared_prompt import MOST_TOKENS, Packed
from toolrl.trajectory import Trajectory, Turn


class Conversation(NamedTuple):
    """A conversation of a row.

    Attributes:
        prompt_ids: (P,) what it follows; None for the row's own prompt.
        start: Its first column among the row's completion.
        stop: After its last.
    """

    prompt_ids: list[int] | None
    start: int
    stop: int


Tree = Sequence[Conversation]


def turns_of(trajectory: Trajectory) -> list[Turn]:
    """The turns of all conversations."""
    return [turn for part in (*trajectory.branches, trajectory) for turn in part.turns]


def columns_of(
    trajectories: Sequence[Trajectory], end: int, padding: int | None, closing_ids: Collection[int]
) -> tuple[dict[str, list[Any]], list[Tree]]:
    """What TRL's `rollout_func` returns for episodes, and the conversations of those that have several.

    Args:
        trajectories: (N,) the episodes.
        end: The token that ends a completion for TRL; it is appended where the template ends answers with another.
        padding: Another that TRL takes for an end.
        closing_ids: Tokens that end a turn.
    """
    # An empty completion gets a token that does not end a turn, and so counts as truncated.
    filler = next(token for token in itertools.count() if token not in closing_ids)
    columns: dict[str, list[Any]] = {"prompt_ids": [], "completion_ids": [], "logprobs": [], "env_mask": []}
    trees: list[Tree] = []
    for trajectory in trajectories:
        ids: list[int] = []
        logprobs: list[float] = []
        mask: list[int] = []
        tree: list[Conversation] = []
        for part in (*trajectory.branches, trajectory):
            if own := part.completion_ids:
                prompt = None if part is trajectory else part.prompt_ids
                tree.append(Conversation(prompt, len(ids), len(ids) + len(own)))
                ids, logprobs, mask = ids + own, logprobs + part.logprobs, mask + part.mask
        if not ids:  # a fault before the first token
            ids, mask, logprobs = [filler], [0], [0.0]
        elif trajectory.stop.terminated and ids[-1] not in (end, padding):
            ids, mask, logprobs = [*ids, end], [*mask, 0], [*logprobs, 0.0]
        values = (trajectory.prompt_ids, ids, logprobs, mask)
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
        trees.append(tree if len(trajectory.branches) else ())
    return columns, trees


class _Sequence(NamedTuple):
    """A conversation as tokens: (T,) ids, labels (T,) of the tokens themselves, and their columns (T,)."""

    ids: Tensor
    labels: Tensor
    columns: Tensor


def pack_trees(
    trees: Mapping[int, Tree],
    input_ids: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    completion: int,
    *,
    share: bool,
) -> list[Packed]:
    """Sequences that have the log-probabilities of rows with several conversations.

    Args:
        trees: By the row's number in the batch.
        input_ids: (B, P + C).
        attention_mask: (B, P + C).
        labels: (B, P + C), -100 for tokens that are not scored.
        completion: C.
        share: Whether what conversations share is computed once. Otherwise, and if they would be too long together,
            each is a sequence by itself.
    """
    packs: list[Packed] = []
    for row, tree in trees.items():
        sequences = [_sequence(one, row, input_ids, attention_mask, labels, completion) for one in tree]
        for family in _families(sequences) if share else [[_Member(one, 0, 0)] for one in sequences]:
            packs += _together(family, row)
    return packs


def _sequence(
    one: Conversation, row: int, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, completion: int
) -> _Sequence:
    begin = input_ids.size(1) - completion
    if one.prompt_ids is None:
        prompt = input_ids[row, :begin][attention_mask[row, :begin].bool()]
    else:
        prompt = input_ids.new_tensor(one.prompt_ids)
    own = slice(begin + one.start, begin + one.stop)
    return _Sequence(
        torch.cat([prompt, input_ids[row, own]]),
        torch.cat([labels.new_full((len(prompt),), -100), labels[row, own]]),
        torch.cat([labels.new_zeros(len(prompt)), torch.arange(one.start, one.stop, device=labels.device)]),
    )


def _alone(one: _Sequence, row: int) -> Packed:
    """A conversation by itself."""
    length, device = len(one.ids), one.ids.device
    return _packed(
        row, one.ids, torch.arange(length, device=device), None, _shifted(one.labels), _shifted(one.columns, 0)
    )


class _Member(NamedTuple):
    """A conversation of a family: it continues another, by its number in the family, after so many of its tokens."""

    sequence: _Sequence
    other: int
    after: int


def _families(sequences: Sequence[_Sequence]) -> list[list[_Member]]:
    """Conversations that begin alike, each after one that it continues. Others are families by themselves."""
    families: list[list[_Member]] = []
    for one in sorted(sequences, key=_unscored):  # a conversation before those that continue it
        shared, family, other = max(
            (
                (_in_common(one, member.sequence), place, number)
                for place, members in enumerate(families)
                for number, member in enumerate(members)
            ),
            default=(0, 0, 0),
        )
        if shared > 1:  # the last shared token is repeated
            families[family].append(_Member(one, other, shared - 1))
        else:
            families.append([_Member(one, 0, 0)])
    return families


def _together(family: Sequence[_Member], row: int) -> list[Packed]:
    """Conversations as one sequence; each by itself if that would be too long."""
    total = sum(len(member.sequence.ids) - member.after for member in family)
    if len(family) == 1 or total > MOST_TOKENS:
        return [_alone(member.sequence, row) for member in family]
    paths: list[Tensor] = []  # of each conversation, where its tokens are in the sequence
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # own ids, positions, labels, columns
    device, begun = family[0].sequence.ids.device, 0
    sees = torch.zeros(total, total, dtype=torch.bool, device=device)
    for one, other, after in family:
        own = torch.arange(begun, begun + len(one.ids) - after, device=device)
        path = torch.cat([paths[other][:after], own]) if after else own
        for place in range(after, len(path)):
            sees[path[place], path[: place + 1]] = True
        positions = torch.arange(after, len(one.ids), device=device)
        parts.append((one.ids[after:], positions, _shifted(one.labels)[after:], _shifted(one.columns, 0)[after:]))
        paths.append(path)
        begun += len(own)
    ids, positions, labels, columns = (torch.cat(kind) for kind in zip(*parts, strict=True))
    return [_packed(row, ids, positions, sees[None, None], labels, columns)]


def _packed(row: int, ids: Tensor, positions: Tensor, mask: Tensor | None, labels: Tensor, columns: Tensor) -> Packed:
    rows = torch.tensor([row], device=ids.device)
    return Packed(rows, ids[None], positions[None], mask, labels[None], torch.full_like(ids, row), columns)


def _shifted(values: Tensor, last: int = -100) -> Tensor:
    """(T,) what each position predicts: the value of the next one."""
    return torch.cat([values[1:], values.new_full((1,), last)])


def _in_common(one: _Sequence, other: _Sequence) -> int:
    """How many tokens a conversation begins with like another, up to its first token that is scored."""
    length = min(_unscored(one), len(other.ids))
    return int((one.ids[:length] == other.ids[:length]).long().cumprod(0).sum())


def _unscored(one: _Sequence) -> int:
    """How many tokens are before the first that is scored; without any, all but the last."""
    scored = (one.labels != -100).nonzero()
    return int(scored[0]) if len(scored) else len(one.ids) - 1
