"""Promises about injected resources: opened when needed, shared as declared, always closed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from toolrl import (
    ConfigError,
    InfrastructureError,
    SandboxFault,
    Task,
    Tool,
    ToolCall,
    ToolResult,
    per_episode,
    per_run,
    tool,
)
from toolrl.support.event_loop import run_sync
from toolrl.tools import Toolbox, dispatch
from toolrl.tools.resources import Resource, ResourceScope

CallTool = Callable[..., ToolResult]


class Handle:
    """Logs what is opened and closed."""

    def __init__(self, log: list[str], name: str = "handle", error: Exception | None = None) -> None:
        self.log, self.name, self.error = log, name, error
        log.append(f"open {name}")

    def close(self) -> None:
        self.log.append(f"close {self.name}")
        if self.error is not None:
            raise self.error


def resource(declared: Any) -> Resource:
    """What `per_episode` and `per_run` really return."""
    assert isinstance(declared, Resource)
    return declared


@pytest.fixture
def log() -> list[str]:
    return []


def test_a_resource_opens_at_the_first_call_that_needs_it_and_only_once(log: list[str]) -> None:
    declared = resource(per_episode(lambda: Handle(log)))
    scope = ResourceScope(Task("t", "p"), ResourceScope())
    assert log == []
    assert scope.state == {}
    assert scope.get("handle", declared) is scope.get("handle", declared)
    assert log == ["open handle"]
    assert list(scope.state) == ["handle"]
    scope.close()
    assert log == ["open handle", "close handle"]


def test_each_episode_has_its_own_and_the_run_shares_one(log: list[str]) -> None:
    own = resource(per_episode(lambda: Handle(log, "own")))
    shared = resource(per_run(lambda: Handle(log, "shared")))
    run = ResourceScope()
    first, second = ResourceScope(Task("a", "p"), run), ResourceScope(Task("b", "p"), run)
    assert first.get("own", own) is not second.get("own", own)
    assert first.get("shared", shared) is second.get("shared", shared)
    assert first.state.keys() == {"own", "shared"}
    first.close()
    second.close()
    assert log == ["open own", "open own", "open shared", "close own", "close own"]
    run.close()
    assert log[-1] == "close shared"


def test_an_opener_may_take_the_task() -> None:
    scope = ResourceScope(Task("t", "p", metadata={"db": "x"}), ResourceScope())
    for_task = resource(per_episode(lambda task: task.metadata["db"]))
    optional = resource(per_episode(lambda size=3: size))
    builtin = resource(per_episode(dict))
    assert scope.get("database", for_task) == "x"
    assert scope.get("size", optional) == 3  # not the task
    assert scope.get("store", builtin) == {}


def test_the_last_opened_is_the_first_closed_and_a_second_close_does_nothing(log: list[str]) -> None:
    scope = ResourceScope()
    for name in "abc":
        scope.get(name, resource(per_episode(lambda name=name: Handle(log, name))))
    scope.close()
    scope.close()
    assert log[3:] == ["close c", "close b", "close a"]


def test_a_failing_close_does_not_keep_others_open(log: list[str]) -> None:
    scope = ResourceScope()
    for name, error in {"a": None, "b": ValueError("stuck"), "c": SandboxFault("gone"), "d": None}.items():
        scope.get(name, resource(per_episode(lambda name=name, error=error: Handle(log, name, error))))
    with pytest.raises(ExceptionGroup) as caught:
        scope.close()
    assert log[4:] == ["close d", "close c", "close b", "close a"]
    assert [str(error) for error in caught.value.exceptions] == ["gone", "stuck"]


def test_infrastructure_faults_while_closing_are_raised_as_one(log: list[str]) -> None:
    scope = ResourceScope()
    scope.get("a", resource(per_episode(lambda: Handle(log, "a", SandboxFault("sandbox gone")))))
    scope.get("b", resource(per_episode(lambda: Handle(log, "b", InfrastructureError("net down")))))
    with pytest.raises(InfrastructureError, match="resources failed to close: net down; sandbox gone"):
        scope.close()


def test_what_cannot_be_closed_is_left_alone() -> None:
    scope = ResourceScope()
    scope.get("store", resource(per_episode(list)))
    scope.close()


def test_a_closed_scope_opens_nothing(log: list[str]) -> None:
    declared = resource(per_episode(lambda: Handle(log)))
    scope = ResourceScope()
    scope.close()
    with pytest.raises(RuntimeError, match="'handle' cannot be opened: its episode or environment is closed"):
        scope.get("handle", declared)
    assert log == []


def test_what_opens_after_its_episode_has_ended_is_closed_at_once(log: list[str]) -> None:
    """A call gave up waiting, the episode went on without it, and then the sandbox came."""
    opening, come, gone = threading.Event(), threading.Event(), threading.Event()

    def open_late() -> Handle:
        opening.set()
        come.wait()
        return Handle(log)

    def ask() -> None:
        with pytest.raises(RuntimeError, match="its episode or environment is closed"):
            scope.get("handle", declared)
        gone.set()

    declared, scope = resource(per_episode(open_late)), ResourceScope()
    threading.Thread(target=ask, daemon=True).start()
    assert opening.wait(30)
    scope.close()  # must not wait for the opener
    come.set()
    assert gone.wait(30)
    assert log == ["open handle", "close handle"]


def test_concurrent_calls_open_a_resource_once(log: list[str]) -> None:
    def open_slowly() -> Handle:
        threading.Event().wait(0.05)  # long enough for the others to arrive
        return Handle(log)

    declared, scope = resource(per_run(open_slowly)), ResourceScope()
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        scope.get("handle", declared)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log == ["open handle"]


def test_a_resource_that_could_not_open_is_tried_again_at_the_next_call(
    call_tool: CallTool, scope: ResourceScope
) -> None:
    attempts: list[int] = []

    def open_at_last() -> str:
        attempts.append(1)
        if len(attempts) < 2:
            raise SandboxFault("no room")
        return "here"

    def use(handle: str = per_episode(open_at_last)) -> str:
        """Use it."""
        return handle

    declared = tool(use)
    with pytest.raises(SandboxFault, match="no room"):
        call_tool(declared)
    assert call_tool(declared).content == "here"


def test_a_resource_that_opens_too_late_is_a_fault(monkeypatch: pytest.MonkeyPatch, scope: ResourceScope) -> None:
    release = threading.Event()

    def use(handle: object = per_episode(lambda: release.wait())) -> str:
        """Use it."""
        return "used"

    monkeypatch.setattr(dispatch, "OPENING_SECONDS", 0.05)
    try:
        with pytest.raises(InfrastructureError, match=r"tool 'use': handle did not open within 0\.05 seconds"):
            run_sync(Toolbox([tool(timeout_seconds=0.01)(use)]).call(ToolCall("use"), scope))
    finally:
        release.set()


def test_the_time_a_resource_takes_to_open_is_not_the_tools(scope: ResourceScope) -> None:
    def open_slowly() -> str:
        threading.Event().wait(0.1)
        return "open"

    async def use(handle: str = per_episode(open_slowly)) -> str:
        """Use it."""
        return handle

    toolbox = Toolbox([tool(timeout_seconds=0.01)(use)])
    assert run_sync(toolbox.call(ToolCall("use"), scope)).content == "open"


def test_two_resources_under_one_name_are_refused() -> None:
    def make_tool(name: str) -> Tool:
        @tool(name=name)
        def use(store: list[int] = per_episode(list)) -> str:
            """Use the store."""
            return ""

        return use

    with pytest.raises(ConfigError, match="different resources under the name 'store'"):
        Toolbox([make_tool("a"), make_tool("b")])
