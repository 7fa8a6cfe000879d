"""Environments written for other libraries, played as they are; and toolrl's tools, for MCP clients."""

from toolrl.interop.trl import from_trl

__all__ = ["from_trl"]
