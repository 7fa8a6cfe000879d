"""What our HTTP servers share: uvicorn on a thread, limits for every connection, errors in JSON, access rules.

uvicorn parses HTTP with h11, which rejects malformed requests. This module adds what it lacks: time limits for heads
and bodies that do not arrive and for responses that are not read, and eviction of idle connections for new ones.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import re
import socket
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import h11
import uvicorn
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from toolrl.errors import ConfigError, InfrastructureError
from toolrl.support.closing import Closeable

MAX_CONNECTIONS = 512
MAX_REQUESTS = 384  # in progress; the other connections leave room for idle ones
_STOPPING_SECONDS = 2
_MAX_MESSAGE_BYTES = 16 << 20  # of a WebSocket
CHECK_SECONDS = 1.0  # between two looks at a connection
_LINGER_SECONDS = 2.0
# How long a connection may be idle, take to send a request's head or body, and leave a response unread.
TIMEOUT_SECONDS = {"idle": 120.0, "head": 15.0, "body": 300.0, "answer": 60.0}


class Refusal(Exception):
    """A request is answered with an error.

    Args:
        status: The HTTP status.
        message: What was wrong, and what to do.
        headers: Further headers.
        fields: Further fields of the JSON object, or replacements of its `code`, `message` and `detail`.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None, **fields: object) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers
        self.content = {"code": status, "message": message, "detail": message, **fields}

    def response(self) -> Response:
        """The error as a response."""
        return json_response(self.content, self.status, self.headers)


class ResponseAborted(Exception):
    """Raised to close the connection in the middle of a response, which must not look complete."""


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response; unlike Starlette's, it can hold any characters."""
    return Response(json.dumps(content), status, headers, "application/json")


