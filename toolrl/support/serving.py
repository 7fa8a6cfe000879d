"""What our HTTP servers share: uvicorn on a thread, bounds on every connection, errors in JSON, and who may ask.

uvicorn reads HTTP with h11, which refuses what is malformed. Added here is what it lacks: an end to heads and bodies
that do not come and to answers that nobody takes, and room for new connections where old ones only wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hmac
import ipaddress
import json
import re
import socket
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import h11
import uvicorn
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from toolrl.errors import ConfigError, InfrastructureError

T = TypeVar("T")

MAX_CONNECTIONS = 512
MAX_REQUESTS = 384  # at a time; the other connections are room for those that only wait
_STOPPING_SECONDS = 2
_LOOK_SECONDS = 1.0
_LINGER_SECONDS = 2.0
# How long a connection may be without a request, send its head or its body, and leave an answer untaken.
PATIENCE_SECONDS = {"idle": 120.0, "head": 15.0, "body": 300.0, "answer": 60.0}


class Refusal(Exception):
    """A request is answered with an error.

    Args:
        status: Of the answer.
        message: What was wrong, and what to do.
        headers: Further ones.
        fields: What else the JSON object holds besides `code`, `message` and `detail`, or in their place.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None, **fields: object) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.content = {"code": status, "message": message, "detail": message, **fields}

    def response(self) -> Response:
        """The answer."""
        return answer(self.content, self.status, self.headers)


class Cut(Exception):
    """An answer that has begun must not look as if it had come to its end: the connection is closed."""


def answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON, whatever characters are in it."""
    return Response(json.dumps(content), status, dict(headers or {}), "application/json")


class Body(BaseModel):
    """A request's body: a JSON object with fields of just these types, and whatever else."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    @classmethod
    def of(cls, body: bytes, status: int = 400) -> Self:
        """Read it; an empty one is an object without fields.

        Raises:
            Refusal: It is no such object; with this status.
        """
        try:
            return cls.model_validate_json(body or b"{}")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise Refusal(status, f"{where or 'the body'}: {first['msg']}"[:500]) from None


async def body_of(request: Request, most: int) -> bytes:
    """A request's body.

    Args:
        request: Of which it is.
        most: Its greatest size in bytes.

    Raises:
        Refusal: It is larger. Of what comes too much nothing is kept.
    """
    announced, body = request.headers.get("content-length", ""), bytearray()
    if not announced.isdecimal() or int(announced[:20]) <= most:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                break
        else:
            return bytes(body)
    raise Refusal(413, f"a body may have {most:,} bytes at most")


def is_right(given: str, key: str) -> bool:
    """Whether a header holds the key; takes as long for any other."""
    return hmac.compare_digest(given.encode("latin-1", "replace"), key.encode())


def foreign(headers: Headers, is_ours: Callable[[str], bool], *, by_link: bool = False) -> str:
    """Why a request may come from another site's page in a browser; empty if it does not.

    Args:
        headers: The request's.
        is_ours: Whether a Host is a name of this server. Any name can be made to lead to this machine (DNS rebinding).
        by_link: Whether other sites may link here.
    """
    host = headers.get("host", "")
    if not is_ours(host):
        return "it was asked for under another name than 127.0.0.1 or localhost"
    if "origin" in headers and headers["origin"] != f"http://{host}":
        return "it was asked for by a page of another origin"
    is_page = by_link and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not is_page:
        return "it was asked for by a page of another site"
    return ""


def is_loopback(host: str) -> bool:
    """Whether a host's name or address, perhaps with a port, can only be this machine."""
    name = re.sub(r":\d{1,5}$", "", host) if host.count(":") == 1 or host.startswith("[") else host
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def refuse_pages(headers: Headers, host: str) -> None:
    """Keep the pages of browsers out of a server that asks for no key.

    Args:
        headers: The request's.
        host: The address that the server listens on.

    Raises:
        Refusal: A page may have sent it.
    """
    reason = foreign(headers, is_loopback if is_loopback(host) else lambda _: True)
    if reason:
        raise Refusal(403, f"{reason}; without an API key this server answers no browser and only under its own name")


class Threads:
    """Runs what blocks on threads, so many at a time; who comes first is served first.

    The threads are daemons: a call that hangs does not keep the process alive.
    """

    def __init__(self, at_once: int) -> None:
        self._free = asyncio.Semaphore(at_once)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """What a call returns; its place is taken until it ends, even if nobody waits for it any more."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def end(result: T | None, error: BaseException | None) -> None:
            self._free.release()
            if not future.done():
                future.set_exception(error) if error else future.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result, failure = None, None
            try:
                result = function(*arguments)
            except BaseException as error:  # noqa: BLE001  raised where it is waited for
                failure = error
            with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
                loop.call_soon_threadsafe(end, result, failure)

        run = contextvars.copy_context().run
        try:
            threading.Thread(target=run, args=(work,), name="serving", daemon=True).start()
        except RuntimeError:  # there is none to be had
            self._free.release()
            raise Refusal(503, "this server has no thread left; come back later", {"Retry-After": "1"}) from None
        return await future


def json_app(routes: Sequence[Route]) -> Starlette:
    """An application that says in JSON what it does not do."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return error.response()

    async def not_served(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path} is not served here"
        return Refusal(error.status_code, message, error.headers).response()

    app = Starlette(routes=routes, exception_handlers={Refusal: refused, HTTPException: not_served, Exception: _failed})
    app.router.redirect_slashes = False
    return app


