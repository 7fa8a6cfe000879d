"""The gateway over HTTP: OpenAI's `/v1/chat/completions` and `/v1/models`, Anthropic's `/v1/messages`, and `/mcp`.

The API key is the episode's. A turn is sampled whole and then sent; with `stream` it comes in events, and comments keep
the connection alive before.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from toolrl.errors import ConfigError, InfrastructureError
from toolrl.gateway.gateway import CallRefused, Client, Gateway
from toolrl.gateway.tools import ToolCalls
from toolrl.gateway.tree import Node
from toolrl.gateway.wire import Anthropic, Call, OpenAI
from toolrl.support.serving import Refusal, Server, json_response, read_body
from toolrl.support.waiting import give_up

_MAX_BODY_BYTES = 64 << 20
_LOOK_SECONDS = 0.5  # how soon a client that went away is noticed
_ALIVE_SECONDS = 10.0  # between two comments

Api = type[OpenAI] | type[Anthropic]


class GatewayServer(Server):
    """Serves a gateway until closed.

    Attributes:
        url: Its address. Of OpenAI's clients it is `base_url` with `/v1`, of Anthropic's without.
        mcp_url: Where the environments' tools are; empty if the package mcp is not installed.
    """

    def __init__(
        self, gateway: Gateway, *, host: str = "127.0.0.1", port: int = 0, listeners: Sequence[socket.socket] = ()
    ):
        """Listen.

        Args:
            gateway: What is served.
            host: Address to listen on.
            port: Port to listen on; 0 takes a free one.
            listeners: Further sockets that listen already; whoever passes them closes them.

        Raises:
            ConfigError: The address is in use, or not one of this machine.
        """
        self._gateway = gateway
        routes = [
            Route("/v1/chat/completions", self._serving(OpenAI), methods=["POST"]),
            Route("/v1/messages", self._serving(Anthropic), methods=["POST"]),
            Route("/v1/models", self._models, methods=["GET"]),
        ]
        tools = None
        if importlib.util.find_spec("mcp") is not None:
            from toolrl.gateway.mcp import PATH, tools_app

            tools = tools_app(self._calls_of)
            routes.append(Route(PATH, _Keyed(tools, self._calls_of), methods=["POST"]))
        app = Starlette(
            routes=routes,
            exception_handlers={404: _unknown, 405: _unknown, Refusal: _refused},
            lifespan=tools.router.lifespan_context if tools else None,
        )
        app.router.redirect_slashes = False
        super().__init__(app, host=host, port=port, name="gateway", lifespan=tools is not None, listeners=listeners)
        self.mcp_url = f"{self.url}{PATH}" if tools else ""
        self.start()

    async def _models(self, request: Request) -> Response:
        if self._client_of(request) is None:
            return json_response(OpenAI.error(_WRONG_KEY, 401), 401)
        model = {"id": self._gateway.model, "object": "model", "created": 0, "owned_by": "toolrl"}
        return json_response({"object": "list", "data": [model]})

    def _serving(self, api: Api) -> Callable[[Request], Awaitable[Response]]:
        async def serve(request: Request) -> Response:
            try:
                client = self._client_of(request)
                if client is None:
                    raise CallRefused(_WRONG_KEY, 401)
                call = api.read(_json(await read_body(request, _MAX_BODY_BYTES)))
                turn = asyncio.ensure_future(self._turn(client, call, api))
                if call.stream:
                    return StreamingResponse(_events(turn, api), media_type="text/event-stream")
                return json_response(await _awaited(turn, request))
            except (CallRefused, InfrastructureError, ConfigError, Refusal) as error:
                return json_response(api.error(*_described(error)), _described(error)[1])

        return serve

    async def _turn(self, client: Client, call: Call, api: Api) -> dict[str, Any]:
        node = await self._gateway.complete(
            client, call.messages, call.tools, max_tokens=call.max_tokens, stops=call.stops
        )
        texts = [self._gateway.text(token) for token in node.sample.token_ids] if call.logprobs else None
        return api.answer(node, self._gateway.model, _tokens_before(node), texts)

    def _client_of(self, request: Request) -> Client | None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        return self._gateway.client(key if scheme.lower() == "bearer" else request.headers.get("x-api-key", ""))

    def _calls_of(self, request: Request) -> ToolCalls:
        """The calls of tools of the episode whose key a request has.

        Raises:
            Refusal: There is no such episode, or it has no tools here.
        """
        client = self._client_of(request)
        if client is None:
            raise Refusal(401, _WRONG_KEY)
        if client.tools is None:
            raise Refusal(404, "this episode has no environment, and so no tools here")
        return client.tools


class _Keyed:
    """An application for those who have the key of an episode with tools."""

    def __init__(self, app: ASGIApp, calls_of: Callable[[Request], ToolCalls]):
        self._app, self._calls_of = app, calls_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._calls_of(Request(scope))
        await self._app(scope, receive, send)


_WRONG_KEY = "the API key is not that of an episode in progress"


def _tokens_before(node: Node) -> int:
    return len(node.ids) - len(node.sample.token_ids)


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CallRefused(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CallRefused(f"the body must be a JSON object, got a {type(value).__name__}")
    return value


def _described(error: Exception) -> tuple[str, int]:
    """What went wrong, and the HTTP status: clients try again after 503."""
    if isinstance(error, (CallRefused, Refusal)):
        return str(error), error.status
    return str(error), 400 if isinstance(error, ConfigError) else 503


async def _awaited(turn: asyncio.Future[dict[str, Any]], request: Request) -> dict[str, Any]:
    """The answer; a client that goes away meanwhile gives the turn up."""
    try:
        while not (await asyncio.wait((turn,), timeout=_LOOK_SECONDS))[0]:
            if await request.is_disconnected():
                raise ClientDisconnect
        return turn.result()
    finally:
        await give_up(turn)


async def _events(turn: asyncio.Future[dict[str, Any]], api: Api) -> AsyncIterator[str]:
    """The answer as server-sent events; the turn is given up with the connection."""
    try:
        while not (await asyncio.wait((turn,), timeout=_ALIVE_SECONDS))[0]:
            yield ": sampling\n\n"
        try:
            answer = turn.result()
        except (CallRefused, InfrastructureError, ConfigError) as error:
            yield _event("error", api.error(*_described(error)))
            return
        for kind, content in api.events(answer):
            yield _event(kind, content)
        yield api.END
    finally:
        with suppress(asyncio.CancelledError):
            await give_up(turn)


def _event(kind: str, content: dict[str, Any]) -> str:
    named = f"event: {kind}\n" if kind else ""
    return f"{named}data: {json.dumps(content)}\n\n"


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # no such route or method
    message = f"{request.method} {request.url.path} is not served here; /v1/chat/completions and /v1/messages are"
    return json_response(OpenAI.error(message, error.status_code), error.status_code, error.headers)
