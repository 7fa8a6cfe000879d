"""Servers of tools as actors: sandboxes and retrievers, offered on nodes that are made for them.

Workers find them by variables of their environment, which change whenever a server joins or leaves: those of
E2B's SDK for sandboxes (backend "e2b"), and TOOLRL_SERVICE_NAME for the retriever "service:NAME".
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from toolrl.distributed.cluster import node_address
from toolrl.distributed.host import about_here
from toolrl.distributed.settings import SANDBOX, ServiceSettings
from toolrl.sandbox.server import HostSettings, SandboxServer
from toolrl.search.http import service_variable
from toolrl.search.registry import open_retriever
from toolrl.search.server import RetrievalServer


class Service:
    """A server, which Ray runs as an actor."""

    def __init__(self, service: ServiceSettings, key: str, variables: Mapping[str, str] | None = None):
        """Note what to serve; `start` opens it.

        Args:
            service: Which.
            key: What clients must send.
            variables: Of the driver's environment.
        """
        os.environ.update(variables or {})
        self._service, self._key = service, key
        self._open = ExitStack()

    async def start(self) -> dict[str, Any]:
        """Serve, at the node's address; see `about_here`, with the `variables` by which clients find it."""
        return {**about_here(), "variables": await asyncio.to_thread(self._start)}

    def _start(self) -> dict[str, str]:
        settings, key, host = dict(self._service.settings), self._key, node_address()
        if self._service.name == SANDBOX:
            url = self._open.enter_context(SandboxServer(HostSettings(**settings, api_key=key), host=host)).url
            return {"E2B_API_URL": url, "E2B_SANDBOX_URL": url, "E2B_API_KEY": key}
        retriever = open_retriever(settings.pop("retriever"), **settings)
        self._open.callback(retriever.close)
        url = self._open.enter_context(RetrievalServer(retriever, host=host, api_key=key)).url
        return {service_variable(self._service.name): f"{url} {key}"}

    async def alive(self) -> int:
        """Nothing to say but that it is."""
        return 0

    async def close(self) -> None:
        """End the server, and what it holds."""
        await asyncio.to_thread(self._open.close)


def chosen_for(number: int, node_id: str | None, servers: Sequence[Any]) -> Mapping[str, str]:
    """The variables of the server that a worker uses: one on its own node, else they take turns."""
    near = [slot for slot in servers if slot.about["node_id"] == node_id] or servers
    variables: Mapping[str, str] = near[number % len(near)].about["variables"]
    return variables
