"""Real servers on this machine, for tests of the network code."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Request:
    """A request to the server."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """A response; with None as the status, only the raw body is sent. A body in pieces has no Content-Length."""

    body: bytes | Iterable[bytes] = b""
    status: int | None = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/html; charset=utf-8"})


class Server:
    """An HTTP server that answers by the path, without the query."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.answers: dict[str, Callable[[Request], Answer] | Answer | list[Answer]] = {}
        # Set by a test to end a response that hangs.
        self.done = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                request = Request(self.command, self.path, dict(self.headers.items()), self.rfile.read(length))
                outer.requests.append(request)
                with contextlib.suppress(OSError):  # the client has gone
                    outer._answer(request, self)

            do_GET = do_POST = handle_any

            def log_message(self, *_: object) -> None:
                pass

        class HTTPServer(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                if not isinstance(sys.exception(), OSError):  # the client has gone
                    super().handle_error(request, client_address)  # type: ignore[arg-type]

        self._http = HTTPServer((host, port), Handler)
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def port(self) -> int:
        return self._http.server_port

    def url(self, path: str, host: str = "site.test") -> str:
        return f"http://{host}:{self.port}{path}"

    def asked(self, path: str) -> list[Request]:
        """The requests for a path."""
        return [request for request in self.requests if request.path.partition("?")[0] == path]

    def close(self) -> None:
        self.done.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _answer(self, request: Request, handler: BaseHTTPRequestHandler) -> None:
        answer = self.answers.get(request.path.partition("?")[0], Answer(b"nothing here", 404))
        if callable(answer):
            answer = answer(request)
        elif isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        pieces = [answer.body] if isinstance(answer.body, bytes) else answer.body
        if answer.status is not None:
            handler.send_response(answer.status)
            length = {"Content-Length": str(len(answer.body))} if isinstance(answer.body, bytes) else {}
            for name, value in {**length, **answer.headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
        for piece in pieces:
            handler.wfile.write(piece)


@contextlib.contextmanager
def running(host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server, and close it at the end."""
    server = Server(host, port, tls)
    try:
        yield server
    finally:
        server.close()


def closed_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
