"""A run of code, streamed to a client that may disconnect."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import threading
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from toolrl.errors import SandboxFault
from toolrl.sandbox.base import ExecResult
from toolrl.sandbox.server.hosting import Context, HostedSandbox, lost_variables
from toolrl.sandbox.server.notebook import encoded, result_messages
from toolrl.support.serving import ResponseAborted

_KEEPALIVE_SECONDS = 5.0
_BEGINNING_SECONDS = 1.0  # after the start, while an interrupt may come too early


class _Abandoned(Exception):
    """The client of a run that has not started is gone."""


class ExecutionResponse(StreamingResponse):
    """Runs code on a thread of its own and streams its output; interrupts it if the client disconnects.

    If the sandbox is ended during the run, the stream is cut off, as by E2B: the client then checks whether the sandbox
    is still running.

    Args:
        hosted: The sandbox.
        context: The context to run in.
        code: Python source.
        environment: Environment variables for this run.
    """

    media_type = "application/x-ndjson"

    def __init__(self, hosted: HostedSandbox, context: Context, code: str, environment: Mapping[str, str]) -> None:
        super().__init__(self._lines())
        self._hosted, self._context, self._code, self._environment = hosted, context, code, environment
        self._loop = asyncio.get_running_loop()
        self._messages: asyncio.Queue[dict[str, Any] | ExecResult | ResponseAborted | None] = asyncio.Queue()
        self._lock = threading.Lock()
        self._began: float | None = None
        self._done = self._abandoned = False
        self._number = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._abandon()

    async def _lines(self) -> AsyncIterator[bytes]:
        threading.Thread(target=self._run, name="sandbox-run", daemon=True).start()
        while True:
            try:
                message = await asyncio.wait_for(self._messages.get(), _KEEPALIVE_SECONDS)
            except TimeoutError:
                message = {"type": "keepalive"}
            if isinstance(message, ResponseAborted):
                raise message
            for part in self._parts({"type": "end_of_execution"} if message is None else message):
                yield part
            if message is None:
                return

    def _parts(self, message: dict[str, Any] | ExecResult) -> list[bytes]:
        """Encode a message."""
        messages = [message] if isinstance(message, dict) else result_messages(message, self._number, self._code)
        return [encoded(one) for one in messages]

    def _abandon(self) -> None:
        with self._lock:
            self._abandoned = True
        self._interrupt()
        if self._began is not None and time.monotonic() - self._began < _BEGINNING_SECONDS:
            self._loop.call_later(_BEGINNING_SECONDS, self._interrupt)

    def _interrupt(self) -> None:
        if self._began is not None and not self._done:
            self._context.session.interrupt()

    def _run(self) -> None:
        last: dict[str, Any] | ExecResult | ResponseAborted
        try:
            last = result = self._context.run(self._code, self._environment, self._put_output, self._begin)
            is_lost = lost_variables(result)
        except _Abandoned:
            return
        except (SandboxFault, ValueError) as error:
            last = {"type": "error", "name": "UnexpectedEndOfExecution", "value": str(error), "traceback": ""}
            is_lost = True
        self._done = True
        self._put(ResponseAborted() if is_lost and self._hosted.ended else last)
        self._put(None)

    def _begin(self, number: int) -> None:
        with self._lock:
            if self._abandoned:
                raise _Abandoned
            self._began, self._number = time.monotonic(), number
        self._put({"type": "number_of_executions", "execution_count": number})

    def _put_output(self, stream: str, text: str) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat()
        self._put({"type": stream, "text": text, "timestamp": now})

    def _put(self, message: dict[str, Any] | ExecResult | ResponseAborted | None) -> None:
        with contextlib.suppress(RuntimeError):  # the server has stopped
            self._loop.call_soon_threadsafe(self._messages.put_nowait, message)
