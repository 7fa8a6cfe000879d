"""Attention over sequences of different lengths, for continuous batching without a flash kernel.

transformers' continuous batching packs all sequences of a step into one. With `sdpa` it computes the full
product (all queries x all keys) and masks most of it away, so the cost of a step grows with the square of
the number of sequences. This function attends sequence by sequence: those that decode one token share a
padded call, each prefill has its own. `tests/benchmarks` measures the ratio.

The name contains "flash" because transformers builds no mask for attention of that name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

RAGGED_ATTENTION = "toolrl_flash_ragged"


def ragged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cache: Any = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of packed sequences against the paged cache.

    Args:
        module: The attention layer.
        query: (1, H, Q, D), the new tokens of all sequences one after the other.
        key: (1, K, Q, D) with K key-value heads.
        value: (1, K, Q, D).
        attention_mask: None; causality follows from the lengths.
        scaling: Factor of the scores.
        cache: transformers' `PagedAttentionCache`.
        cu_seq_lens_q: (S + 1,) cumulative counts of new tokens.
        kwargs: Further arguments of transformers' paged attention.

    Returns:
        (1, Q, H, D), and None for the weights.
    """
    assert cu_seq_lens_q is not None
    allocator = cache.layer_to_allocator[module.layer_idx]
    q_ends, k_ends = cu_seq_lens_q.tolist(), kwargs["cu_seq_lens_k"][allocator.layer_type].tolist()
    read = kwargs["read_index"][allocator.index]  # (N,) rows of the cache; empty if no sequence has a past
    spans = list(zip(q_ends, q_ends[1:], k_ends, k_ends[1:], strict=False))
    decoding = [(q0, k0, k1) for q0, q1, k0, k1 in spans if q1 - q0 == 1 and len(read)]
    others = [span for span in spans if span[1] - span[0] > 1 or not len(read)]
    if decoding:
        # What is read is already padded, (B, M), for the sequences that decode; the others follow.
        rows, starts, ends = torch.tensor(decoding, device=query.device).T  # (B,) each
        offsets = torch.arange(int((ends - starts).max()), device=query.device)  # (M,)
        valid = offsets < (ends - starts)[:, None]  # (B, M)
        index = torch.where(valid, starts[:, None] + offsets, 0)
        kwargs["read_index"] = list(kwargs["read_index"])
        kwargs["read_index"][allocator.index] = torch.cat(
            [read[index.flatten()], *(read[k0:k1] for _, _, k0, k1 in others)]
        )
    key, value = cache.update(key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=kwargs)
    queries, keys, values = (x[0].transpose(0, 1) for x in (query, key, value))  # (Q, H, D), (N, K, D), (N, K, D)
    output = torch.empty_like(queries)  # (Q, H, D)
    start = 0
    if decoding:
        start = valid.numel()
        shape = (*valid.shape, *keys.shape[1:])  # B, M, K, D
        attended = scaled_dot_product_attention(
            queries[rows].view(len(decoding), keys.shape[1], -1, queries.shape[2]),  # (B, K, H/K, D)
            keys[:start].view(shape).transpose(1, 2),  # (B, K, M, D)
            values[:start].view(shape).transpose(1, 2),
            attn_mask=valid[:, None, None, :],
            scale=scaling,
        )
        output[rows] = attended.reshape(len(decoding), queries.shape[1], -1)
    for q0, q1, k0, k1 in others:
        new, total = q1 - q0, k1 - k0
        mask = None if new == total else torch.ones(new, total, dtype=torch.bool, device=query.device).tril(total - new)
        attended = scaled_dot_product_attention(
            queries[q0:q1].transpose(0, 1)[None],
            keys[start : start + total].transpose(0, 1)[None],
            values[start : start + total].transpose(0, 1)[None],
            attn_mask=mask,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=True,
        )
        output[q0:q1] = attended[0].transpose(0, 1)
        start += total
    return output[None], None


AttentionInterface.register(RAGGED_ATTENTION, ragged_attention)
