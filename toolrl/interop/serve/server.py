"""The server of environments: its addresses, who may use it, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from toolrl.env import ToolEnv
from toolrl.errors import ConfigError, MissingExtra
from toolrl.interop.serve.host import Host, ServeLimits
from toolrl.interop.serve.openapi import as_page, openapi
from toolrl.interop.serve.openenv import OpenEnvApi
from toolrl.interop.serve.openenv_wire import OPERATIONS as OPENENV
from toolrl.interop.serve.plain import OPERATIONS as PLAIN, PlainApi
from toolrl.support.serving import Server, check_bearer, is_loopback, json_app, json_response, refuse_browsers

_PAGE = Path(__file__).with_name("play.html")
_POLICY = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_ABOUT = "Environments of toolrl. Answers and grading stay on the server."


class EnvironmentServer(Server):
    """Serves environments until closed; then sessions are closed too, and what they opened.

    Every environment is at `URL/openenv/NAME` for OpenEnv's clients, and at `URL` too if it is the only one. Plain HTTP
    is at `URL/v1`, described at `URL/docs` and `URL/openapi.json`; a person plays at `URL/play`.

    Attributes:
        url: Its address.
        names: The environments' names, by what stands for them in addresses.
    """

    def __init__(
        self,
        names: Sequence[str],
        make: Callable[[str, str], ToolEnv],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        limits: ServeLimits | None = None,
    ):
        """Listen.

        Args:
            names: The environments' names.
            make: Makes one by name and split ("train" or "test"), the same one each time. The caller closes them, after
                the server.
            host: Address to listen on.
            port: Port to listen on; 0 takes a free one.
            api_key: Clients must send it as `Authorization: Bearer ...`; needed beyond this machine.
            limits: Bounds of its sessions.

        Raises:
            ConfigError: The address is in use, or not one of this machine, or needs a key.
            MissingExtra: The package websockets is not installed.
        """
        if importlib.util.find_spec("websockets") is None:
            raise MissingExtra("websockets", "serve")
        if api_key is None and not is_loopback(host):
            raise ConfigError(f"--host {host} lets other machines in; set an API key, which their clients send")
        self._address, self._key = host, api_key
        served = Host(names, make, limits or ServeLimits())
        self.names = dict(served.names)
        app = json_app(_routes(served))
        app.router.lifespan_context = _keeping(served)
        super().__init__(
            app, host=host, port=port, name="environment-server", guard=self._guard, lifespan=True, websockets=True
        )
        self.start()

    def _guard(self, headers: Headers) -> None:
        if self._key is None:
            refuse_browsers(headers, self._address)
        else:
            check_bearer(headers, self._key)


def _keeping(host: Host) -> Callable[[Any], contextlib.AbstractAsyncContextManager[None]]:
    """Close idle sessions while the server runs, and all of them at its end."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(host.sweep())
        try:
            yield
        finally:
            sweeping.cancel()
            await host.close_all()

    return lifespan


def _routes(host: Host) -> list[BaseRoute]:
    apis = {address: OpenEnvApi(host, address) for address in host.names}
    alone = next(iter(apis.values())) if len(apis) == 1 else None
    routes: list[BaseRoute] = [*PlainApi(host).routes, *_described([*PLAIN, *(OPENENV if alone else ())])]
    routes.append(Route("/play", _play))
    for address, api in apis.items():
        routes.append(Mount(f"/openenv/{address}", routes=[*_described(OPENENV, address), *api.routes]))
    return [*routes, *(alone.routes if alone else ())]


async def _play(request: Request) -> Response:
    """The page on which a person plays."""
    return HTMLResponse(_PAGE.read_bytes(), headers={"Content-Security-Policy": _POLICY})


def _described(operations: Sequence[Any], address: str = "") -> list[Route]:
    """Routes of the description, as JSON and as a page."""
    document = openapi(f"toolrl: {address}" if address else "toolrl", _ABOUT, operations)
    page = as_page(document)

    async def as_json(request: Request) -> Response:
        return json_response(document)

    async def as_html(request: Request) -> Response:
        return HTMLResponse(page)

    return [Route("/openapi.json", as_json), Route("/docs", as_html)]
