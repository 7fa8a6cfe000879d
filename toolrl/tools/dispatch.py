"""From a `ToolCall` to a `ToolResult`: look-up, validation, the call itself, its time and output limits."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import json
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from toolrl.errors import ConfigError, InfrastructureError, ToolError
from toolrl.tools.definition import Tool, tool
from toolrl.tools.resources import ResourceScope
from toolrl.types import ToolCall, ToolFailure, ToolResult
from toolrl.usage import counting

# Of messages that quote what the model wrote; a tool's output has the tool's own limit.
MAX_ERROR_CHARACTERS = 1000
OPENING_SECONDS = 120.0  # also how late a tool that keeps its own time may answer


class Toolbox:
    """The tools of one environment, by name."""

    def __init__(self, tools: Iterable[Tool | Callable[..., Any]]):
        """Collect tools; plain functions are turned into tools with `tool`'s defaults.

        Raises:
            ToolDefinitionError: A function lacks hints or a docstring.
            ConfigError: Two tools have one name, or different resources under one name.
        """
        self.tools: dict[str, Tool] = {}
        resources: dict[str, Any] = {}
        for entry in tools:
            entry = entry if isinstance(entry, Tool) else tool(entry)
            if entry.name in self.tools:
                raise ConfigError(f"two tools are named {entry.name!r}; rename one with @tool(name=...)")
            self.tools[entry.name] = entry
            for name, resource in entry.resources.items():
                if resources.setdefault(name, resource) is not resource:
                    raise ConfigError(
                        f"two tools have different resources under the name {name!r}; share one or rename a parameter"
                    )

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """One JSON schema per tool, in the order given."""
        return [entry.schema for entry in self.tools.values()]

    async def call(self, call: ToolCall, scope: ResourceScope) -> ToolResult:
        """Run one call. Mistakes of the model's come back as a result with `failure` set.

        Raises:
            InfrastructureError: The tool could not do its work through no fault of the model's.
        """
        start = time.perf_counter()
        scope.overdue_from = math.inf
        failure, limit = None, MAX_ERROR_CHARACTERS
        entry = self.tools.get(call.name)
        if call.error is not None:
            failure, output = ToolFailure.MALFORMED, f"error: {call.error}"
        elif entry is None:
            names = ", ".join(self.tools) or "none"
            failure = ToolFailure.UNKNOWN_TOOL
            output = f"error: there is no tool {call.name!r}; available tools: {names}"
        else:
            try:
                arguments = entry.validate(dict(call.arguments))
            except ToolError as error:
                failure, output = ToolFailure.INVALID_ARGUMENTS, f"error: {error}"
            else:
                limit = entry.max_output_characters
                try:
                    with counting(scope.usage):
                        output = await self._run(entry, arguments, scope)
                except ToolError as error:
                    failure = ToolFailure.TIMEOUT if error.timed_out else ToolFailure.RAISED
                    output = error.observation
                except _TimedOut:
                    failure = ToolFailure.TIMEOUT
                    output = f"error: {entry.name} did not finish within {entry.timeout_seconds:g} seconds"
        content, cut = cut_text(as_text(output), limit)
        return ToolResult(call, content, failure, time.perf_counter() - start, cut)

    async def _run(self, entry: Tool, arguments: dict[str, Any], scope: ResourceScope) -> Any:
        resources: dict[str, Any] = {}
        if entry.resources:
            # Not on the model's time: that a resource opens late is no mistake of its.
            scope.overdue_from = time.monotonic()
            opening = in_thread(lambda: {name: scope.get(name, item) for name, item in entry.resources.items()})
            try:
                resources = await _within(OPENING_SECONDS, opening, entry)
            except _TimedOut:
                names = ", ".join(entry.resources)
                raise InfrastructureError(
                    f"tool {entry.name!r}: {names} did not open within {OPENING_SECONDS:g} seconds"
                ) from None
        work = _outcome(entry, {**arguments, **resources})
        if not entry.keeps_time:
            scope.overdue_from = math.inf
            return await _within(entry.timeout_seconds, work, entry)
        scope.overdue_from = time.monotonic() + entry.timeout_seconds
        try:
            return await _within(entry.timeout_seconds + OPENING_SECONDS, work, entry)
        except _TimedOut:
            raise InfrastructureError(
                f"tool {entry.name!r} has not answered {OPENING_SECONDS:g} seconds after its limit of "
                f"{entry.timeout_seconds:g} seconds"
            ) from None


async def _outcome(entry: Tool, arguments: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(entry.function):
        return await entry.function(**arguments)
    output = await in_thread(lambda: entry.function(**arguments))
    return await output if inspect.isawaitable(output) else output


async def _within(seconds: float, work: Awaitable[Any], entry: Tool) -> Any:
    try:
        async with asyncio.timeout(seconds) as timeout:
            return await work
    except TimeoutError as error:
        if timeout.expired():
            raise _TimedOut from None
        # Not to be taken for the end of a limit of ours, here or further out.
        raise RuntimeError(
            f"tool {entry.name!r} raised {error!r}; raise InfrastructureError for a service that is late, ToolError "
            "for a mistake of the model's"
        ) from error
    except (SystemExit, KeyboardInterrupt) as error:  # would end the event loop for everybody
        raise RuntimeError(f"tool {entry.name!r} raised {error!r}") from error


class _TimedOut(Exception):
    """A call ran past its tool's limit."""


async def in_thread(function: Callable[[], Any]) -> Any:
    """Await a blocking function on a daemon thread of its own.

    A thread pool would be exhausted by tools that hang, and joined at exit; starting a thread costs
    some 50 microseconds.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def resolve(method: Callable[[Any], None], value: Any) -> None:
        if not future.done():  # cancelled by a timeout
            method(value)

    def run() -> None:
        try:
            outcome = functools.partial(resolve, future.set_result, context.run(function))
        except BaseException as error:  # noqa: BLE001 - handed on to whoever awaits
            # The first cannot be raised into a future, the others would end the event loop for everybody.
            if isinstance(error, (StopIteration, SystemExit, KeyboardInterrupt)):
                error = RuntimeError(f"function raised {error!r}")
            outcome = functools.partial(resolve, future.set_exception, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(outcome)

    context = contextvars.copy_context()
    threading.Thread(target=run, name="toolrl-tool", daemon=True).start()
    return await future


def as_text(output: Any) -> str:
    """A tool's return value as the model sees it: text as it is, anything else as JSON.

    Lone surrogates, which no tokenizer can encode, become visible escapes.
    """
    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False, default=str)
    return text.encode("utf-8", "backslashreplace").decode()


def cut_text(text: str, limit: int) -> tuple[str, int]:
    """Cut the middle out of a text longer than `limit` characters; return it and the number cut.

    The marker in the gap comes on top of the limit.
    """
    if len(text) <= limit:
        return text, 0
    head, tail = limit - limit // 4, limit // 4
    cut = len(text) - head - tail
    return f"{text[:head]}\n[... {cut} characters cut ...]\n{text[len(text) - tail :]}", cut
