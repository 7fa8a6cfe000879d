"""What the ready-made environments share."""

from __future__ import annotations

from typing import Literal

from toolrl import ConfigError

Split = Literal["train", "test"]

# Taken off a right answer for each tool call.
CALL_COST = 0.1

SYSTEM_PROMPT = "Use a tool only if you need it. End with <answer>...</answer>."


def check_split(split: str) -> None:
    """Refuse a split that does not exist."""
    if split not in ("train", "test"):
        raise ConfigError(f"split must be 'train' or 'test', got {split!r}")
