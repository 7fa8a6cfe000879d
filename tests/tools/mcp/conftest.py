"""MCP servers as processes of their own, and a way to call their tools."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from toolrl import Task, Tool, ToolCall, ToolResult
from toolrl.support.event_loop import run_sync
from toolrl.tools import Toolbox, mcp_tools
from toolrl.tools.resources import ResourceScope

Call = Callable[..., ToolResult]


def raw_command(*tools: dict[str, Any]) -> list[str]:
    """The command of a server written by hand, with these tools besides `act`."""
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("raw_server.py")), json.dumps(tools)]


@pytest.fixture(scope="module")
def act() -> Tool:
    """The tool of a server that does what its arguments say; one process for each episode."""
    return mcp_tools(command=raw_command(), name="raw", timeout_seconds=20)[0]


@pytest.fixture(scope="module")
def shared() -> Tool:
    """The same with one process for all tests of a module, which must not end it."""
    return mcp_tools(command=raw_command(), name="raw", timeout_seconds=20, lifetime="run")[0]


@pytest.fixture(scope="module")
def run_scope() -> Iterator[ResourceScope]:
    """The scope of a run that lasts as long as the module."""
    scope = ResourceScope()
    yield scope
    scope.close()


@pytest.fixture
def in_episode(run_scope: ResourceScope) -> Iterator[Call]:
    """Call a tool in an episode that lasts as long as the test."""
    scope = ResourceScope(Task("t", "p"), run_scope)

    def call(tool: Tool, **arguments: Any) -> ToolResult:
        return run_sync(Toolbox([tool]).call(ToolCall(tool.name, arguments), scope))

    yield call
    scope.close()
