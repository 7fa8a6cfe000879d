"""Fixed variants: templates that do the same as a known one without rewriting history.

A template is recognised by its whole text, so that only templates that were compared are replaced. TRL's variants
(trl/chat_templates/*_training.jinja) come first, then toolrl's own, for what TRL's do not fix: a template in the folder
`templates`, or a few edits of the known text. The edits are for conversations with users: what the original shows of a
turn at first, and drops or changes once another user message follows, stays in the history.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from toolrl.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OWN = Path(__file__).parent / "templates"

_KEEP_BY_DEFAULT = (("preserve_thinking | default(false)", "preserve_thinking | default(true)"),)
_DO_NOT_TRUNCATE = (
    (
        "set truncate_history_thinking = truncate_history_thinking if truncate_history_thinking is defined else True",
        "set truncate_history_thinking = truncate_history_thinking if truncate_history_thinking is defined else False",
    ),
)
# Gemma 4's first templates show thoughts next to calls only.
_SHOW_ALL_THOUGHTS = (
    ("thinking_text and loop.index0 > ns_turn.last_user_idx and message.get('tool_calls')", "thinking_text"),
)
_ANALYSIS = '"<|start|>assistant<|channel|>analysis<|message|>" + message.thinking + "<|end|>"'
_FINAL = '"<|start|>assistant<|channel|>final<|message|>" + message.content + '

# By the name of TRL's template: texts that occur once in it, and what replaces them.
EDITS: dict[str, tuple[tuple[str, str], ...]] = {
    "gemma4": _SHOW_ALL_THOUGHTS,
    "gemma4_v3": _SHOW_ALL_THOUGHTS,
    "gemma4_v4": _SHOW_ALL_THOUGHTS,
    "gemma4_v5": (("thinking_text and thinking_gate", "thinking_text"),),
    "glm4moe": (("loop.index0 > ns.last_user_index and reasoning_content", "reasoning_content"),),
    # The model ends an answer with <|return|>, which the original replaces by <|end|> once something follows.
    "gptoss": (
        ("message.content and not future_final_message.found", "message.content"),
        ("message.thinking and not future_final_message.found", "message.thinking"),
        (
            f'{{{{- {_FINAL}"<|end|>" }}}}',
            f'{{{{- ({_ANALYSIS} if message.thinking else "") + {_FINAL}"<|return|>" }}}}',
        ),
    ),
    "lfm2_2_5": _KEEP_BY_DEFAULT,
    "lfm2_2_5_v2": _KEEP_BY_DEFAULT,
    "lfm2_2_5_vl": _KEEP_BY_DEFAULT,
    "nemotron_3_5_lightning": _DO_NOT_TRUNCATE,
    "nemotron_3_nano": _DO_NOT_TRUNCATE,
    # The hint of an effort is in every user message instead of the last one.
    "nemotron_3_super": (*_DO_NOT_TRUNCATE, ("loop.index0 == ns.last_user_idx and low_effort", "low_effort")),
    "nemotron_3_ultra": (*_DO_NOT_TRUNCATE, ("loop.index0 == ns.last_user_idx and medium_effort", "medium_effort")),
}  # fmt: skip


def fixed_variants(text: str) -> Iterator[tuple[str, str]]:
    """Names and sources of the fixed variants of a template; none if its text is not a known one."""
    name = _known().get(text, "")
    original = name.removesuffix("_training")
    training, own = trl_templates() / f"{original}_training.jinja", _OWN / f"{original}.jinja"
    if name == original and training.exists():
        yield f"trl/{training.stem}", training.read_text(encoding="utf-8")
    if own.exists():
        yield f"toolrl/{original}", own.read_text(encoding="utf-8")
    elif original in EDITS:
        text = (trl_templates() / f"{original}.jinja").read_text(encoding="utf-8")
        for old, new in EDITS[original]:
            text = text.replace(old, new)
        yield f"toolrl/{original}", text


def named_template(name: str) -> str:
    """The template with a name: `chatml` and `plain` of toolrl, or one of TRL's, such as `qwen2.5` and `llama3`.

    Raises:
        ConfigError: There is none with this name.
    """
    stem = re.sub(r"[.-]", "_", name)
    for path in (_OWN / f"{stem}.jinja", trl_templates() / f"{stem}.jinja"):
        if path.exists():
            return path.read_text(encoding="utf-8")
    known = sorted({path.stem for folder in (_OWN, trl_templates()) for path in folder.glob("*.jinja")})
    near = difflib.get_close_matches(stem, known, n=5, cutoff=0.5) or known
    raise ConfigError(f"no chat template is named {name!r}; did you mean {', '.join(near)}, or the path of a file?")


def read_template(name: str) -> str | None:
    """The text of a chat template, a file's or one with a name; None without a name.

    Raises:
        ConfigError: It cannot be read, or none has this name.
    """
    if not name:
        return None
    path = Path(name)
    if path.suffix != ".jinja" and path.name == name and not path.exists():
        return named_template(name)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the chat template {name!r} cannot be read: {error}") from None


def plain_template(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Name and source of the template for a tokenizer without one: ChatML if it has its tokens, else words.

    A conversation begins with BOS if the tokenizer begins texts with it.
    """
    chatml = "<|im_start|>" in tokenizer.get_added_vocab() and tokenizer.eos_token == "<|im_end|>"
    name = "chatml" if chatml else "plain"
    begins = tokenizer.bos_token_id is not None and tokenizer("?")["input_ids"][0] == tokenizer.bos_token_id
    return name, "{{- bos_token -}}\n" * begins + named_template(name)


def trl_templates() -> Path:
    """The folder of TRL's templates, found without importing TRL."""
    package = importlib.util.find_spec("trl")
    return Path(package.origin).parent / "chat_templates" if package and package.origin else _OWN


@cache
def _known() -> dict[str, str]:
    """Names of TRL's templates, by their texts."""
    paths = sorted(trl_templates().glob("*.jinja")) if trl_templates() != _OWN else []
    return {path.read_text(encoding="utf-8"): path.stem for path in paths}
