"""From a `ToolCall` to a `ToolResult`: look-up, validation, the call itself, its limits on time and output."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from toolrl.errors import ConfigError, InfrastructureError, ToolDefinitionError, ToolError
from toolrl.support.usage import counting
from toolrl.support.waiting import TookTooLong, in_thread, within
from toolrl.tools.definition import Tool
from toolrl.tools.resources import Resource, ResourceScope
from toolrl.tools.results import as_text
from toolrl.tools.toolkit import tools_of
from toolrl.types import Ended, ToolCall, ToolFailure, ToolResult

# For errors that quote what the model wrote; a tool's output has the tool's own limit.
MAX_ERROR_CHARACTERS = 1000
OPENING_SECONDS = 120.0  # for resources to open; also how late a tool with `keeps_time` may answer


class Toolbox:
    """The tools of one environment, by name."""

    def __init__(self, tools: Iterable[Tool | Callable[..., Any] | Sequence[Tool]]):
        """Collect tools; plain functions and classes become tools with the defaults of `tool` and `toolkit`.

        Raises:
            ToolDefinitionError: Something cannot become a tool; see `tool` and `toolkit`.
            ConfigError: Two tools have the same name, or two resources have the same parameter name.
        """
        if callable(tools) or isinstance(tools, (Tool, str, Mapping)) or not isinstance(tools, Iterable):
            raise ToolDefinitionError(
                f"tools must be a list of functions and tools, got {tools!r:.80}; write tools=[...]"
            )
        self.tools: dict[str, Tool] = {}
        self.resources: dict[str, Resource] = {}
        for entry in tools_of(tools):
            if entry.name in self.tools:
                raise ConfigError(
                    f"two tools are named {entry.name!r}; rename one with @tool(name=...), or a method in its class"
                )
            self.tools[entry.name] = entry
            self.share(entry.resources)

    def share(self, resources: Mapping[str, Resource]) -> None:
        """Add resources to those of the tools: of a further tool, or of the environment's user.

        Raises:
            ConfigError: Another resource has the same name.
        """
        for name, resource in resources.items():
            if self.resources.setdefault(name, resource) is not resource:
                raise ConfigError(
                    f"two tools have different resources under the name {name!r}; share one or rename a parameter "
                    f"(each per_episode(...) is a new one: write shared = per_episode(...) once, and {name}=shared "
                    "twice)"
                )

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """One JSON schema per tool, in the order given."""
        return [entry.schema for entry in self.tools.values()]

    async def call(self, call: ToolCall, scope: ResourceScope) -> ToolResult:
        """Run one call. The model's mistakes come back as results with `failure` set.

        Raises:
            InfrastructureError: The tool could not do its work, and the model did not cause it.
        """
        start = time.perf_counter()
        failure, limit = None, MAX_ERROR_CHARACTERS
        output: str | Ended
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
                except OSError as error:  # its own timeout, a refused connection ...
                    error.add_note(
                        "raise InfrastructureError for a service that fails, ToolError for the model's mistake"
                    )
                    raise
                except TookTooLong:
                    failure = ToolFailure.TIMEOUT
                    output = f"error: {entry.name} did not finish within {entry.timeout_seconds:g} seconds"
        ended = output if isinstance(output, Ended) else None
        content, cut = cut_text(as_text(output.text if isinstance(output, Ended) else output), limit)
        ended = ended and replace(ended, text=content)
        return ToolResult(call, content, failure, time.perf_counter() - start, cut, ended)

    async def _run(self, entry: Tool, arguments: dict[str, Any], scope: ResourceScope) -> str | Ended:
        resources: dict[str, Any] = {}
        what = f"tool {entry.name!r}"
        if entry.resources:
            # Not on the tool's clock: the model did not cause a resource to open late.
            loop = asyncio.get_running_loop()

            def open_all() -> dict[str, Any]:
                return {name: scope.get(name, item, loop) for name, item in entry.resources.items()}

            try:
                resources = await within(OPENING_SECONDS, f"{what} (opening)", lambda: in_thread(open_all))
            except TookTooLong:
                names = ", ".join(entry.resources)
                raise InfrastructureError(f"{what}: {names} did not open within {OPENING_SECONDS:g} seconds") from None

        async def work() -> str | Ended:
            if inspect.iscoroutinefunction(entry.function):
                return _readable(await entry.function(**arguments, **resources), entry.name)

            def run() -> Any:  # converts to text on the thread, too
                output = entry.function(**arguments, **resources)
                return output if inspect.isawaitable(output) else _readable(output, entry.name)

            output = await in_thread(run)
            return _readable(await output, entry.name) if inspect.isawaitable(output) else output

        if not entry.keeps_time:
            return await within(entry.timeout_seconds, what, work)
        try:
            return await within(entry.timeout_seconds + OPENING_SECONDS, what, work)
        except TookTooLong:
            raise InfrastructureError(
                f"{what} has not answered {OPENING_SECONDS:g} seconds after its limit of "
                f"{entry.timeout_seconds:g} seconds"
            ) from None


def _readable(output: Any, tool: str) -> str | Ended:
    """What a tool returned, with its text as the model sees it."""
    return replace(output, text=as_text(output.text, tool)) if isinstance(output, Ended) else as_text(output, tool)


def cut_text(text: str, limit: int) -> tuple[str, int]:
    """Cut the middle out of a text longer than `limit` characters; return it and the number cut.

    The marker in the gap is not counted towards the limit.
    """
    if len(text) <= limit:
        return text, 0
    head, tail = limit - limit // 4, limit // 4
    cut = len(text) - head - tail
    return f"{text[:head]}\n[... {cut} characters cut ...]\n{text[len(text) - tail :]}", cut
