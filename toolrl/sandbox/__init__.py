"""Places where a model's code runs: one contract, one module per backend."""

from toolrl.sandbox.base import (
    Display,
    ExecError,
    ExecResult,
    Mount,
    OutputListener,
    Sandbox,
    SandboxLimits,
    Session,
)
from toolrl.sandbox.e2b import E2BSandbox, E2BSettings
from toolrl.sandbox.local.levels import Isolation, Level
from toolrl.sandbox.local.sandbox import LocalSandbox

__all__ = [
    "Display",
    "E2BSandbox",
    "E2BSettings",
    "ExecError",
    "ExecResult",
    "Isolation",
    "Level",
    "LocalSandbox",
    "Mount",
    "OutputListener",
    "Sandbox",
    "SandboxLimits",
    "Session",
]
