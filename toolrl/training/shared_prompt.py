"""A prompt that several rows share is computed once, not once a row.

The episodes of a group begin with the same prompt, which with the tools' schemas is often most of their tokens. Here
such rows become one sequence: the prompt, then the completions one after the other. Each token sees the prompt and its
own completion only, at the positions that it has in its own row, so its log-probability is the same up to rounding. The
prompt's last token, from which each completion's first one is predicted, is repeated before each completion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

MOST_TOKENS = 8192  # of a sequence: its mask is of that size squared


@dataclass(frozen=True)
class Packed:
    """Rows with one prompt, as one sequence of T tokens.

    Attributes:
        rows: (R,) their numbers in the batch.
        ids: (1, T).
        positions: (1, T).
        mask: (1, 1, T, T), which tokens (last axis) each token sees; None for all before it.
        labels: (1, T), the token that is scored at each position, -100 for none.
        row: (T,) the number in the batch of each position's row; -1 for the prompt.
        column: (T,) the column among the batch's completions of the token that is scored there.
    """

    rows: Tensor
    ids: Tensor
    positions: Tensor
    mask: Tensor | None
    labels: Tensor
    row: Tensor
    column: Tensor

    def put(self, scores: Tensor, values: Tensor) -> Tensor:
        """`scores` (B, C) with what was computed at the positions of this sequence, (1, T)."""
        scored = self.labels[0] != -100
        return scores.index_put((self.row[scored], self.column[scored]), values[0, scored].to(scores.dtype))


def can_share(config: Any) -> bool:
    """Whether attention sees all that the mask built here allows: no windows, and a kernel that takes such a mask.

    Args:
        config: Of the model.
    """
    text = config.get_text_config()
    windows = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    layers = getattr(text, "layer_types", None)
    if layers is not None:
        windows = any(layer != "full_attention" for layer in layers)
    return not windows and config._attn_implementation == "sdpa"


@torch.no_grad()
def shares_exactly(model: Any, *, wrapped: bool = False) -> bool:
    """Whether three short rows have the same log-probabilities with their prompt shared as alone.

    It is false for whatever looks at more than the mask and the positions: recurrent layers, convolutions, biases by
    distance in the sequence. Windows do not show in a few tokens: see `can_share`.

    Args:
        model: The model, or its wrapper.
        wrapped: Go through a wrapper's forward pass, which sharded weights need. Else the pass of the model's class is
            used: accelerate replaces the model's own by one with autocast, whose rounding would hide small errors.
    """
    forward = model if wrapped else partial(type(model).forward, model)
    ids = torch.arange(21, device=next(model.parameters()).device).reshape(3, 7) % 19
    ids[:, :4] = ids[0, :4]
    packed = pack(ids, torch.ones_like(ids), ids, 3, torch.arange(3, device=ids.device))
    assert packed is not None
    was_training = model.training
    model.eval()  # dropout would differ
    try:
        with torch.autocast(ids.device.type, enabled=False):
            alone = forward(input_ids=ids).logits[:, 3:-1]
            shared = forward(input_ids=packed.ids, position_ids=packed.positions, attention_mask=packed.mask).logits
    except (TypeError, ValueError, RuntimeError, IndexError):  # it takes no such mask or positions
        return False
    finally:
        model.train(was_training)
    predicting = (packed.row >= 0) & (packed.labels[0] != -100)
    difference = (shared[0, predicting].log_softmax(-1) - alone.flatten(0, 1).log_softmax(-1)).abs()
    # With weights in 16 bits a large model may fail. That costs time only; a limit that lets it pass would hide errors.
    return float(difference.max()) < (1e-3 if shared.dtype == torch.float32 else 0.1)


def pack_groups(
    input_ids: Tensor, attention_mask: Tensor, labels: Tensor, completion: int, rows: Tensor, together: int, width: int
) -> list[Packed]:
    """The rows that share their prompt with others, as sequences.

    Args:
        input_ids: As for `shared_prompts`.
        attention_mask: (B, P + C).
        labels: As for `pack`.
        completion: C.
        rows: (R,) the rows to look at; those that are in no sequence are computed by themselves.
        together: As for `split_group`.
        width: As for `split_group`.
    """
    groups = shared_prompts(input_ids, attention_mask, completion, rows)
    parts = [part for group in groups for part in split_group(group, attention_mask, completion, together, width)]
    packed = (pack(input_ids, attention_mask, labels, completion, part) for part in parts if len(part) > 1)
    return [one for one in packed if one is not None]


def shared_prompts(input_ids: Tensor, attention_mask: Tensor, completion: int, rows: Tensor) -> list[Tensor]:
    """The rows with the same prompt as another, by prompt.

    Args:
        input_ids: (B, P + C) prompts, padded on the left, and completions, padded on the right.
        attention_mask: (B, P + C).
        completion: C.
        rows: (R,) the rows to look at.
    """
    if not len(rows):
        return []
    prompts = input_ids[:, :-completion].masked_fill(attention_mask[:, :-completion] == 0, -1)
    _, which = prompts[rows].unique(dim=0, return_inverse=True)
    groups = [rows[which == number] for number in range(int(which.max()) + 1)]
    return [group for group in groups if len(group) > 1]


def split_group(rows: Tensor, attention_mask: Tensor, completion: int, together: int, width: int) -> list[Tensor]:
    """Parts of rows with the same prompt, of similar sizes, which are computed fastest.

    A part computes the prompt again, but in one long sequence each token is compared with those of all other rows. The
    sum of both is least at about sqrt(P * (P + 3 D)) tokens of completions a part, since attention to T tokens costs as
    much as a layer's other products at T = 3 D.

    Args:
        rows: (R,) as `shared_prompts` gives them.
        attention_mask: (B, P + C).
        completion: C.
        together: The most rows of a part.
        width: D, of the model's layers.
    """
    prompt = int(attention_mask[rows[0], :-completion].sum())
    lengths = attention_mask[rows, -completion:].sum(1)  # (R,)
    best = math.sqrt(prompt * (prompt + 3 * width))
    parts = max(math.ceil(len(rows) / together), round(float(lengths.sum()) / best), 1)
    by_length = rows[lengths.argsort()]
    return [by_length[first::parts] for first in range(min(parts, len(rows)))]


def shuffle_groups(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch in another order, in which neighbours with the same prompt stay neighbours.

    TRL shuffles single rows, and then cuts the batch into micro-batches, so that few rows of a group are computed
    together.

    Args:
        batch: Tensors and lists with a row for each episode, `prompt_ids` (B, P) among them, and scalars.
    """
    prompts = batch["prompt_ids"]
    begins = torch.ones(len(prompts), dtype=torch.bool)
    begins[1:] = (prompts[1:] != prompts[:-1]).any(1).cpu()
    blocks = torch.arange(len(prompts)).tensor_split(begins.nonzero()[1:, 0])
    order = torch.cat([blocks[number] for number in torch.randperm(len(blocks))])

    def in_order(value: Any) -> Any:
        if value is None or (isinstance(value, Tensor) and value.dim() == 0):
            return value
        return value[order.to(value.device)] if isinstance(value, Tensor) else [value[number] for number in order]

    return {name: in_order(value) for name, value in batch.items()}


