"""The stdio transport: a server that runs as a child process.

The SDK's own transport passes on messages of any length, and leaves the server to itself if this process is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING

import anyio
from mcp.shared.message import SessionMessage
from mcp.types import ErrorData, JSONRPCError, JSONRPCMessage, jsonrpc_message_adapter
from pydantic import ValidationError

from toolrl.support.keeper import GRACE_SECONDS, under_keeper

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.client import Transport

MAX_MESSAGE_BYTES = 1 << 24
TOO_LARGE = "byte limit"  # in errors about messages that are larger, here and in httpx2
_LAST_WORDS_CHARACTERS = 2000
_LEAVING_SECONDS = 1.0  # for a server to end by itself once its input is closed

# The id of a message, as the first or last field of its object.
_FIRST_ID = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*(\d{1,18})\b')
_LAST_ID = re.compile(rb'"id"\s*:\s*(\d{1,18})\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*$')


class ServerProcess:
    """A server's process and what it last said.

    Attributes:
        failure: Why it can no longer be talked to; empty as long as it can.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: str | None):
        """Describe the process; entering its transport starts it."""
        self.failure = ""
        self._command, self._env, self._cwd = list(command), dict(env), cwd
        self._said, self._is_ending = "", False

    def transport(self) -> Transport:
        """A context manager for the SDK's client that starts the process, and ends it with everything it started."""
        return self._connect()

    @property
    def last_words(self) -> str:
        """The end of what it wrote to stderr, and of what it wrote to stdout that was no message."""
        return self._said.strip()

    @contextlib.asynccontextmanager
    async def _connect(
        self,
    ) -> AsyncIterator[
        tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]
    ]:
        pipe = asyncio.subprocess.PIPE
        command, env = under_keeper(self._command, self._env)
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=env,
            cwd=self._cwd,
            start_new_session=True,
            limit=MAX_MESSAGE_BYTES,
        )
        incoming, received = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        sent, outgoing = anyio.create_memory_object_stream[SessionMessage](0)
        tasks = [
            asyncio.create_task(work)
            for work in (self._read(incoming), self._listen(), self._write(outgoing, incoming))
        ]
        try:
            yield received, sent
        finally:
            self._is_ending = True
            with anyio.CancelScope(shield=True):
                received.close()
                sent.close()
                await self._end()
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                incoming.close()

    async def _end(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        seconds = _LEAVING_SECONDS
        for end in (self._process.terminate, self._process.kill):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), seconds)
                return
            with contextlib.suppress(ProcessLookupError):
                end()
            seconds = GRACE_SECONDS + 5.0
        await self._process.wait()

    async def _write(
        self,
        outgoing: MemoryObjectReceiveStream[SessionMessage],
        incoming: MemoryObjectSendStream[SessionMessage | Exception],
    ) -> None:
        assert self._process.stdin is not None
        try:
            async for item in outgoing:
                text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                self._process.stdin.write(text.encode() + b"\n")
                await self._process.stdin.drain()
        except OSError:  # and so it will not answer
            await self._lose(incoming, "it closed its input")

    async def _read(self, incoming: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        """Pass on the messages. Whatever follows the end of the session is read and dropped, so that it can end."""
        assert self._process.stdout is not None
        is_open = True
        while line := await _read_line(self._process.stdout):
            if not is_open:
                continue
            try:
                message = _parse(line)
            except ValueError as error:
                self._fail(f"it wrote {line[:100]!r}, which is not a message of the protocol ({error})"[:500])
                incoming.close()
                is_open = False
                continue
            if message is None:
                self._hear(line)
                continue
            try:
                await incoming.send(SessionMessage(message))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                is_open = False
        await self._lose(incoming, "it closed its output")

    async def _lose(self, incoming: MemoryObjectSendStream[SessionMessage | Exception], otherwise: str) -> None:
        """End the session: the process has ended, or else for another reason."""
        with contextlib.suppress(TimeoutError):
            self._fail(f"it ended with status {await asyncio.wait_for(self._process.wait(), _LEAVING_SECONDS)}")
        self._fail(otherwise)
        incoming.close()

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(1 << 16):
            self._hear(data)

    def _hear(self, data: bytes) -> None:
        self._said = (self._said + data.decode(errors="replace"))[-_LAST_WORDS_CHARACTERS:]

    def _fail(self, reason: str) -> None:
        if not self._is_ending:
            self.failure = self.failure or reason


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    """The next line; of one that is too long, an error in its place. Empty at the end."""
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        overrun = error
    begin = end = b""
    while True:
        data = await reader.readexactly(overrun.consumed)
        begin, end = begin or data[:200], (end + data[-200:])[-200:]
        try:
            rest = await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            overrun = error
            continue
        except asyncio.IncompleteReadError as error:
            rest = error.partial
        break
    found = _FIRST_ID.match(begin) or _LAST_ID.search((end + rest)[-200:])
    if found is None:
        return b'{"a message exceeded the %d byte limit": true}\n' % MAX_MESSAGE_BYTES
    refused = ErrorData(code=0, message=f"the message exceeded the {MAX_MESSAGE_BYTES} {TOO_LARGE}")
    answer = JSONRPCError(jsonrpc="2.0", id=int(found[1]), error=refused)
    return answer.model_dump_json().encode() + b"\n"


def _parse(line: bytes) -> JSONRPCMessage | None:
    """Read a line; None if it is not a JSON object, as where a server prints to stdout.

    Raises:
        ValueError: It is a JSON object, but not a message.
    """
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        return jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValidationError:
        pass
    try:  # Python reads lone surrogates, which come from the names of files
        text = json.dumps(json.loads(line), ensure_ascii=False).encode("utf-8", "replace")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    try:
        return jsonrpc_message_adapter.validate_json(text, by_name=False)
    except ValidationError as error:
        raise ValueError(f"{error.errors()[0]['msg']}") from None
