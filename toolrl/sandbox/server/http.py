"""HTTP for hosted sandboxes: a threading server, and what each request is allowed and leads to.

The protocol is that of E2B's API, of its code interpreter
(https://github.com/e2b-dev/code-interpreter, template/server) and of envd; requests to a sandbox are told
apart by the header E2b-Sandbox-Id. The standard library's server is enough: a connection is a thread, as
is a run.
"""

from __future__ import annotations

import hmac
import ipaddress
import select
import socket
from collections.abc import Mapping
from typing import Self
from urllib.parse import parse_qs, urlsplit

from toolrl.errors import ConfigError, SandboxFault
from toolrl.sandbox.local import LocalSandbox
from toolrl.sandbox.server.files import FileError
from toolrl.sandbox.server.hosting import HostedSandbox, Hosting, HostSettings
from toolrl.sandbox.server.routes import Reply, Request, find_route
from toolrl.serving import Handler, Server

_MAX_BODY = 128 << 20


class SandboxServer:
    """Serves until it is closed.

    Args:
        settings: What clients get.
        host: Address to listen on; beyond loopback an API key must be set.
        port: Port to listen on; 0 takes a free one.

    Attributes:
        url: For E2B_API_URL and E2B_SANDBOX_URL.

    Raises:
        ConfigError: The address is no loopback address and there is no API key, or it is not free; or this
            machine offers too little isolation, see `LocalSandbox`.
    """

    def __init__(self, settings: HostSettings | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        settings = settings or HostSettings()
        if settings.api_key is None and not _is_loopback(host):
            raise ConfigError(f"--host {host} can be reached from other machines: give an API key, or use 127.0.0.1")
        LocalSandbox(settings.limits, packages=settings.packages).close()  # or no client could have one
        self._server = _Server(host, port, _Handler)
        self._server.hosting = self.hosting = Hosting(settings)
        self.url = self._server.url
        self._server.start("sandbox-server")

    def close(self) -> None:
        """Stop listening and end all sandboxes."""
        self._server.stop()
        self.hosting.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Server(Server):
    hosting: Hosting


class _Handler(Handler):
    server: _Server

    def do_GET(self) -> None:
        """Answer a request."""
        self._answer()

    do_POST = do_DELETE = do_GET

    def _answer(self) -> None:
        try:
            body = self._body()
        except ValueError as error:
            self._send(Reply.failure(400, f"the length of the body is not a number: {error}"))
            self.close_connection = True
            return
        if body is None:
            self._send(Reply(413, {"code": 413, "message": f"a body has {_MAX_BODY} bytes at most"}))
            self.close_connection = True
            return
        parts = urlsplit(self.path)
        route, arguments = find_route(self.command, parts.path)
        if route is None:
            self._send(Reply(404, {"code": 404, "message": f"{self.command} {parts.path} is not served here"}))
            return
        hosted = None
        if route.of_sandbox:
            hosted = self.server.hosting.get(self.headers.get("E2b-Sandbox-Id"))
            if hosted is None:
                message = "The sandbox was not found"
                self._send(Reply(502, {"code": 502, "message": message, "sandboxId": self.headers["E2b-Sandbox-Id"]}))
                return
        if not route.open_to_all and not self._is_allowed(hosted):
            self._send(Reply(401, {"code": 401, "message": "the key or token is not right"}))
            return
        query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        request = Request(self.server.hosting, hosted, arguments, query, self.headers, body)
        try:
            reply = route.answer(request)
        except FileError as error:
            reply = Reply.failure(error.status, str(error), is_rpc=route.is_rpc)
        except SandboxFault as error:
            reply = Reply.failure(500, str(error), is_rpc=route.is_rpc)
        except (KeyError, TypeError, ValueError) as error:
            reply = Reply.failure(400, f"{type(error).__name__}: {error}", is_rpc=route.is_rpc)
        self._send(reply)

    def _is_allowed(self, hosted: HostedSandbox | None) -> bool:
        key = self.server.hosting.settings.api_key
        if key is None:
            return True
        if hosted is None:
            return hmac.compare_digest(self.headers.get("X-API-Key", ""), key)
        tokens = (self.headers.get("X-Access-Token", ""), self.headers.get("E2B-Traffic-Access-Token", ""))
        return any(hmac.compare_digest(token, hosted.token) for token in tokens)

    def _body(self) -> bytes | None:
        """The request's body, or None if it is too large."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length") or 0)
            return self.rfile.read(length) if 0 <= length <= _MAX_BODY else None
        body = bytearray()
        while size := int(self.rfile.readline(1 << 10).split(b";")[0], 16):
            if len(body) + size > _MAX_BODY:
                return None
            body += self.rfile.read(size)
            self.rfile.readline(4)
        while self.rfile.readline(1 << 10).strip():  # trailers
            pass
        return bytes(body)

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.stream is None:
            payload = reply.payload()
            self._end_headers({"Content-Type": reply.content_type, "Content-Length": str(len(payload))})
            self.wfile.write(payload)
            return
        self._end_headers({"Content-Type": reply.content_type, "Transfer-Encoding": "chunked"})
        try:
            for line in reply.stream(self._has_hung_up):
                self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        finally:
            reply.finish()

    def _end_headers(self, headers: Mapping[str, str]) -> None:
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _has_hung_up(self) -> bool:
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        try:
            return bool(poll.poll(0)) and self.connection.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True
