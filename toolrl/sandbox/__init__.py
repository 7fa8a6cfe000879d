"""Sandboxes for a model's code: one contract, one package per backend."""

from toolrl.sandbox.backend import SandboxFactory, open_sandbox, register_backend
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
from toolrl.sandbox.trees import FileTree

register_backend("local", LocalSandbox)
register_backend("e2b", E2BSandbox)

__all__ = [
    "Display",
    "E2BSandbox",
    "E2BSettings",
    "ExecError",
    "ExecResult",
    "FileTree",
    "Isolation",
    "Level",
    "LocalSandbox",
    "Mount",
    "OutputListener",
    "Sandbox",
    "SandboxFactory",
    "SandboxLimits",
    "Session",
    "open_sandbox",
    "register_backend",
]
