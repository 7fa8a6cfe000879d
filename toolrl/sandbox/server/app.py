"""The server, in E2B's protocol: that of its API, of its code interpreter and of envd.

The code interpreter's is https://github.com/e2b-dev/code-interpreter, template/server. Requests to a sandbox are told
apart by the header E2b-Sandbox-Id.
"""

from __future__ import annotations

from typing import Self

from starlette.datastructures import Headers

from toolrl.errors import ConfigError
from toolrl.sandbox.local.sandbox import LocalSandbox
from toolrl.sandbox.server.hosting import Hosting, HostSettings
from toolrl.sandbox.server.routes import routes
from toolrl.support.serving import Server, is_loopback, json_app, refuse_browsers


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
        settings, self._host = settings or HostSettings(), host
        if settings.api_key is None and not is_loopback(host):
            raise ConfigError(f"--host {host} can be reached from other machines: give an API key, or use 127.0.0.1")
        LocalSandbox(settings.limits, packages=settings.packages).close()  # or no client could have one
        self.hosting = Hosting(settings)
        try:
            app = json_app(routes(self.hosting))
            self._server = Server(app, host=host, port=port, name="sandbox-server", guard=self._guard)
            self._server.start()
        except BaseException:
            self.hosting.close()
            raise
        self.url = self._server.url

    def close(self) -> None:
        """End all sandboxes and stop listening."""
        self.hosting.close()
        self._server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _guard(self, headers: Headers) -> None:
        if self.hosting.settings.api_key is None:
            refuse_browsers(headers, self._host)
