"""Places where a model's code runs: one contract, one module per backend."""

from toolrl.sandbox.base import ExecError, ExecResult, Sandbox, SandboxLimits
from toolrl.sandbox.levels import Isolation, Level
from toolrl.sandbox.local import LocalSandbox

__all__ = ["ExecError", "ExecResult", "Isolation", "Level", "LocalSandbox", "Sandbox", "SandboxLimits"]
