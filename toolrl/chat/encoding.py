"""Renderings to token ids: a text inside a content never becomes a control token, whoever wrote it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from toolrl.errors import TemplateError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# Placeholders for control-token texts inside contents: an index between two private-use characters.
# _OPEN has a placeholder too, so that no content can contain one.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"


class Encoder:
    """Encodes renderings in which the contents were protected.

    Attributes:
        control_ids: The ids of the tokenizer's control tokens, by their texts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        """Prepare the tokenizer's control tokens.

        Raises:
            TemplateError: It is not a fast tokenizer.
        """
        # Some tokenizers add tokens for runs of spaces and line breaks: those are not control tokens.
        self.control_ids = {str(token): id for token, id in tokenizer.get_added_vocab().items() if str(token).strip()}
        longest_first = sorted(self.control_ids, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._protected = [*longest_first, _OPEN]
        self._unprotected = re.compile("|".join(map(re.escape, self._protected)))
        self._placeholder = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
        self._backend, self._plain = _backends(tokenizer)

    def protect(self, text: str, keep: Sequence[str] = ()) -> str:
        """Replace texts of control tokens inside a content with placeholders, which `encode` undoes."""
        return self._unprotected.sub(
            lambda match: (
                match.group() if match.group() in keep else f"{_OPEN}{self._protected.index(match.group())}{_CLOSE}"
            ),
            text,
        )

    def unprotect(self, text: str) -> str:
        """The text with the characters that placeholders replaced."""
        return self._placeholder.sub(lambda match: self._protected[int(match.group(1))], text)

    def protect_all(self, value: Any) -> Any:
        """Protect every text in a JSON value: contents, names that a model made up, tool descriptions."""
        if isinstance(value, str):
            return self.protect(value)
        if isinstance(value, dict):
            return {self.protect(key): self.protect_all(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.protect_all(item) for item in value]
        return value

    def control_after(self, text: str, position: int) -> str:
        """The control token that is next after a position, white space apart; empty if something else is."""
        rest = text[position:].lstrip()
        found = self._control.match(rest)
        return found.group() if found else ""

    def encode(self, text: str) -> list[int]:
        """Encode a rendering. Placeholders become the plain characters that they replaced.

        Only pieces with a placeholder leave the tokenizer's own path: they are cut at control tokens, which no merge
        crosses, and encoded by the same model without added tokens. Lone surrogates, which no tokenizer accepts, become
        question marks.
        """
        text = text.encode("utf-8", "replace").decode()
        if not self._placeholder.search(text):
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        ids: list[int] = []
        position = 0
        for control in [*self._control.finditer(text), None]:
            piece = text[position : control.start() if control else len(text)]
            if self._placeholder.search(piece):
                ids += self._plain.encode(self.unprotect(piece), add_special_tokens=False).ids
            elif piece:
                ids += self._backend.encode(piece, add_special_tokens=False).ids
            if control:
                ids.append(self.control_ids[control.group()])
                position = control.end()
        return ids


def _backends(tokenizer: PreTrainedTokenizerBase) -> tuple[Tokenizer, Tokenizer]:
    """The tokenizer's own model, and a copy without added tokens, for which every text is plain text.

    `tokenizer.encode` gives the same ids through a batch, which takes nearly twice as long.
    """
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise TemplateError(f"the tokenizer {tokenizer.name_or_path!r} is not a fast tokenizer; use one that is")
    state = json.loads(backend.to_str())
    state["truncation"] = state["padding"] = None  # left over from the last call
    own = json.dumps(state)
    state["added_tokens"] = []
    state["post_processor"] = None
    return Tokenizer.from_str(own), Tokenizer.from_str(json.dumps(state))
