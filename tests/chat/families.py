"""The chat templates that TRL ships, each with a small tokenizer that has its family's control tokens."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from toolrl.chat.variants import trl_templates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# The token that ends a turn according to the tokenizer; generation configs add others.
EOS = {
    "deepseek": "<｜end▁of▁sentence｜>",
    "diffusion_gemma": "<eos>",
    "gemma": "<eos>",
    "glm": "<|endoftext|>",
    "gptoss": "<|return|>",
    "llama": "<|eot_id|>",
    "muse": "<|eot|>",
}
CONTROL = re.compile(
    r"<(?:start|end)_of_turn>|<[|｜][^\s<>|｜]+[|｜]>|<\|[a-z_\"|]+>|<[a-z_]+\|>|</?(?:tool_call|tool_response|think|arg_key|arg_value)>"
)
TEMPLATES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(trl_templates().glob("*.jinja"))}
WITH_TOOLS = [
    name
    for name, text in TEMPLATES.items()
    if not name.endswith("_training")
    and re.search(r"tool_calls|tool_call\b", text)
    and name not in ("deepseek_r1_distill", "cohere2", "diffusion_gemma")
]
# It starts a turn after tool results with a header that its own prompt leaves out; the model is not autoregressive.
REWRITING = ["diffusion_gemma"]
WITHOUT_TOOLS = [name for name in TEMPLATES if not name.endswith("_training") and name not in [*WITH_TOOLS, *REWRITING]]
# Contents are lists of parts instead of texts; calls are not shown, though tools are.
REFUSED = ["idefics3", "llava_next", "smolvlm", "lfm2"]
# The system message tells of the tools.
TOLD = [name for name in WITHOUT_TOOLS if name not in REFUSED]


def options_of(name: str) -> list[dict[str, Any]]:
    """The variables with which a template is tested."""
    return [{}, {"enable_thinking": False}] if "enable_thinking" in TEMPLATES[name] or name == "deepseekv3" else [{}]


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose added tokens are the control texts of a template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    text = TEMPLATES[name]
    eos = next((token for family, token in EOS.items() if name.startswith(family)), "<|im_end|>")
    special = ["<|pad|>", "<|bos|>", eos]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + len(alphabet) + 60,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator([text[:4000]], trainer)
    found = sorted({*CONTROL.findall(text), *(["<|eom_id|>"] if "eot_id" in text else [])} - {*special})
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in found])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=eos, bos_token="<|bos|>", pad_token="<|pad|>", name_or_path=name
    )
