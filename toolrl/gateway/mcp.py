"""The environment's tools over MCP, for programs in processes of their own: the gateway's `/mcp`.

The key is the episode's, as for calls of the model, so requests need no session of the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server as SdkServer
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
)
from starlette.applications import Starlette
from starlette.requests import Request

from toolrl.errors import InfrastructureError
from toolrl.gateway.tools import EpisodeOver, ToolCalls, ToolMistake
from toolrl.tools.mcp.offered import answered, offered
from toolrl.types import ToolCall

PATH = "/mcp"
_MAX_BODY_BYTES = 16 << 20


def tools_app(calls_of: Callable[[Request], ToolCalls]) -> Starlette:
    """An application with the tools of any number of episodes at `PATH`; its lifespan must be run.

    Args:
        calls_of: The calls of the episode whose key a request has; it was checked.
    """

    async def list_tools(
        context: ServerRequestContext[Any, Request], params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return offered(_calls(context).schemas)

    async def call_tool(context: ServerRequestContext[Any, Request], params: CallToolRequestParams) -> CallToolResult:
        try:
            call = ToolCall(params.name, params.arguments or {})
            return answered(await _calls(context).run_from_elsewhere(call))
        except (ToolMistake, EpisodeOver) as error:
            return answered(str(error), is_error=True)
        except InfrastructureError as error:
            raise MCPError(INTERNAL_ERROR, str(error)) from error

    def _calls(context: ServerRequestContext[Any, Request]) -> ToolCalls:
        if context.request is None:
            raise MCPError(INVALID_REQUEST, "only requests over HTTP have a key")
        return calls_of(context.request)

    server: SdkServer[Any] = SdkServer("toolrl", on_list_tools=list_tools, on_call_tool=call_tool)
    return server.streamable_http_app(
        streamable_http_path=PATH,
        json_response=True,
        stateless_http=True,
        max_request_body_size=_MAX_BODY_BYTES,
        # The key keeps web pages out, and a sandbox reaches this by another name.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
