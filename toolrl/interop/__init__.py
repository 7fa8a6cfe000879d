"""Environments written for other libraries, played as they are; and toolrl's tools, for MCP clients."""

from toolrl.interop.harbor import HarborEnv, HarborTask, read_harbor_tasks
from toolrl.interop.trl import from_trl
from toolrl.interop.verifier import Verifier

__all__ = ["HarborEnv", "HarborTask", "Verifier", "from_trl", "read_harbor_tasks"]
