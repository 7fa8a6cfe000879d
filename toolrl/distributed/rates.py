"""The server of `toolrl.support.shared_rate`: one process's machine keeps the limits of all."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from toolrl.support.rate_limit import FARTHEST_SECONDS, RateLimit
from toolrl.support.serving import Body, Server, check_bearer, json_app, json_response, read_body

_MAX_BODY_BYTES = 1 << 16


class _Limit(Body):
    name: Annotated[str, Field(max_length=4096)]
    per_second: Annotated[float, Field(gt=0)]
    burst: Annotated[int, Field(ge=1)]
    seconds: Annotated[float, Field(ge=0)] = 0.0


class RateServer(Server):
    """Serves this machine's limits until closed.

    Attributes:
        address: The value of TOOLRL_RATES for those who ask: "URL KEY".
    """

    def __init__(self, host: str = "127.0.0.1", *, folder: Path | None = None):
        """Listen on a free port.

        Raises:
            ConfigError: The address is not one of this machine.
        """
        self._folder, key = folder, secrets.token_urlsafe(24)
        routes = [
            Route(f"/{name}", getattr(self, f"_{name}"), methods=["POST"]) for name in ("reserve", "hold", "held")
        ]
        app = json_app(routes)
        super().__init__(app, host=host, port=0, name="rate-server", guard=lambda headers: check_bearer(headers, key))
        self.start()
        self.address = f"{self.url} {key}"

    async def _limit(self, request: Request) -> tuple[RateLimit, float]:
        asked = _Limit.of(await read_body(request, _MAX_BODY_BYTES))
        return RateLimit(asked.name, asked.per_second, burst=asked.burst, folder=self._folder), asked.seconds

    async def _reserve(self, request: Request) -> Response:
        limit, seconds = await self._limit(request)
        return json_response({"seconds": await asyncio.to_thread(limit.reserve, min(seconds, FARTHEST_SECONDS))})

    async def _hold(self, request: Request) -> Response:
        limit, seconds = await self._limit(request)
        await asyncio.to_thread(limit.hold, seconds)
        return json_response({})

    async def _held(self, request: Request) -> Response:
        limit, _ = await self._limit(request)
        return json_response({"seconds": await asyncio.to_thread(limit.held_seconds)})
