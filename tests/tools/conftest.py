"""Tool calls as the model makes them, without an environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from toolrl import Task, Tool, ToolCall, ToolResult
from toolrl.support.event_loop import run_sync
from toolrl.tools import Toolbox
from toolrl.tools.resources import ResourceScope

CallTool = Callable[..., ToolResult]


@pytest.fixture
def scope() -> Iterator[ResourceScope]:
    """The scope of one episode; its resources close after the test."""
    scope = ResourceScope(Task("t", "p"), ResourceScope())
    yield scope
    scope.close()


@pytest.fixture
def call_tool(scope: ResourceScope) -> CallTool:
    """Calls a tool, or a plain function as a tool, with arguments, in one episode."""

    def call(tool: Tool | Callable[..., Any], /, **arguments: Any) -> ToolResult:
        toolbox = Toolbox([tool])
        return run_sync(toolbox.call(ToolCall(next(iter(toolbox.tools)), arguments), scope))

    return call
