"""Requests that no library would send, over raw sockets."""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import urlsplit

# Sent any of these, a server answers in JSON or closes the connection, and goes on serving.
MALFORMED = (
    b"\r\n\r\n",
    b"\x00\x01\x02\x03",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 64,  # TLS
    b"GET /health\r\n\r\n",
    b"GET  /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /health HTTP/1.1\r\n\r\n",  # no Host
    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /h\xc3\xa9 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nbad header\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n: empty\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\x00b\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    *(
        b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: " + length + b"\r\n\r\n{}"
        for length in (b"-1", b"+2", b"2, 3", b"1e3", b"0x2", b"some", b"9" * 40, b"\xb2", b"")
    ),
    *(
        b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
        for chunks in (
            b"-1\r\n",
            b"g\r\n",
            b"\r\n",
            b"0x2\r\n{}\r\n0\r\n\r\n",
            b"f" * 40 + b"\r\n",
            b"2\r\n{}xx\r\n0\r\n\r\n",
        )
    ),
    b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip\r\n\r\n{}",
    b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nContent-Length: -1\r\n\r\n0\r\n\r\n",
)

# JSON bodies that are invalid for every route.
BODIES = (
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"{",
    b"\xff\xfe{}",
    b"[" * 100_000,
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    b'{"x": ' + b"9" * 10_000 + b"}",
    b'{"\\ud800": "\\udfff"}',
)


def connected(url: str, timeout: float = 10.0) -> socket.socket:
    """Open a connection to a server."""
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout)


def exchange(url: str, sent: bytes, timeout: float = 10.0) -> bytes:
    """Everything a server sends until it closes, or is silent for half a second."""
    with connected(url, timeout) as connection:
        connection.sendall(sent)
        received = b""
        try:
            while chunk := connection.recv(1 << 16):
                received += chunk
                connection.settimeout(0.5)
        except (TimeoutError, ConnectionError):
            pass
        return received


def answered(received: bytes) -> tuple[int, Any]:
    """Status and JSON of a single response."""
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 "), received[:200]
    assert b"application/json" in head, received[:400]
    return int(head.split()[1]), json.loads(body)


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """A well-formed request; underscores in header names become hyphens."""
    lines = {"Host": "127.0.0.1", "Connection": "close", "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body
