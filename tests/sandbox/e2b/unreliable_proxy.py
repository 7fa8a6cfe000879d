"""A proxy to our sandbox server that injects the failures of an unreliable network."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

# What happens to a request on its first attempt; later attempts succeed.
FAILURES = (429, "lost answer", None, 503, "cut", None, 502)
KEEPALIVE = b'{"type": "keepalive"}\n'
PAUSE_SECONDS = 0.05


class UnreliableProxy(ThreadingHTTPServer):
    """Passes requests on, except for those that it lets fail.

    Running a user's code is not idempotent and never fails: its stream arrives in small
    pieces, with keepalives late and in between.

    Attributes:
        failures: How often each has been injected.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.url = urlsplit(url).netloc, f"http://127.0.0.1:{self.server_address[1]}"
        self.failures: dict[Any, int] = {}
        self._seen: set[bytes] = set()
        self._next = itertools.cycle(FAILURES)
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def failure_of(self, request: bytes, is_users: bool) -> int | str | None:
        """The failure to inject into a request, if any."""
        digest = hashlib.sha256(request).digest()
        with self._lock:
            if is_users or digest in self._seen:
                return None
            self._seen.add(digest)
            found = next(self._next)
            self.failures[found] = self.failures.get(found, 0) + 1
            return found

    def close(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: UnreliableProxy

    def do_POST(self) -> None:
        body = self._body()
        is_users = b"_toolrl_kernel.run(" in body
        request = b"\0".join((self.requestline.encode(), self.headers.get("Idempotency-Key", "").encode(), body))
        sandbox = self.headers.get("E2b-Sandbox-Id", "").encode()
        # The SDK checks the health only after a failure; a second one would mean that the sandbox has ended.
        found = None if self.path == "/health" else self.server.failure_of(sandbox + request, is_users)
        if isinstance(found, int):
            self._answer(found, [("Content-Type", "application/json")], b'{"code": %d, "message": "injected"}' % found)
            return
        if found == "cut":
            self.close_connection = True
            return
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=120)
        try:
            self._pass_on(upstream, body, found == "lost answer")
        finally:
            upstream.close()

    do_GET = do_DELETE = do_POST

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _pass_on(self, upstream: http.client.HTTPConnection, body: bytes, is_lost: bool) -> None:
        ours = ("connection", "transfer-encoding", "content-length", "host", "server", "date")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ours}
        upstream.request(self.command, self.path, body, headers)
        response = upstream.getresponse()
        kept = [(name, value) for name, value in response.getheaders() if name.lower() not in ours]
        if self.path != "/execute" or response.getheader("Transfer-Encoding") != "chunked":
            content = response.read()
            if is_lost:
                self.close_connection = True
            else:
                self._answer(response.status, kept, content)
            return
        self.send_response(response.status)
        for name, value in (*kept, ("Transfer-Encoding", "chunked")):
            self.send_header(name, value)
        self.end_headers()
        time.sleep(PAUSE_SECONDS)
        self._chunk(KEEPALIVE)
        while line := response.readline():
            for piece in (line[:5], line[5:9], line[9:], KEEPALIVE):
                self._chunk(piece)
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(content)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
