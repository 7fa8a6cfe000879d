from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from toolrl.policy import TransformersPolicy

STOP = 1


@pytest.fixture
def model() -> Qwen3ForCausalLM:
    """Random weights, large enough that attending to the wrong token shows in the logits."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=4096,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config).eval()


@pytest.fixture
def make_policy(model: Qwen3ForCausalLM) -> Iterator[Callable[..., TransformersPolicy]]:
    """Make policies that are small enough to split batches and to wait; they are closed after the test."""
    made: list[TransformersPolicy] = []

    def make(**settings: Any) -> TransformersPolicy:
        defaults: dict[str, Any] = {
            "stop_token_ids": [STOP],
            "max_sequences": 8,
            "max_batch_tokens": 64,
            "cache_tokens": 8192,
        }
        made.append(TransformersPolicy(model, **{**defaults, **settings}))
        return made[-1]

    yield make
    for policy in made:
        policy.close()


@pytest.fixture
def policy(make_policy: Callable[..., TransformersPolicy]) -> TransformersPolicy:
    return make_policy()
