"""Local sandboxes behind E2B's protocol, for E2B's own SDK and for our backend that uses it."""

from toolrl.sandbox.server.app import SandboxServer
from toolrl.sandbox.server.hosting import HostSettings

__all__ = ["HostSettings", "SandboxServer"]
