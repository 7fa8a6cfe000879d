"""An environment's tools, served by MCP: its author can try them from any MCP client.

Each connection is an episode of one task: its resources open at the first call that needs them, and close with the
connection. The task is in the server's instructions.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server as SdkServer
from mcp.server.stdio import stdio_server
from mcp.types import (
    INTERNAL_ERROR,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
)
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers

from toolrl.env import ToolEnv
from toolrl.episode import EpisodeSession
from toolrl.errors import InfrastructureError
from toolrl.support.serving import Refusal, Server, refuse_browsers
from toolrl.tools.mcp.offered import answered, offered
from toolrl.types import Message, StopReason, Task, ToolCall

_MAX_LINE_BYTES = 1 << 24


class _Episode:
    """An episode that a client plays, call by call."""

    def __init__(self, session: EpisodeSession):
        self._session = session
        self._one_call = asyncio.Lock()  # clients may call again before the last call has been answered
        self._has_ended = False

    async def call(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        async with self._one_call:
            if self._has_ended:
                return answered("the episode has ended; connect again for another", is_error=True)
            step = await self._session.advance(Message("assistant", "", (ToolCall(name, arguments),)))
        result = step.results[0]
        self._has_ended = step.stop is StopReason.TOOL
        text = f"{result.content}\n(the episode has ended)" if self._has_ended else result.content
        return answered(text.strip(), is_error=result.failure is not None)

    async def close(self) -> None:
        await self._session.close()


def tool_server(env: ToolEnv, task: Task) -> SdkServer[AsyncExitStack]:
    """An MCP server with the tools of an environment, for any transport.

    Args:
        env: The environment.
        task: The task that all its episodes have.
    """
    episodes: dict[str | None, _Episode] = {}

    @contextlib.asynccontextmanager
    async def lifespan(server: SdkServer[AsyncExitStack]) -> AsyncIterator[AsyncExitStack]:
        async with AsyncExitStack() as stack:
            yield stack

    async def list_tools(
        context: ServerRequestContext[AsyncExitStack], params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return offered(env.toolbox.schemas)

    async def call_tool(context: ServerRequestContext[AsyncExitStack], params: CallToolRequestParams) -> CallToolResult:
        # The SDK names the connection's stack as the place to clean up, but hands handlers no public way to it.
        connection = context.session._connection
        key = connection.session_id  # None on stdio, where the process has one connection
        if key not in episodes:
            episodes[key] = episode = _Episode(env.open_episode(task))
            stack = context.lifespan_context if key is None else connection.exit_stack
            stack.push_async_callback(episode.close)
            stack.callback(episodes.pop, key)
        try:
            return await episodes[key].call(params.name, params.arguments or {})
        except InfrastructureError as error:
            raise MCPError(INTERNAL_ERROR, str(error)) from error

    instructions = f"{env.system_prompt}\n\nThe task ({task.id}):\n{task.prompt}".strip()
    return SdkServer(
        "toolrl", instructions=instructions, lifespan=lifespan, on_list_tools=list_tools, on_call_tool=call_tool
    )


async def serve_stdio(env: ToolEnv, task: Task) -> None:
    """Serve one connection over this process's stdin and stdout, until stdin is closed."""
    server = tool_server(env, task)
    # The SDK reads on a thread, which an interrupt would have to wait for.
    reader = asyncio.StreamReader(limit=_MAX_LINE_BYTES)
    wire = os.fdopen(os.dup(0), "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), wire
    )

    async def lines() -> AsyncIterator[str]:
        while line := await reader.readline():
            yield line.decode(errors="replace")

    with contextlib.closing(transport):
        async with stdio_server(stdin=lines()) as (incoming, outgoing):  # type: ignore[arg-type] # it iterates over lines
            await server.run(incoming, outgoing, server.create_initialization_options())


class ToolServer(Server):
    """Serves an environment's tools over streamable HTTP on this machine, one episode for each session.

    Attributes:
        url: The address for clients.
    """

    def __init__(self, env: ToolEnv, task: Task, *, port: int = 0):
        """Listen on a port; 0 takes a free one.

        Raises:
            ConfigError: The port is in use.
        """
        host = "127.0.0.1"

        def guard(headers: Headers) -> None:
            refuse_browsers(headers, host)
            # Later versions have no sessions, and so no episodes. Clients fall back to one that has.
            if headers.get("mcp-protocol-version", HANDSHAKE_PROTOCOL_VERSIONS[0]) not in HANDSHAKE_PROTOCOL_VERSIONS:
                raise Refusal(400, f"supported versions: {', '.join(HANDSHAKE_PROTOCOL_VERSIONS)}")

        app = tool_server(env, task).streamable_http_app(host=host)
        super().__init__(app, host=host, port=port, name="toolrl-mcp", guard=guard, lifespan=True)
        self.start()
        self.url += "/mcp"
