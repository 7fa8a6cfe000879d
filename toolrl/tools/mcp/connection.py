"""A connection as tools and rewards use it: a session, and where episodes share it, its successors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mcp.types.version import MODERN_PROTOCOL_VERSIONS

from toolrl.errors import InfrastructureError, ToolError
from toolrl.tools.mcp.link import Link
from toolrl.tools.mcp.settings import Known, ServerSettings

if TYPE_CHECKING:
    from mcp.types import Tool as ServerTool


class McpConnection:
    """A connection to an MCP server, as `episode.state` holds it for rewards.

    A connection of an episode is never made again: the server may have lost what the episode did. One that episodes
    share is, at the next call.
    """

    def __init__(self, settings: ServerSettings, known: Known, timeout_seconds: float, *, is_shared: bool):
        """Describe it; `open` connects."""
        self._settings, self._known, self._timeout_seconds = settings, known, timeout_seconds
        self._is_shared = is_shared
        self._loop, self._opening = asyncio.get_running_loop(), asyncio.Lock()
        self._link: Link | None = None

    @property
    def folder(self) -> str:
        """The server's own folder, which `{folder}` stands for; empty if its settings do not mention it."""
        return self._link.folder if self._link else ""

    async def open(self) -> Link:
        """Connect if necessary, and check that the tools are those that the model was told about.

        Raises:
            InfrastructureError: The server cannot be reached, or its tools have changed.
        """
        async with self._opening:
            if self._link is None or (self._is_shared and self._link.is_lost):
                self._link = Link(self._settings, self._known)
                try:
                    await self._link.look()
                except BaseException:
                    await self._link.close()
                    raise
            return self._link

    async def call_tool(self, tool: str, arguments: Mapping[str, Any], timeout_seconds: float | None = None) -> str:
        """Call any tool of the server by the server's name for it, and return the result as text.

        Raises:
            ToolError: The tool failed, or did not finish in time.
            InfrastructureError: The server failed.
        """
        link = await self.open()
        return await link.call(tool, arguments, timeout_seconds or self._timeout_seconds)

    def call(self, tool: str, /, **arguments: Any) -> str:
        """`call_tool` for rewards, `prepare` and other plain functions, which wait for it.

        Raises:
            InfrastructureError: The server failed, or the tool did: it was not the model that called it.
            RuntimeError: Called from a coroutine, which would wait for itself.
        """
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("in a coroutine, write: await server.call_tool(name, arguments)")
        try:
            return asyncio.run_coroutine_threadsafe(self.call_tool(tool, arguments), self._loop).result()
        except ToolError as error:
            raise InfrastructureError(
                f"MCP server {self._settings.name!r}: its tool {tool!r} failed, called by the environment: {error}"
            ) from error

    async def aclose(self) -> None:
        """End the session, and with it the process of a stdio server."""
        if self._link is not None and self._loop is asyncio.get_running_loop():
            await self._link.close()


async def first_look(settings: ServerSettings, select: Callable[[list[ServerTool]], list[ServerTool]]) -> Known:
    """Connect once, to learn a server's tools and version.

    Raises:
        InfrastructureError: The server cannot be reached.
    """
    link = Link(settings, Known())
    try:
        tools = select(await link.look())
        client = await link.client()
        is_modern = client.protocol_version in MODERN_PROTOCOL_VERSIONS
        mode = client.protocol_version if is_modern else "legacy"
        return Known(tuple(tools), mode, client.session.discover_result)
    finally:
        await link.close()
