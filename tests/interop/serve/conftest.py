"""Servers of environments, and connections to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.interop.serve.environments import MAKERS, make
from toolrl.interop.serve import EnvironmentServer, ServeLimits

Start = Callable[..., EnvironmentServer]


class Socket:
    """A connection that asks and is answered."""

    def __init__(self, connection: ClientConnection):
        self.connection = connection

    def ask(self, kind: str, data: Any = None) -> Mapping[str, Any]:
        message = {"type": kind} if data is None else {"type": kind, "data": data}
        return self.raw(json.dumps(message))

    def raw(self, text: str) -> Mapping[str, Any]:
        with suppress(ConnectionClosed):  # a server that refuses a session says why, and closes
            self.connection.send(text)
        answer: Mapping[str, Any] = json.loads(self.connection.recv(timeout=20))
        return answer

    def observe(self, kind: str, data: Any = None) -> Mapping[str, Any]:
        answer = self.ask(kind, data)
        assert answer["type"] == "observation", answer
        observed: Mapping[str, Any] = answer["data"]
        return observed


Connect = Callable[..., Socket]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers of some environments; they share the environments of a test."""
    opened: list[EnvironmentServer] = []
    made: dict[tuple[str, str], Any] = {}

    def make_once(name: str, split: str) -> Any:
        if (name, split) not in made:
            made[name, split] = make(name, split)
        return made[name, split]

    def begin(*names: str, limits: ServeLimits | None = None, **options: Any) -> EnvironmentServer:
        opened.append(EnvironmentServer(names or list(MAKERS), make_once, limits=limits, **options))
        return opened[-1]

    yield begin
    for server in opened:
        server.close()
    for env in made.values():
        env.close()


@pytest.fixture
def dial() -> Iterator[Connect]:
    """Connects to the WebSocket of an address."""
    opened: list[ClientConnection] = []

    def begin(url: str, path: str = "/ws", **headers: str) -> Socket:
        opened.append(connect(f"{url.replace('http', 'ws', 1)}{path}", additional_headers=headers))
        return Socket(opened[-1])

    yield begin
    for connection in opened:
        connection.close()
