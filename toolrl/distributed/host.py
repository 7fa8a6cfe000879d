"""A policy on some node, whose weights a trainer replaces: what workers and engines share."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from toolrl.chat import Renderer
from toolrl.distributed.cluster import node_id
from toolrl.distributed.gate import Gate
from toolrl.distributed.work import Playing, versions
from toolrl.errors import ConfigError
from toolrl.policy import ChatPolicy, Policy, open_policy


class PolicyHost:
    """What Ray runs as an actor; without Ray, an ordinary object."""

    def __init__(self, playing: Playing, variables: Mapping[str, str] | None = None):
        """Note what to open; `start` opens it.

        Args:
            playing: Names the policy.
            variables: Of the driver's environment, for what is opened here.
        """
        os.environ.update(variables or {})
        self._playing = playing
        self._open = ExitStack()
        self._gate: Gate | None = None

    async def load(self, weights: Mapping[str, Any], version: int) -> None:
        """Sample with other weights; turns in flight end first, and the next ones wait."""
        if self._gate is None:
            raise ConfigError("this policy has no weights that could be set")
        await asyncio.to_thread(self._gate.load, weights, version)

    async def close(self) -> None:
        """Close all that was opened."""
        await asyncio.to_thread(self._open.close)

    def _open_policy(self, renderer: Renderer | None) -> Policy | ChatPolicy:
        """The policy, behind a gate if it samples tokens."""
        assert self._playing.policy is not None
        opened = open_policy(self._playing.policy, renderer)
        self._open.callback(opened.close)
        if isinstance(opened, ChatPolicy):
            return opened
        self._open.enter_context(opened.generating())
        self._gate = Gate(opened)
        return self._gate


def about_here() -> dict[str, Any]:
    """What an actor says about itself: its node's name and id, its process, and its versions."""
    return {"node": socket.gethostname(), "node_id": node_id(), "pid": os.getpid(), "versions": versions()}
