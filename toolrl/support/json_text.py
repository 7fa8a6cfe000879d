"""JSON as text within a line of a file: readable, and read back whatever Python can write."""

from __future__ import annotations

import json
from typing import Any

import msgspec


def json_text(value: Any) -> str:
    """Readable JSON; a lone surrogate, which UTF-8 cannot encode, stays an escape."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def decode_json(text: str, decoder: Any) -> Any:
    """Read JSON with a decoder of msgspec, NaN and lone surrogates included."""
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):  # only Python's reader accepts those
        return msgspec.convert(json.loads(text), decoder.type)
