"""Environments behind an address: OpenEnv's protocol for its clients, and plain HTTP with JSON for everybody else."""

from toolrl.interop.serve.host import ServeLimits
from toolrl.interop.serve.server import EnvironmentServer

__all__ = ["EnvironmentServer", "ServeLimits"]
