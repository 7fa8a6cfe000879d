"""Tools of MCP servers."""

from toolrl.tools.mcp.tools import mcp_tools

__all__ = ["mcp_tools"]
