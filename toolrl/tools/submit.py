"""The submit tool: ends the episode with an answer."""

from __future__ import annotations

from toolrl.tools.definition import tool
from toolrl.types import Ended


@tool
def submit(answer: str) -> Ended:
    """Submit the final answer. This ends the task.

    Args:
        answer: The final answer.
    """
    return Ended("submitted", "submitted", answer)
