"""Shell commands in a hosted sandbox: the part of envd's process service behind `commands.run`, `list` and `kill`.

The protocol is Connect's for streams (https://connectrpc.com/docs/protocol/#streaming-rpcs), with JSON. A command runs
in a session of its own, which ends with it. Terminals, and input for running commands, are not supported.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from toolrl.sandbox.base import ExecResult, check_environment
from toolrl.sandbox.server.files import HOME
from toolrl.sandbox.server.hosting import Context, HostedSandbox
from toolrl.sandbox.server.running import ExecutionResponse
from toolrl.support.serving import Body, Refusal, json_response, read_body

_MAX_BODY = 4 << 20
_KILLED = 137  # as a shell reports SIGKILL
_CODE = """
import sys
sys.path[:] = filter(None, sys.path)
import subprocess
subprocess.run({command!r}, stdin=subprocess.DEVNULL).returncode
"""
_NOT_SUPPORTED = "terminals, and input for running commands, are not supported; use Python's subprocess with run_code"


class _Process(Body):
    cmd: str
    args: list[str] = Field(default_factory=list)
    envs: dict[str, str] = Field(default_factory=dict)
    cwd: str | None = None


class _Start(Body):
    process: _Process
    pty: dict[str, Any] | None = None
    tag: str | None = None


class _Selector(Body):
    pid: int | None = None
    tag: str | None = None


class _Signal(Body):
    process: _Selector


class CommandResponse(ExecutionResponse):
    """Streams a command's output, then its exit code."""

    media_type = "application/connect+json"

    def __init__(
        self, hosted: HostedSandbox, context: Context, command: list[str], environment: Mapping[str, str]
    ) -> None:
        super().__init__(hosted, context, _CODE.format(command=command), environment)
        self._pid = hosted.add_command(context, command)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._hosted.threads.run(self._hosted.end_command, self._pid)

    def _parts(self, message: dict[str, Any] | ExecResult) -> list[bytes]:
        if isinstance(message, ExecResult):
            return self._end(message)
        if message["type"] == "number_of_executions":
            return [_envelope({"event": {"start": {"pid": self._pid}}})]
        if message["type"] in ("stdout", "stderr"):
            text = base64.b64encode(message["text"].encode()).decode()
            return [_envelope({"event": {"data": {message["type"]: text}}})]
        if message["type"] == "error" and self._pid not in self._hosted.running_commands():
            return [_end_event(_KILLED)]  # before the code could start
        if message["type"] == "end_of_execution":
            return [_envelope({}, flags=2)]
        return [_envelope({"event": {"keepalive": {}}})] if message["type"] == "keepalive" else []

    def _end(self, result: ExecResult) -> list[bytes]:
        """The exit code, which the code can forge; that of a killed process if the session was ended."""
        parts, status = [], _KILLED
        if result.error is None and result.value is not None:
            status = int(result.value) if result.value.lstrip("-").isdecimal() and len(result.value) < 9 else 1
        elif result.error is not None and result.error.name not in ("SandboxDied", "TimeoutError"):
            status = 127 if result.error.name == "FileNotFoundError" else 1
            parts = self._parts({"type": "stderr", "text": f"{result.error.name}: {result.error.value}\n"})
        return [*parts, _end_event(status)]


def _end_event(status: int) -> bytes:
    end = {"exitCode": status, "exited": status >= 0, "status": f"exit status {status}"}
    return _envelope({"event": {"end": end}})


def _envelope(message: object, flags: int = 0) -> bytes:
    content = json.dumps(message).encode()
    return bytes([flags]) + len(content).to_bytes(4, "big") + content


async def start(request: Request, hosted: HostedSandbox) -> Response:
    """Run a command."""
    body = await read_body(request, _MAX_BODY)
    if len(body) < 5 or body[0] or int.from_bytes(body[1:5], "big") != len(body) - 5:
        raise Refusal(400, "the body must be a single, uncompressed JSON message of the Connect protocol")
    asked = _Start.of(body[5:])
    if asked.pty is not None:
        raise Refusal(501, _NOT_SUPPORTED)
    try:
        environment = check_environment({**hosted.environment, **asked.process.envs})
        session = await hosted.threads.run(hosted.sandbox.new_session)
    except ValueError as error:
        raise Refusal(400, str(error)) from error
    arguments = asked.process.args
    if arguments[:1] == ["-l"]:
        arguments = arguments[1:]  # a login shell would read files that the sandbox lacks
    context = Context(session, asked.process.cwd or HOME)
    return CommandResponse(hosted, context, [asked.process.cmd, *arguments], environment)


async def processes(request: Request, hosted: HostedSandbox) -> Response:
    """List the running commands."""
    running = [
        {"pid": pid, "config": {"cmd": command[0], "args": command[1:], "envs": {}}}
        for pid, command in hosted.running_commands().items()
    ]
    return json_response({"processes": running})


async def signal(request: Request, hosted: HostedSandbox) -> Response:
    """End a command, whichever signal is sent."""
    asked = _Signal.of(await read_body(request, _MAX_BODY))
    if not await hosted.threads.run(hosted.end_command, asked.process.pid or 0):
        raise Refusal(404, f"no command with pid {asked.process.pid} is running")
    return json_response({})


async def not_supported(request: Request, hosted: HostedSandbox) -> Response:
    """Refuse terminals and input for running commands."""
    raise Refusal(501, _NOT_SUPPORTED)
