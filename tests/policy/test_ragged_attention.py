"""Promises of attention over packed sequences: each sees what it would see alone, in every mix of lengths."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Qwen3ForCausalLM

from toolrl.policy import TransformersPolicy
from toolrl.policy.ragged_attention import RAGGED_ATTENTION, ragged_attention
from toolrl.types import SamplingParams

HEADS, KEY_VALUE_HEADS, DIMENSION = 4, 2, 8


class FakeCache:
    """The paged cache, with two groups of layers: rows lie anywhere, and what it is told to read is returned."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, read: torch.Tensor):
        self.layer_to_allocator = {3: SimpleNamespace(index=1, layer_type="full_attention")}
        rows = torch.zeros(2, 2 * keys.shape[2], *keys.shape[1::2])  # (2, 2N, K, D)
        if len(read):
            rows[:, read] = torch.stack((keys, values))[:, 0].transpose(1, 2)
        self._rows = rows

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, kwargs: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        read = kwargs["read_index"][self.layer_to_allocator[layer_idx].index]
        if not len(read):
            return key_states, value_states
        keys, values = self._rows[:, read].transpose(1, 2)[:, None]
        return keys, values


def attend_alone(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Attention of one sequence (H, Q, D) to its keys and values (K, T, D), written out: (Q, H, D)."""
    key, value = (x.repeat_interleave(HEADS // KEY_VALUE_HEADS, dim=0) for x in (key, value))  # (H, T, D)
    new, total = query.shape[1], key.shape[1]
    future = torch.arange(total) > torch.arange(total - new, total)[:, None]  # (Q, T)
    scores = (query @ key.transpose(1, 2) * scaling).masked_fill(future, -torch.inf)  # (H, Q, T)
    return (scores.softmax(-1) @ value).transpose(0, 1)


@pytest.mark.parametrize(
    "lengths",
    [
        [(1, 1)],
        [(1, 7), (1, 3), (1, 12)],
        [(5, 5)],
        [(4, 9)],
        [(1, 7), (5, 5), (1, 1), (4, 9), (2, 2), (1, 30), (3, 20)],
        [(5, 5), (1, 1), (3, 3)],
    ],
    ids=["one token", "decoding", "prefill", "split prefill", "all at once", "nothing to read"],
)
def test_each_sequence_is_attended_as_if_it_were_alone(lengths: list[tuple[int, int]]) -> None:
    generator = torch.Generator().manual_seed(0)
    new, total = (sum(column) for column in zip(*lengths, strict=True))
    query = torch.randn(1, HEADS, new, DIMENSION, generator=generator)
    key, value = torch.randn(2, 1, KEY_VALUE_HEADS, total, DIMENSION, generator=generator)
    q_ends = [0, *torch.tensor([q for q, _ in lengths]).cumsum(0).tolist()]
    k_ends = [0, *torch.tensor([k for _, k in lengths]).cumsum(0).tolist()]
    has_past = any(q < k for q, k in lengths)
    read = torch.randperm(2 * total, generator=generator)[: total if has_past else 0]
    reads = [torch.arange(3), read]
    output, weights = ragged_attention(
        SimpleNamespace(layer_idx=3), query, key, value, None, 0.3, FakeCache(key, value, read), torch.tensor(q_ends),
        read_index=reads, cu_seq_lens_k={"full_attention": torch.tensor(k_ends)},
    )  # type: ignore[arg-type]  # fmt: skip
    assert (output.shape, weights) == ((1, new, HEADS, DIMENSION), None)
    for q0, q1, k0, k1 in zip(q_ends, q_ends[1:], k_ends, k_ends[1:], strict=False):
        alone = attend_alone(query[0, :, q0:q1], key[0, :, k0:k1], value[0, :, k0:k1], 0.3)
        torch.testing.assert_close(output[0, q0:q1], alone)


def test_it_gives_the_same_turns_as_sdpa(
    make_policy: Callable[..., TransformersPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [list(range(2, 2 + length)) for length in (1, 3, 17, 50)]
    played = []
    for attention in (RAGGED_ATTENTION, "sdpa"):
        monkeypatch.setattr("toolrl.policy.transformers.RAGGED_ATTENTION", attention)
        policy = make_policy()
        with policy.generating():
            futures = [policy.submit(ids, SamplingParams(0.0, 20)) for ids in prompts]
            played.append([future.result(timeout=60) for future in futures])
    for ragged, padded in zip(*played, strict=True):
        assert ragged.token_ids == padded.token_ids
        torch.testing.assert_close(torch.tensor(ragged.logprobs), torch.tensor(padded.logprobs), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("attention", "sliding", "expected"),
    [("sdpa", False, RAGGED_ATTENTION), ("sdpa", True, "sdpa"), ("eager", False, "paged|eager")],
)
def test_it_replaces_sdpa_only_where_every_layer_sees_the_whole_sequence(
    model: Qwen3ForCausalLM, attention: str, sliding: bool, expected: str
) -> None:
    model.config._attn_implementation = attention
    if sliding:
        model.config.layer_types = ["sliding_attention", "full_attention"]
    with TransformersPolicy(model, stop_token_ids=[1]).generating():
        assert model.config._attn_implementation == expected