def pack(input_ids: Tensor, attention_mask: Tensor, labels: Tensor, completion: int, rows: Tensor) -> Packed | None:
    """Make one sequence of rows with the same prompt; None if it would be too long.

    Args:
        input_ids: As for `shared_prompts`.
        attention_mask: (B, P + C).
        labels: (B, P + C), -100 for tokens that are not scored.
        completion: C.
        rows: (R,) rows whose prompts are the same.
    """
    device, begin = input_ids.device, input_ids.size(1) - completion
    first = int(rows[0])
    prompt = input_ids[first, :-completion][attention_mask[first, :-completion].bool()]  # (P,)
    lengths = attention_mask[rows, -completion:].sum(1)  # (R,)
    shared, total = len(prompt) - 1, len(prompt) - 1 + int((lengths + 1).sum())
    if shared < 1 or total > MOST_TOKENS:
        return None
    ids, positions = [prompt[:-1]], [torch.arange(shared, device=device)]
    row, column = [torch.full((shared,), -1, device=device)], [torch.zeros(shared, dtype=torch.long, device=device)]
    targets = [torch.full((shared,), -100, device=device)]
    for number, length in zip(rows.tolist(), lengths.tolist(), strict=True):
        own = slice(begin, begin + length)
        ids.append(torch.cat([prompt[-1:], input_ids[number, own]]))
        positions.append(torch.arange(shared, shared + length + 1, device=device))
        row.append(torch.full((length + 1,), number, device=device))
        column.append(torch.arange(length + 1, device=device))
        targets.append(torch.cat([labels[number, own], labels.new_full((1,), -100)]))
    which = torch.cat(row)
    sees = torch.ones(total, total, dtype=torch.bool, device=device).tril()
    sees &= (which[None] == which[:, None]) | (which[None] == -1)
    return Packed(
        rows, torch.cat(ids)[None], torch.cat(positions)[None], sees[None, None], torch.cat(targets)[None], which,
        torch.cat(column),
    )  # fmt: skip
