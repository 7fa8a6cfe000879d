"""What our HTTP servers share: the standard library's threading server, bounded and quiet."""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from toolrl.errors import ConfigError

_MAX_CONNECTIONS = 512
_IDLE_SECONDS = 120.0


class Server(ThreadingHTTPServer):
    """A connection is a thread, of which there are at most 512; one more is closed at once."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        """Listen; `start` serves.

        Args:
            host: Address to listen on.
            port: Port to listen on; 0 takes a free one.
            handler: Answers requests.

        Raises:
            ConfigError: The address is not free.
        """
        try:
            super().__init__((host, port), handler)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error}") from error
        self.url = f"http://{host}:{self.server_address[1]}"
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)

    def start(self, name: str) -> None:
        """Serve on a thread of that name until `stop`."""
        threading.Thread(target=self.serve_forever, name=name, daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection its thread."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; the rest prints its traceback."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Keeps connections open, and writes no log."""

    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep quiet."""