async def _failed(request: Request, error: Exception) -> Response:
    return Refusal(500, f"the server has a bug: {type(error).__name__}").response()


class Server:
    """An application, served on a thread.

    Args:
        app: What is served.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        name: Of the thread.
        guard: Looks at each request's headers, before anything else is read, and may raise `Refusal`.

    Attributes:
        url: Where it is.

    Raises:
        ConfigError: The address is not free, or none of this machine's.
    """

    def __init__(
        self, app: ASGIApp, *, host: str, port: int, name: str, guard: Callable[[Headers], None] = lambda headers: None
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
            # asyncio sets it only where a socket names its protocol, which accepted ones do not: answers waited 40 ms.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, OverflowError, UnicodeError) as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error}; --port 0 takes a free port") from None
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                _Guarded(app, guard),
                http=_Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",  # what is a bug is told by `_Guarded`
                access_log=False,
                server_header=False,
                timeout_keep_alive=int(PATIENCE_SECONDS["idle"]),
                timeout_graceful_shutdown=_STOPPING_SECONDS,
            )
        )
        arguments = {"sockets": [self._socket]}
        self._thread = threading.Thread(target=self._server.run, kwargs=arguments, name=name, daemon=True)

    def start(self) -> None:
        """Serve until `stop`; returns when requests are answered.

        Raises:
            InfrastructureError: The server ended at once.
        """
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise InfrastructureError(f"the server at {self.url} could not be started")
            self._thread.join(0.005)

    def stop(self) -> None:
        """Answer what has been asked, and end."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(3 * _STOPPING_SECONDS)
        self._socket.close()


class _Guarded:
    """The one place where it is classified what has ended a request."""

    def __init__(self, app: ASGIApp, guard: Callable[[Headers], None]) -> None:
        self._app, self._guard, self._busy = app, guard, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def tell(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        self._busy += 1
        try:
            if self._busy > MAX_REQUESTS:
                raise Refusal(503, f"{MAX_REQUESTS} requests are being answered; come back later", {"Retry-After": "1"})
            self._guard(Headers(scope=scope))
            await self._app(scope, receive, tell)
        except (Cut, ClientDisconnect):
            pass  # an answer that has begun is then cut off
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
        except Exception as error:  # noqa: BLE001  a bug: told here, the server goes on
            traceback.print_exception(error)
            if not begun:
                await (await _failed(Request(scope), error))(scope, receive, send)
        finally:
            self._busy -= 1


class _Connection(H11Protocol):
    """A connection that is closed when it keeps us waiting, or when others need its place."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._refused = False
        self._seen: tuple[str, object, int] | None = None
        self._since = self.loop.time()
        self._look()
        if len(self.connections) > MAX_CONNECTIONS:
            waiting = [other for other in self.connections if isinstance(other, _Connection) and other._waits_for()]
            min(waiting, key=lambda other: other._since).transport.abort()  # of which this is one

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)

    def _waits_for(self) -> str:
        """What the client is to do next; nothing if it is our turn."""
        if self.transport.get_write_buffer_size():
            return "answer"
        if self.cycle is None or self.cycle.response_complete:
            return "head" if self.cycle is None or self.conn.trailing_data[0] else "idle"
        return "body" if self.cycle.more_body else ""

    def _look(self) -> None:
        now, seen = self.loop.time(), (self._waits_for(), self.cycle, self.transport.get_write_buffer_size())
        if seen != self._seen:
            self._seen, self._since = seen, now
        elif seen[0] and now - self._since > PATIENCE_SECONDS[seen[0]]:
            self.transport.abort()
        self._timer = self.loop.call_later(_LOOK_SECONDS, self._look)

    def send_400_response(self, msg: str) -> None:
        """Say that what came is no HTTP, unless an answer has begun."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            refusal = Refusal(400, "this is no HTTP/1.1 request, or its head is too long")
            body = json.dumps(refusal.content).encode()
            head = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
            event = h11.Response(status_code=400, headers=head, reason=b"Bad Request")
            for part in (event, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(part) or b"")
        # Closed at once, the connection would be reset by what still comes, and the client would not see the answer.
        self._refused = True
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)
