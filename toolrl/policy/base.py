"""The one interface to whatever generates tokens."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Protocol

from toolrl.types import Sample, Sampling


class Policy(Protocol):
    """Generates assistant turns. Submissions are independent; the policy batches them as it likes."""

    def submit(self, prompt_ids: list[int], sampling: Sampling) -> Future[Sample]:
        """Continue a conversation.

        Args:
            prompt_ids: (P,) everything so far: prompt, samples, observations.
            sampling: How to draw.

        Returns:
            A future of the turn. Cancelling it abandons the generation. It raises `PolicyFault` if
            the generator fails or is unreachable.
        """
        ...

    def generating(self) -> AbstractContextManager[None]:
        """Entered around a batch of submissions, for instance to put a model into evaluation mode."""
        ...

    def close(self) -> None:
        """Release threads, processes and memory. Safe to call twice."""
        ...
