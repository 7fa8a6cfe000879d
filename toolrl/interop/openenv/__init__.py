"""Environments behind an OpenEnv server as a `ToolEnv`, over its protocol; openenv itself is not installed.

Read in openenv 0.10, `core/env_client.py` and `core/mcp_client.py`. An episode has one connection (`/ws`), which is a
session of the server. The model's calls become actions:

- A server that lists tools (by MCP) has those tools.
- Any other has one tool with the fields of its action's schema.

What the model says without a call goes to the server's tool `answer` or `say`, where it has one with a single text: a
server of toolrl's has; or to the field of the action that `words=` names. Elsewhere it ends the episode. The episode is
worth the sum of the server's rewards.

Told apart: an action that the server refuses, and a tool that reports an error, are the model's mistakes. A connection
that breaks, a server that is full or does not answer, and an error of the server's in a step are faults.

Not supported: environments that ignore `reset(seed=)` (the episodes of a group must begin alike), observations that are
not text or JSON (images), and simulated time that goes on between steps.
"""

from toolrl.interop.openenv.environment import from_openenv

__all__ = ["from_openenv"]
