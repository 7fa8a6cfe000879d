"""One session with a server: how it begins and ends, and which of its failures are whose."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from mcp import Client, MCPError
from mcp.client.subscriptions import SubscriptionLost
from mcp.types import INVALID_PARAMS, Implementation, ToolListChangedNotification
from mcp.types.version import MODERN_PROTOCOL_VERSIONS

from toolrl.errors import InfrastructureError, ToolError
from toolrl.support.cleanup import remove_tree
from toolrl.support.leftovers import make_folder
from toolrl.support.secret_values import expand, hide
from toolrl.support.waiting import TookTooLong, within
from toolrl.tools.mcp.http import http_transport
from toolrl.tools.mcp.results import text_of
from toolrl.tools.mcp.settings import Known, ServerSettings
from toolrl.tools.mcp.stdio import TOO_LARGE, ServerProcess

if TYPE_CHECKING:
    from mcp.types import Tool as ServerTool

START_SECONDS = 100.0  # less than a tool's resources may take to open
LOOK_SECONDS = 30.0  # for a list of the tools, which also shows that the server is alive
CLOSE_SECONDS = 15.0
_MAX_PAGES = 100
_MAX_REASON_CHARACTERS = 2000
# JSON-RPC reserves these for the protocol; the SDK gives 0 to an exception in a server.
_PROTOCOL_CODES = range(-32768, -31999)


class Link:
    """One session with a server, held by a task: the SDK's client must be entered and left by the same one."""

    def __init__(self, settings: ServerSettings, known: Known):
        """Start to connect, on the running loop."""
        self.folder = ""
        self._settings, self._known = settings, known
        self._process: ServerProcess | None = None
        self._failure = ""
        self._status = 0  # of the last HTTP response
        self._changed = False
        self._leave = asyncio.Event()
        self._ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold())

    @property
    def is_lost(self) -> bool:
        """Whether a call can no longer succeed."""
        return self._task.done() or self._leave.is_set()

    async def client(self) -> Client:
        """The SDK's client, once it is connected.

        Raises:
            InfrastructureError: The server cannot be reached.
        """
        try:
            client = await within(START_SECONDS, "connecting", lambda: asyncio.shield(self._ready))
        except TookTooLong:
            raise await self._give_up(f"it was not ready within {START_SECONDS:g} seconds") from None
        if self.is_lost:
            raise self._fault("its session has ended")
        return client

    async def look(self) -> list[ServerTool]:
        """List the server's tools, and compare those that are used with what they were.

        Raises:
            InfrastructureError: It does not answer, or one of the tools has changed.
        """
        client = await self.client()
        self._changed = False
        try:
            listed = await within(LOOK_SECONDS, "listing the tools", lambda: _all_tools(client))
        except TookTooLong:
            raise await self._give_up(f"it has not listed its tools within {LOOK_SECONDS:g} seconds") from None
        except (MCPError, ValueError, RuntimeError) as error:
            raise await self._give_up(f"it does not list its tools: {error}") from None
        found = {tool.name: tool for tool in listed}
        for tool in self._known.tools:
            if tool.name not in found:
                raise await self._give_up(f"it no longer has the tool {tool.name!r}, which the model was told about")
            for part in ("description", "input_schema"):
                if not _same(getattr(tool, part), now := getattr(found[tool.name], part)):
                    raise await self._give_up(
                        f"the {part} of its tool {tool.name!r} is no longer what the model was told: "
                        f"{json.dumps(now)[:500]}"
                    )
        return listed

    async def call(self, tool: str, arguments: Mapping[str, Any], timeout_seconds: float) -> str:
        """Call a tool, and return its result as text.

        Raises:
            ToolError: The tool refuses the arguments, fails, or does not finish in time, and the server still answers.
            InfrastructureError: The server is down, ended, changed its tools, or does not keep to the protocol.
        """
        client = await self.client()
        if self._changed:
            await self.look()
        try:
            result = await within(timeout_seconds, f"{tool!r}", lambda: client.call_tool(tool, dict(arguments)))
        except TookTooLong:
            await self.look()
            raise ToolError(f"{tool} did not finish within {timeout_seconds:g} seconds", timed_out=True) from None
        except MCPError as error:
            if TOO_LARGE in error.message:
                raise ToolError(f"the result of {tool} is too large ({error.message})") from None
            await self.look()
            if error.code != INVALID_PARAMS and (error.code == 0 or error.code in _PROTOCOL_CODES):
                raise self._fault(f"its tool {tool!r} failed: {error.message} (code {error.code})") from None
            raise ToolError(hide(error.message)) from None
        except (ValueError, RuntimeError) as error:
            raise self._fault(f"its tool {tool!r} did not keep to the protocol: {error}") from None
        if result.is_error:
            await self.look()  # some servers report an unknown tool like this
            raise ToolError(text_of(result))
        return text_of(result)

    async def close(self) -> None:
        """End the session, and with it the process of a stdio server. Whatever goes wrong now no longer matters."""
        self._leave.set()
        if not self._ready.done():
            self._task.cancel()
        for _ in range(2):  # a remote server may not answer the goodbye
            await asyncio.wait((self._task,), timeout=CLOSE_SECONDS)
            if self._task.done():
                return
            self._task.cancel()

    async def _give_up(self, what: str) -> InfrastructureError:
        """End the session, and return the error to raise."""
        await self.close()
        return self._fault(what)

    def _fault(self, what: str) -> InfrastructureError:
        """The error to raise where the server failed; it says what is known about the reason."""
        process = self._process
        reason = (process and process.failure) or self._failure or what
        parts = [f"MCP server {self._settings.name!r}: {reason[:_MAX_REASON_CHARACTERS]}"]
        if self._status >= 400:
            parts.append(f"its last HTTP status was {self._status}")
        if process and process.last_words:
            parts.append(f"it said: {process.last_words}")
        return InfrastructureError(hide("; ".join(parts)))

    async def _hold(self) -> None:
        settings, known = self._settings, self._known
        try:
            async with AsyncExitStack() as stack:
                if settings.uses_folder:
                    self.folder = make_folder("mcp")
                    stack.callback(remove_tree, self.folder)
                if settings.command:
                    self._process = settings.process(self.folder)
                    transport = self._process.transport()
                else:
                    transport = http_transport(expand(settings.url), expand(dict(settings.headers)), self._keep_status)
                client = Client(
                    transport,
                    mode=known.mode,
                    prior_discover=known.discovered,
                    cache=None,
                    message_handler=self._notice,
                    client_info=Implementation(name="toolrl", version="1"),
                )
                await stack.enter_async_context(client)
                await self._watch(client, stack)
                self._ready.set_result(client)
                await self._leave.wait()
        except Exception as error:  # noqa: BLE001 - raised where the session is used
            self._failure = _describe(error)
        finally:
            if not self._ready.done():
                self._ready.set_exception(self._fault("it could not be reached"))
                self._ready.exception()  # perhaps nobody waits any more

    async def _watch(self, client: Client, stack: AsyncExitStack) -> None:
        """Have a server say when its tools change. One with a handshake does so unasked, see `_notice`."""
        tools = client.server_capabilities.tools
        if client.protocol_version in MODERN_PROTOCOL_VERSIONS and tools is not None and tools.list_changed:
            try:
                events = await stack.enter_async_context(client.listen(tools_list_changed=True))
            except MCPError:  # it promises more than it does
                return

            async def watch() -> None:
                with contextlib.suppress(SubscriptionLost):
                    async for _ in events:
                        self._changed = True
                self._changed = True

            stack.callback(asyncio.create_task(watch()).cancel)

    def _keep_status(self, status: int) -> None:
        self._status = status

    async def _notice(self, message: object) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._changed = True


async def _all_tools(client: Client) -> list[ServerTool]:
    tools: dict[str, ServerTool] = {}
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            if tools.setdefault(tool.name, tool) is not tool:
                raise ValueError(f"two of them are named {tool.name!r}")
        cursor = page.next_cursor
        if cursor is None:
            return list(tools.values())
    raise ValueError(f"its list of tools has more than {_MAX_PAGES} pages")


def _same(one: object, other: object) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _describe(error: BaseException) -> str:
    """The reason in an exception of the SDK, which wraps it in groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
