"""toolrl's tools as a server of MCP offers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcp.types import CallToolResult, ListToolsResult, TextContent, Tool as ServerTool


def offered(schemas: Sequence[Mapping[str, Any]]) -> ListToolsResult:
    """The list of some tools.

    Args:
        schemas: As in `Toolbox.schemas`.
    """
    functions = [schema["function"] for schema in schemas]
    return ListToolsResult(
        tools=[
            ServerTool(name=function["name"], description=function["description"], input_schema=function["parameters"])
            for function in functions
        ]
    )


def answered(text: str, *, is_error: bool = False) -> CallToolResult:
    """A call's result."""
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=is_error)
