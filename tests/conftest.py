"""Shared by all tests: the hypothesis profile, a small tokenizer, TRL's chat templates."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

os.environ["HF_HUB_OFFLINE"] = "1"
# A job in the background of a shell inherits that SIGINT is ignored, and Python then raises no KeyboardInterrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, without a deadline: a busy machine must not fail a test.
settings.register_profile("toolrl", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("toolrl")

# The control tokens of Qwen's tokenizers: the first three are special there, the others are not.
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")

# Merges are learned from this; some cross the texts of control tokens.
CORPUS = ["system user assistant tool <|im_start|> <|im_end|> <tool_call> </tool_call> im_end arguments name the"] * 4

# Folders with long tests. Started last, one would run alone while the other workers idle.
LONG = ("notebooks", "training", "audit", "policy", "tiny")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests first; `--no-loadscope-reorder` keeps them there."""
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.relative_to(Path(__file__).parent).parts[0], len(order)))


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with a few merges and Qwen's control tokens; it has no chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        name_or_path="byte-tokenizer",
    )


@pytest.fixture(scope="session")
def trl_template() -> Callable[[str], str]:
    """Read a chat template that TRL ships, by its name without `.jinja`, without importing TRL."""
    package = importlib.util.find_spec("trl")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "chat_templates"
    return lambda name: (folder / f"{name}.jinja").read_text(encoding="utf-8")
