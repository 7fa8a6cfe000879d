"""Local sandboxes behind E2B's protocol, for E2B's own SDK and for our backend that uses it."""

from toolrl.sandbox.server.hosting import HostSettings
from toolrl.sandbox.server.http import SandboxServer

__all__ = ["HostSettings", "SandboxServer"]