class Body(BaseModel):
    """A request's body: a JSON object with fields of exactly these types; other fields are ignored."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    @classmethod
    def of(cls, body: bytes, status: int = 400) -> Self:
        """Parse a body; an empty one is an object without fields.

        Raises:
            Refusal: The body is not such an object; with this status.
        """
        try:
            return cls.model_validate_json(body or b"{}")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise Refusal(status, f"{where or 'the body'}: {first['msg']}"[:500]) from None


async def read_body(request: Request, most: int) -> bytes:
    """Read a request's body.

    Args:
        request: The request.
        most: The maximum size in bytes.

    Raises:
        Refusal: The body is larger. Nothing of it is kept.
    """
    announced, body = request.headers.get("content-length", ""), bytearray()
    if not announced.isdecimal() or int(announced[:20]) <= most:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                break
        else:
            return bytes(body)
    raise Refusal(413, f"a body may have at most {most:,} bytes")


def key_matches(given: str, key: str) -> bool:
    """Compare a header with the key, in constant time."""
    return hmac.compare_digest(given.encode("latin-1", "replace"), key.encode())


def check_bearer(headers: Headers, key: str) -> None:
    """Check `Authorization: Bearer KEY`.

    Raises:
        Refusal: The header is missing, or has another key.
    """
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if not (scheme.lower() == "bearer" and key_matches(given, key)):
        raise Refusal(401, "the API key is missing or wrong; send it as `Authorization: Bearer ...`")


def cross_site_reason(headers: Headers, is_ours: Callable[[str], bool], *, by_link: bool = False) -> str:
    """Say why a request may come from another site's page in a browser; empty if it does not.

    Args:
        headers: The request's headers.
        is_ours: Whether a Host is a name of this server. Any name can be made to resolve to this machine (DNS
            rebinding).
        by_link: Whether other sites may link here.
    """
    host = headers.get("host", "")
    if not is_ours(host):
        return "the request names another host than 127.0.0.1 or localhost"
    if "origin" in headers and headers["origin"] != f"http://{host}":
        return "the request comes from a page of another origin"
    is_page = by_link and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not is_page:
        return "the request comes from a page of another site"
    return ""


def is_loopback(host: str) -> bool:
    """Whether a host name or address, with or without a port, always means this machine."""
    name = re.sub(r":\d{1,5}$", "", host) if host.count(":") == 1 or host.startswith("[") else host
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def refuse_browsers(headers: Headers, host: str) -> None:
    """Keep web pages out of a server that requires no API key.

    Args:
        headers: The request's headers.
        host: The address the server listens on.

    Raises:
        Refusal: A web page may have sent the request.
    """
    reason = cross_site_reason(headers, is_loopback if is_loopback(host) else lambda _: True)
    if reason:
        raise Refusal(403, f"{reason}; without an API key this server only answers to its own name, and no browser")


def json_app(routes: Sequence[BaseRoute]) -> Starlette:
    """An application whose errors are JSON."""

    async def refused(request: Request, error: Exception) -> Response:
        if isinstance(error, Refusal):
            return error.response()
        assert isinstance(error, HTTPException)  # no such route or method
        message = f"{request.method} {request.url.path} is not served here"
        return Refusal(error.status_code, message, error.headers).response()

    app = Starlette(routes=routes, exception_handlers={Refusal: refused, HTTPException: refused, Exception: _failed})
    app.router.redirect_slashes = False
    return app


async def _failed(request: Request, error: Exception) -> Response:
    return _bug(error).response()


def _bug(error: Exception) -> Refusal:
    return Refusal(500, f"the server has a bug: {type(error).__name__}")


class Server(Closeable):
    """An application, served on a thread.

    Args:
        app: The application to serve.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        name: Name of the thread.
        guard: Sees each request's headers before the body is read, and may raise `Refusal`.
        lifespan: Whether the application must be started and stopped through ASGI's lifespan protocol.
        websockets: Whether it has connections of that kind, which needs the package of that name.
        listeners: Further sockets that listen already; whoever passes them closes them.

    Attributes:
        url: The server's address.

    Raises:
        ConfigError: The address is in use, or not one of this machine.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        port: int,
        name: str,
        guard: Callable[[Headers], None] = lambda headers: None,
        lifespan: bool = False,
        websockets: bool = False,
        listeners: Sequence[socket.socket] = (),
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
            # asyncio sets this only for sockets that name their protocol, which accepted ones do not: 40 ms per answer.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, OverflowError, UnicodeError) as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error}; --port 0 takes a free port") from None
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                _Guarded(app, guard),
                http=_Connection,
                ws="websockets-sansio" if websockets else "none",
                ws_max_size=_MAX_MESSAGE_BYTES,
                lifespan="on" if lifespan else "off",
                log_config=None,
                log_level="critical",  # `_Guarded` reports bugs
                access_log=False,
                server_header=False,
                timeout_keep_alive=int(TIMEOUT_SECONDS["idle"]),
                timeout_graceful_shutdown=_STOPPING_SECONDS,
            )
        )
        arguments = {"sockets": [self._socket, *listeners]}
        self._thread = threading.Thread(target=self._server.run, kwargs=arguments, name=name, daemon=True)

    def start(self) -> None:
        """Serve until `close`; returns once requests are answered.

        Raises:
            InfrastructureError: The server could not be started.
        """
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise InfrastructureError(f"the server at {self.url} could not be started")
            self._thread.join(0.005)

    def close(self) -> None:
        """Answer the pending requests, and shut down. Safe to call twice."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(3 * _STOPPING_SECONDS)
        self._socket.close()


class _Guarded:
    """Limits the requests in progress, and is the one place that classifies how a request failed."""

    def __init__(self, app: ASGIApp, guard: Callable[[Headers], None]) -> None:
        self._app, self._guard, self._busy = app, guard, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        begun = False

        async def send_on(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        self._busy += 1
        try:
            if self._busy > MAX_REQUESTS:
                raise Refusal(503, f"{MAX_REQUESTS} requests are in progress; try again later", {"Retry-After": "1"})
            self._guard(Headers(scope=scope))
            await self._app(scope, receive, send_on)
        except (ResponseAborted, ClientDisconnect):
            pass  # a response that has begun is cut off
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
        except Exception as error:  # noqa: BLE001  a bug: reported here, and the server goes on
            traceback.print_exception(error)
            if not begun:
                await _bug(error).response()(scope, receive, send)
        finally:
            self._busy -= 1


class _Connection(H11Protocol):
    """A connection that is closed when it keeps the server waiting, or when others need its place."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._refused = False
        self._state: tuple[str, object, int] | None = None
        self._since = self.loop.time()
        self._check()
        if len(self.connections) > MAX_CONNECTIONS:
            waiting = [other for other in self.connections if isinstance(other, _Connection) and other._waits_for()]
            min(waiting, key=lambda other: other._since).transport.abort()  # this one is among them

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection over: uvicorn's WebSockets ask for signs of life themselves."""
        self._timer.cancel()
        super().handle_websocket_upgrade(event)

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)

    def _waits_for(self) -> str:
        """What the client must do next (a key of `TIMEOUT_SECONDS`); empty if it is the server's turn."""
        if self.transport.get_write_buffer_size():
            return "answer"
        if self.cycle is None or self.cycle.response_complete:
            return "head" if self.cycle is None or self.conn.trailing_data[0] else "idle"
        return "body" if self.cycle.more_body else ""

    def _check(self) -> None:
        now, state = self.loop.time(), (self._waits_for(), self.cycle, self.transport.get_write_buffer_size())
        if state != self._state:
            self._state, self._since = state, now
        elif state[0] and now - self._since > TIMEOUT_SECONDS[state[0]]:
            self.transport.abort()
        self._timer = self.loop.call_later(CHECK_SECONDS, self._check)

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP, unless a response has begun."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            refusal = Refusal(400, "this is not an HTTP/1.1 request, or its head is too long")
            body = json.dumps(refusal.content).encode()
            head = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
            event = h11.Response(status_code=400, headers=head, reason=b"Bad Request")
            for part in (event, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(part) or b"")
        # Closed at once, the connection would be reset by what still arrives, and the client would miss the answer.
        self._refused = True
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)
