"""Local sandboxes behind E2B's protocol, for E2B's SDK and our backend on top of it."""

from toolrl.sandbox.server.app import SandboxServer
from toolrl.sandbox.server.hosting import HostSettings

__all__ = ["HostSettings", "SandboxServer"]
