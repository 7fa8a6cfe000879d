"""A real chat-completions server on this machine: it gives scripted answers, and can misbehave."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """One response.

    Attributes:
        body: A JSON value, or raw text.
        status: The HTTP status.
        headers: Further headers.
        cut: Close the connection in the middle of the body.
        hang: Do not answer until the test is over.
        trickle: Send the body a byte at a time, slowly.
        gate: Wait for it before answering.
    """

    body: Any = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    hang: bool = False
    trickle: bool = False
    gate: threading.Event | None = None


def says(content: str | None = None, *calls: tuple[str, str], finish: str = "stop", **extra: Any) -> Answer:
    """A turn: text, and calls as (name, arguments in JSON). `usage` is (prompt, completion, cached) tokens."""
    prompt, completion, cached = extra.pop("usage", (100, 10, 0))
    message: dict[str, Any] = {"role": "assistant", "content": content, **extra}
    if calls:
        message["tool_calls"] = [
            {"id": f"c{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for index, (name, arguments) in enumerate(calls)
        ]
    details = {"prompt_tokens_details": {"cached_tokens": cached}} if cached else {}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, **details}
    return Answer({"choices": [{"message": message, "finish_reason": finish}], "usage": usage})


class Server(ThreadingHTTPServer):
    """Ignores clients that disconnect."""

    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Keeps connections open and logs nothing."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class ChatServer:
    """Gives its answers in order, then the last one again.

    Attributes:
        answers: Those still to come.
        requests: The bodies of the requests so far.
        headers: Their headers.
        most_at_once: The most requests that were in flight together.
    """

    def __init__(self, *answers: Answer):
        self.answers = list(answers)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        outer = self

        class ChatHandler(Handler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.requests.append({"path": self.path, **body})
                    outer.headers.append(dict(self.headers))
                    answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                    outer._at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer._at_once)
                try:
                    outer._answer(self, answer)
                finally:
                    with outer._lock:
                        outer._at_once -= 1

        self._server = Server(("127.0.0.1", 0), ChatHandler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), name="chat-server", daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def _answer(self, handler: Handler, answer: Answer) -> None:
        if answer.gate is not None:
            answer.gate.wait(30)
        if answer.hang:
            self._over.wait(30)
            handler.close_connection = True
            return
        payload = (answer.body if isinstance(answer.body, str) else json.dumps(answer.body)).encode()
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(payload)))
        handler.end_headers()
        if answer.trickle:
            for byte in payload:
                handler.wfile.write(bytes([byte]))
                if self._over.is_set():
                    break
                time.sleep(0.05)
        elif answer.cut:
            handler.wfile.write(payload[: len(payload) // 2])
            handler.close_connection = True
        else:
            handler.wfile.write(payload)

    def close(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving(*answers: Answer) -> Iterator[ChatServer]:
    """Run a server inside the block."""
    server = ChatServer(*answers)
    try:
        yield server
    finally:
        server.close()
