"""The server, which speaks the protocols of E2B's API, of its code interpreter and of envd.

The code interpreter's protocol: https://github.com/e2b-dev/code-interpreter, template/server. The header E2b-Sandbox-Id
names the sandbox of a request.
"""

from __future__ import annotations

from starlette.datastructures import Headers

from toolrl.errors import ConfigError
from toolrl.sandbox.local.sandbox import LocalSandbox
from toolrl.sandbox.server.hosting import Hosting, HostSettings
from toolrl.sandbox.server.routes import routes
from toolrl.support.serving import Server, is_loopback, json_app, refuse_browsers


class SandboxServer(Server):
    """Serves until it is closed.

    Args:
        settings: What clients get.
        host: Address to listen on; anything but loopback requires an API key.
        port: Port to listen on; 0 picks a free one.

    Attributes:
        url: Value for E2B_API_URL and E2B_SANDBOX_URL.

    Raises:
        ConfigError: The address is not loopback and no API key is set, the address is in use, or this machine
            offers too little isolation, see `LocalSandbox`.
    """

    def __init__(self, settings: HostSettings | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        settings, self._host = settings or HostSettings(), host
        if settings.api_key is None and not is_loopback(host):
            raise ConfigError(f"--host {host} is reachable from other machines: set an API key, or use 127.0.0.1")
        LocalSandbox(settings.limits, packages=settings.packages).close()  # fails now if no client could open one
        self.hosting = Hosting(settings)
        try:
            app = json_app(routes(self.hosting))
            super().__init__(app, host=host, port=port, name="sandbox-server", guard=self._guard)
            self.start()
        except BaseException:
            self.hosting.close()
            raise

    def close(self) -> None:
        """End all sandboxes and stop listening."""
        self.hosting.close()
        super().close()

    def _guard(self, headers: Headers) -> None:
        if self.hosting.settings.api_key is None:
            refuse_browsers(headers, self._host)
