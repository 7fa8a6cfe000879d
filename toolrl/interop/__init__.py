"""Environments written for other libraries, played as they are; and toolrl's tools, for MCP clients."""

from toolrl.interop.gymnasium import Game, GameEnv, from_gymnasium
from toolrl.interop.harbor import HarborEnv, HarborTask, read_harbor_tasks
from toolrl.interop.openenv import from_openenv
from toolrl.interop.trl import from_trl
from toolrl.interop.verifier import Verifier

__all__ = [
    "Game",
    "GameEnv",
    "HarborEnv",
    "HarborTask",
    "Verifier",
    "from_gymnasium",
    "from_openenv",
    "from_trl",
    "read_harbor_tasks",
]
