"""Promises about prompts that rows share: they are computed once, and nothing else changes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.training.rows import COMPLETION, batch_of, differ, ours_and_theirs, with_old_logprobs
from toolrl.training import shared_prompt
from toolrl.training.shared_prompt import can_share, pack, shared_prompts, shares_exactly, shuffle_groups, split_group
from toolrl.training.trainer import SampledTokensTrainer

SMALL = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip
SHARING = ("llama", "qwen2", "qwen3", "smollm3", "mistral", "phi3", "olmo2", "granite")


def model_of(kind: str, kernel: str = "sdpa", **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    settings = {name: value for name, value in {**SMALL, **changes}.items() if value is not None}
    config = AutoConfig.for_model(kind, **settings)
    if getattr(config, "sliding_window", None) and not getattr(config, "layer_types", None):
        config.sliding_window = None
    return AutoModelForCausalLM.from_config(config, attn_implementation=kernel).eval()


def tokens_of(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    return ids, torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("group", [2, 4, 8])
@pytest.mark.parametrize("loss", ["grpo", "dapo", "cispo", "vespo"])
def test_loss_and_gradient_are_trls(
    trainer: Callable[..., SampledTokensTrainer], loss: str, group: int, corrected: bool
) -> None:
    ours = trainer(loss_type=loss, use_vllm=corrected)
    batch = with_old_logprobs(ours, batch_of([0.0, 1.5, -0.4, 0.0, 0.3, -0.7, 0.0, 0.9], group=group))
    if not corrected:
        del batch["importance_sampling_ratio"]
    mine, theirs, *_ = ours_and_theirs(ours, batch)
    assert theirs[1:].norm() > 0
    assert differ(mine, theirs) < 1e-4


def test_a_shared_prompt_is_computed_once(trainer: Callable[..., SampledTokensTrainer]) -> None:
    ours: Any = trainer()
    batch = batch_of([1.0, -1.0, 0.5, -0.5, 0.0, 0.0, 1.0, 0.0], group=4)
    _, mask = tokens_of(batch)
    computed: list[int] = []
    hook = ours.model.register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        ours._compute_loss(ours.model, batch)
    finally:
        hook.remove()
    prompt, lengths = batch["prompt_mask"][0].sum(), batch["completion_mask"].sum(1)
    # Of the second group only one row has an advantage: it is computed by itself.
    assert sorted(computed) == sorted([int(prompt - 1 + (lengths[:4] + 1).sum()), int(mask[6].sum())])


@pytest.mark.parametrize("kind", SHARING)
def test_log_probabilities_are_those_of_each_row_alone(kind: str) -> None:
    model = model_of(kind)
    assert can_share(model.config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert shares_exactly(model)
    assert shares_exactly(model.bfloat16())
    model.float()
    ids, mask = tokens_of(batch_of([0.0] * 6, group=3))
    labels = ids.masked_fill(mask == 0, -100)
    groups = shared_prompts(ids, mask, COMPLETION, torch.arange(6))
    assert [group.tolist() for group in groups] in ([[0, 1, 2], [3, 4, 5]], [[3, 4, 5], [0, 1, 2]])
    for rows in groups:
        packed = pack(ids, mask, labels, COMPLETION, rows)
        assert packed is not None
        logits = model(input_ids=packed.ids, position_ids=packed.positions, attention_mask=packed.mask).logits
        found = logits.log_softmax(-1).gather(-1, packed.labels.clamp(min=0)[..., None])[..., 0]
        scores = packed.put(torch.zeros(6, COMPLETION), found)
        for row in rows.tolist():
            own = ids[row][mask[row].bool()][None]
            alone = model(own).logits[0, :-1].log_softmax(-1).gather(-1, own[0, 1:, None])[:, 0]
            length = int(mask[row, -COMPLETION:].sum())
            assert torch.allclose(scores[row, :length], alone[-length:], atol=1e-5)
            assert (scores[row, length:] == 0).all()


@pytest.mark.parametrize(
    ("prompt", "lengths", "parts"),
    [
        (300, [100] * 8, 1),  # less than sqrt(300 * (300 + 3 * 576)) = 780 and a half
        (300, [300] * 8, 3),
        (300, [10, 20, 30, 800, 900, 700, 10, 20], 3),
        (4000, [500] * 8, 1),  # a long prompt is worth sharing among more
        (300, [1] * 40, 3),  # no more than 16 rows together
        (5, [300, 200], 2),
    ],
)
def test_a_group_is_split_where_attention_would_cost_more_than_the_prompt(
    prompt: int, lengths: list[int], parts: int
) -> None:
    width = max(lengths)
    mask = torch.zeros(len(lengths) + 1, prompt + 3 + width, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, 3 : prompt + 3 + length] = 1
    found = split_group(torch.arange(len(lengths)), mask, width, 16, 576)
    assert len(found) == parts
    assert sorted(torch.cat(found).tolist()) == list(range(len(lengths)))
    totals = [sum(lengths[row] for row in part) for part in found]
    assert max(totals) - min(totals) <= max(lengths)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {"sliding_window": 4}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}),
        ("gemma3_text", {}),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}),
    ],
)
def test_a_model_with_windows_or_other_layers_computes_each_row(kind: str, changes: dict[str, Any]) -> None:
    assert can_share(AutoConfig.for_model("llama", **SMALL, attn_implementation="sdpa"))
    assert not can_share(AutoConfig.for_model(kind, **{**SMALL, **changes}, attn_implementation="sdpa"))


@pytest.mark.parametrize("kernel", ["eager", "flash_attention_2", "flex_attention"])
def test_another_kernel_computes_each_row(kernel: str) -> None:
    # "eager" adds a mask to the scores, so that one of truth values is wrong without an error.
    assert not can_share(AutoConfig.for_model("llama", **SMALL, attn_implementation=kernel))
    if kernel == "eager":
        assert not shares_exactly(sharpened(model_of("llama", kernel=kernel)))


@pytest.mark.parametrize("kind", ["falcon_h1", "recurrent_gemma", "nemotron_h", "minimax", "qwen3_next", "falcon"])
def test_a_model_that_sees_more_than_mask_and_positions_does_not_pass_the_proof(kind: str) -> None:
    # Recurrent layers, and falcon's biases by the distance in the sequence.
    changes = {"alibi": True, "new_decoder_architecture": False, "head_dim": None} if kind == "falcon" else {}
    model = sharpened(model_of(kind, **changes))
    assert not shares_exactly(model)
    assert not shares_exactly(model.bfloat16())


def sharpened(model: PreTrainedModel) -> PreTrainedModel:
    """With weights that are large enough for attention to matter, which those of an untrained model are not."""
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.mul_(3)
    return model


def test_a_batch_is_shuffled_by_groups() -> None:
    torch.manual_seed(0)
    batch = batch_of([0.0] * 24, group=4) | {"names": [str(number) for number in range(24)], "nothing": None}
    batch["prompt_ids"][8:12] = batch["prompt_ids"][4:8]  # one task that was drawn twice in a row
    seen = set()
    for _ in range(20):
        mixed = shuffle_groups(batch)
        order = [int(name) for name in mixed["names"]]
        seen.add(tuple(order))
        assert sorted(order) == list(range(24))
        assert torch.equal(mixed["completion_ids"], batch["completion_ids"][order])
        assert mixed["num_items_in_batch"] == batch["num_items_in_batch"]
        assert mixed["nothing"] is None
        groups = [number // 4 for number in order]
        assert [*dict.fromkeys(groups)] == [group for group, _ in itertools.groupby(groups)]
        assert abs(groups.index(1) - groups.index(2)) == 4
    assert len(seen) > 10


def test_rows_that_would_make_too_long_a_sequence_are_computed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_prompt, "MOST_TOKENS", 10)
    ids, mask = tokens_of(batch_of([0.0] * 4, group=4))
    assert pack(ids, mask, ids, COMPLETION, torch.arange(4)) is None
