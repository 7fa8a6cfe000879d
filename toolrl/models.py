"""Loading models and tokenizers by name: `tiny`, a folder, or a hub id."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from toolrl.errors import ConfigError
from toolrl.tiny import PATH

ALIASES = {"tiny": str(PATH)}
# Before the name of a model behind a chat-completions API.
CHAT_API = "openai:"


def load_tokenizer(name: str, **options: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer; padding falls back to the end-of-text token.

    Raises:
        ConfigError: There is no such model, or it is one behind an API.
    """
    if name.startswith(CHAT_API):
        raise ConfigError(
            f"{name!r} gives messages and no tokens, so it cannot be trained: play with it (toolrl eval --model {name} "
            "--out), and learn from what it did well (toolrl demos, toolrl sft)"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(ALIASES.get(name, name), **options)
    except (OSError, ValueError) as error:
        raise ConfigError(_not_loaded(name, error)) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_for_generation(name: str, device: str = "") -> PreTrainedModel:
    """Load a model to sample with: bfloat16 on a GPU, float32 on a CPU.

    Args:
        name: "tiny", a folder, or a hub id.
        device: "cpu", "cuda" ...; by default a GPU if there is one.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(name, dtype="float32" if device == "cpu" else "bfloat16")
    torch.nn.Module.to(model, device)
    return model


def load_model(name: str, *, dtype: str = "float32", **options: Any) -> PreTrainedModel:
    """Load a causal language model onto the CPU.

    Args:
        name: "tiny", a folder, or a hub id.
        dtype: Of the weights, such as "float32" or "bfloat16".
        options: For `AutoModelForCausalLM.from_pretrained`.

    Raises:
        ConfigError: There is no such model.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(ALIASES.get(name, name), dtype=dtype, **options)
    except (OSError, ValueError) as error:
        raise ConfigError(_not_loaded(name, error)) from None


def _not_loaded(name: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"cannot load the model {name!r}: {reason} Use 'tiny', a local folder or a hub id"
