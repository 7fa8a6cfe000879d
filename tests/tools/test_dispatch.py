"""Promises about calls: what comes back to the model, what propagates, and that nothing hangs."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from toolrl import ConfigError, InfrastructureError, ToolCall, ToolError, ToolFailure, ToolResult, tool
from toolrl.support.event_loop import run_sync
from toolrl.support.waiting import in_thread
from toolrl.tools import Toolbox, dispatch
from toolrl.tools.dispatch import cut_text
from toolrl.tools.resources import ResourceScope
from toolrl.tools.results import as_text

CallTool = Callable[..., ToolResult]


@tool
def double(x: int) -> int:
    """Double a number.

    Args:
        x: The number.
    """
    return 2 * x


@tool
async def double_later(x: int) -> int:
    """Double a number.

    Args:
        x: The number.
    """
    await asyncio.sleep(0)
    return 2 * x


def raising(error: BaseException, asynchronous: bool = False) -> Any:
    """A tool that raises."""

    def fail() -> str:
        """Fail."""
        raise error

    async def fail_later() -> str:
        """Fail."""
        raise error

    return tool(fail_later if asynchronous else fail)


BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


# ---- results


@pytest.mark.parametrize("function", [double, double_later], ids=["sync", "async"])
def test_a_call_gives_what_the_function_returns(call_tool: CallTool, function: Any) -> None:
    result = call_tool(function, x=4)
    assert (result.content, result.failure, result.cut_characters) == ("8", None, 0)
    assert result.call.arguments == {"x": 4}


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("plain\ntext", "plain\ntext"),
        ({"name": "naïve 漢", "n": [1, None]}, '{"name": "naïve 漢", "n": [1, null]}'),
        (None, "null"),
        ("lone \ud800 surrogate", "lone \\ud800 surrogate"),
        (["\udfff"], '["\\udfff"]'),
    ],
    ids=ascii,
)
def test_the_model_sees_text_as_it_is_and_anything_else_as_json(output: Any, text: str) -> None:
    assert as_text(output) == text
    as_text(output).encode()


def test_an_awaitable_from_a_plain_function_is_awaited(call_tool: CallTool) -> None:
    @functools.wraps(double_later.function)
    def wrapped(**arguments: Any) -> Any:
        return double_later.function(**arguments)

    assert call_tool(wrapped, x=4).content == "8"


def test_plain_functions_become_tools_and_keep_their_order(scope: ResourceScope) -> None:
    toolbox = Toolbox([double_later, double.function])
    assert [schema["function"]["name"] for schema in toolbox.schemas] == ["double_later", "double"]
    assert run_sync(toolbox.call(ToolCall("double", {"x": 1}), scope)).content == "2"


def test_two_tools_with_the_same_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"two tools are named 'double'; rename one with @tool\(name=...\)"):
        Toolbox([double, tool(name="double")(double_later.function)])


# ---- the model's mistakes


@pytest.mark.parametrize(
    ("call", "failure", "content"),
    [
        (ToolCall("", error="not JSON"), ToolFailure.MALFORMED, "error: not JSON"),
        (ToolCall("double", {"x": 1}, error="broken"), ToolFailure.MALFORMED, "error: broken"),
        (
            ToolCall("triple", {"x": 1}),
            ToolFailure.UNKNOWN_TOOL,
            "error: there is no tool 'triple'; available tools: double, double_later",
        ),
        (
            ToolCall("double", {"x": "1"}),
            ToolFailure.INVALID_ARGUMENTS,
            "error: invalid arguments for double: x: Input should be a valid integer",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, ToolFailure) else "",
)
def test_a_call_that_cannot_run_is_answered_with_what_is_wrong(
    scope: ResourceScope, call: ToolCall, failure: ToolFailure, content: str
) -> None:
    result = run_sync(Toolbox([double, double_later]).call(call, scope))
    assert (result.failure, result.content, result.call) == (failure, content, call)


def test_without_tools_the_model_is_told_that_there_are_none(scope: ResourceScope) -> None:
    result = run_sync(Toolbox([]).call(ToolCall("double"), scope))
    assert result.content == "error: there is no tool 'double'; available tools: none"


@BOTH
def test_a_tool_error_goes_back_to_the_model(call_tool: CallTool, asynchronous: bool) -> None:
    result = call_tool(raising(ToolError("no such page"), asynchronous))
    assert (result.failure, result.content) == (ToolFailure.RAISED, "error: no such page")


@pytest.mark.parametrize(
    "call",
    [
        ToolCall("x" * 50_000),
        ToolCall("double", {"y" * 50_000: 1}),
        ToolCall("double", {f"y{index}": 1 for index in range(9000)}),
        ToolCall("", error="z" * 50_000),
    ],
    ids=["name", "argument", "arguments", "error"],
)
def test_what_the_model_wrote_is_not_quoted_back_at_any_length(scope: ResourceScope, call: ToolCall) -> None:
    result = run_sync(Toolbox([double]).call(call, scope))
    assert len(result.content) < 1100
    assert result.cut_characters > 40_000


def test_a_long_output_is_cut_in_the_middle_and_says_so(call_tool: CallTool) -> None:
    @tool(max_output_characters=100)
    def long() -> str:
        """Say much."""
        return "a" * 500 + "b" * 500

    result = call_tool(long)
    assert result.cut_characters == 900
    assert result.content == "a" * 75 + "\n[... 900 characters cut ...]\n" + "b" * 25


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 9, 10])
def test_what_is_cut_and_what_is_kept_add_up(limit: int) -> None:
    text = "0123456789"
    shown, cut = cut_text(text, limit)
    head, _, tail = shown.partition(f"\n[... {cut} characters cut ...]\n")
    assert len(head) + cut + len(tail) == len(text)
    assert text.startswith(head)
    assert text.endswith(tail)


# ---- failures that the model did not cause


@BOTH
@pytest.mark.parametrize("error", [ZeroDivisionError("bug"), KeyError("bug")], ids=repr)
def test_any_other_exception_is_a_bug_and_propagates(call_tool: CallTool, error: Exception, asynchronous: bool) -> None:
    with pytest.raises(type(error), match="bug"):
        call_tool(raising(error, asynchronous))


@BOTH
def test_an_infrastructure_error_propagates(call_tool: CallTool, asynchronous: bool) -> None:
    with pytest.raises(InfrastructureError, match="backend down"):
        call_tool(raising(InfrastructureError("backend down"), asynchronous))


@BOTH
def test_a_timeout_that_the_tool_raises_is_not_taken_for_its_limit(call_tool: CallTool, asynchronous: bool) -> None:
    with pytest.raises(TimeoutError, match="socket") as raised:
        call_tool(raising(TimeoutError("socket"), asynchronous))
    assert "raise InfrastructureError for a service that fails" in raised.value.__notes__[-1]


@BOTH
@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt(), StopIteration("x")], ids=repr)
def test_a_tool_that_tries_to_end_the_program_is_a_bug_and_leaves_the_loop_running(
    call_tool: CallTool, error: BaseException, asynchronous: bool
) -> None:
    with pytest.raises(RuntimeError, match="raised"):
        call_tool(raising(error, asynchronous))
    assert call_tool(double, x=1).content == "2"


# ---- time


def test_a_sync_tool_that_hangs_is_left_behind_at_its_limit(call_tool: CallTool) -> None:
    release = threading.Event()

    @tool(timeout_seconds=0.05)
    def hang() -> str:
        """Wait."""
        release.wait()
        return "late"

    result = call_tool(hang)
    release.set()
    assert (result.failure, result.content) == (ToolFailure.TIMEOUT, "error: hang did not finish within 0.05 seconds")


def test_a_tool_that_keeps_its_own_time_has_some_more_and_hanging_then_is_a_fault(
    call_tool: CallTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    @tool(timeout_seconds=0.05, keeps_time=True)
    def work(seconds: float) -> str:
        """Wait.

        Args:
            seconds: How long.
        """
        return "late" if release.wait(seconds) else "done"

    assert call_tool(work, seconds=0.1).content == "done"
    monkeypatch.setattr(dispatch, "OPENING_SECONDS", 0.05)
    try:
        with pytest.raises(InfrastructureError, match=r"'work' has not answered 0\.05 seconds after its limit"):
            call_tool(work, seconds=3600.0)
    finally:
        release.set()


def test_an_async_tool_is_cancelled_at_its_limit_and_may_clean_up(call_tool: CallTool) -> None:
    cleaned = threading.Event()

    @tool(timeout_seconds=0.05)
    async def hang() -> str:
        """Wait."""
        try:
            await asyncio.sleep(3600)
        finally:
            cleaned.set()
        return "late"

    result = call_tool(hang)
    assert result.failure is ToolFailure.TIMEOUT
    assert cleaned.is_set()


def test_hanging_tools_do_not_hold_up_others(scope: ResourceScope) -> None:
    """More of them than a thread pool has threads."""
    release = threading.Event()

    @tool(timeout_seconds=30.0)
    def hang() -> str:
        """Wait."""
        release.wait()
        return "done"

    async def play() -> tuple[str, list[str]]:
        toolbox = Toolbox([hang, double])
        hanging = [asyncio.create_task(toolbox.call(ToolCall("hang"), scope)) for _ in range(64)]
        await asyncio.sleep(0)
        quick = await toolbox.call(ToolCall("double", {"x": 1}), scope)
        release.set()
        return quick.content, [result.content for result in await asyncio.gather(*hanging)]

    assert run_sync(play()) == ("2", ["done"] * 64)


def test_an_exception_of_a_thread_keeps_its_traceback() -> None:
    async def fail() -> Any:
        return await in_thread(lambda: [].pop())

    with pytest.raises(IndexError) as caught:
        run_sync(fail())
    names = []
    traceback = caught.value.__traceback__
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert "<lambda>" in names
