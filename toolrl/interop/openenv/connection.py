"""An OpenEnv server, and an episode on it: one connection, over which actions go and observations come."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import httpx

from toolrl.errors import ConfigError, InfrastructureError, ToolError
from toolrl.support.checking import finite
from toolrl.support.secret_values import expand
from toolrl.tools.awards import award

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

_MAX_MESSAGE_BYTES = 16 << 20
_FULL_SECONDS = 60.0  # how long a full server is asked again


@dataclass(frozen=True)
class Server:
    """Where an environment is.

    Attributes:
        url: Its address, as OpenEnv's clients take it.
        headers: Sent with each request.
        seconds: How long an answer may take.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 60.0

    def get(self, path: str) -> Any:
        """What is at a path, as JSON; None if there is nothing.

        Raises:
            InfrastructureError: The server is unreachable, or answers with something else.
        """
        return self._asked("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """See `get`."""
        return self._asked("POST", path, body)

    def _asked(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        try:
            answer = httpx.request(
                method, f"{self.url.rstrip('/')}{path}", json=body, headers=expand(dict(self.headers)),
                timeout=self.seconds,
            )  # fmt: skip
        except httpx.HTTPError as error:
            raise InfrastructureError(f"the OpenEnv server at {self.url} is unreachable: {error}") from error
        if answer.status_code in (404, 405, 501):  # a server that lacks a part of the protocol
            return None
        if answer.status_code in (401, 403):
            raise ConfigError(f"the server at {self.url} refuses us ({answer.status_code}); pass headers= with its key")
        if answer.status_code != 200:
            raise InfrastructureError(f"the OpenEnv server at {self.url} answered {path} with {answer.status_code}")
        try:
            return answer.json()
        except ValueError as error:
            raise InfrastructureError(f"what the server at {self.url} answered to {path} is not JSON") from error


class Observed(NamedTuple):
    """What a server answered.

    Attributes:
        observation: As the server sent it.
        reward: None if it gave none.
        done: Whether the episode is over.
        metadata: What else it sent.
    """

    observation: dict[str, Any]
    reward: float | None
    done: bool
    metadata: dict[str, Any]


class Connection:
    """An episode on a server.

    Attributes:
        rewards: What steps earned so far.
        done: Whether the server has ended the episode.
        score: What the server said of the score, if it is toolrl's.
        first: What `reset` returned.
    """

    def __init__(self, server: Server, reset: Mapping[str, Any]):
        """Connect, and begin.

        Args:
            server: Where.
            reset: Arguments of `reset`.

        Raises:
            InfrastructureError: The server is unreachable, full for too long, or fails.
        """
        self.rewards: list[float] = []
        self.done = False
        self.score: Mapping[str, Any] | None = None
        self._server = server
        self._socket, self.first = self._begun(reset)

    def _begun(self, reset: Mapping[str, Any]) -> tuple[ClientConnection, Observed]:
        give_up, pause = time.monotonic() + _FULL_SECONDS, 0.1
        while True:
            self._socket = _connected(self._server)
            try:
                return self._socket, self._asked("reset", reset)
            except _Full as full:
                self.close()
                if time.monotonic() + pause > give_up:
                    raise InfrastructureError(f"the server at {self._server.url} is full: {full}") from None
                time.sleep(pause)
                pause = min(2 * pause, 5.0)
            except BaseException:
                self.close()
                raise

    def act(self, action: Mapping[str, Any]) -> Observed:
        """Act.

        Raises:
            ToolError: The server refuses the action, or has ended the episode: the model's mistake.
            InfrastructureError: The server is unreachable, or fails.
        """
        if self.done:
            raise ToolError("the episode is over")
        observed = self._asked("step", action)
        if observed.reward is not None:
            self.rewards.append(observed.reward)
            if observed.reward:
                award(observed.reward)
        self.done = observed.done
        given = observed.metadata.get("score")
        self.score = given if isinstance(given, Mapping) else None
        return observed

    def close(self) -> None:
        """Say goodbye."""
        from websockets.exceptions import ConnectionClosed

        try:
            self._socket.send(json.dumps({"type": "close"}))
            self._socket.close()
        except (ConnectionClosed, OSError, TimeoutError):
            pass

    def _asked(self, kind: str, data: Mapping[str, Any]) -> Observed:
        from websockets.exceptions import WebSocketException

        url = self._server.url
        with suppress(WebSocketException, OSError):  # a server that refuses a session says why, and closes
            self._socket.send(json.dumps({"type": kind, "data": data}))
        try:
            text = self._socket.recv(timeout=self._server.seconds)
            answer = json.loads(text)
            content = answer["data"]
            if answer["type"] == "error":
                _refuse(str(content.get("code")), str(content.get("message")), url)
            reward = content.get("reward")
            return Observed(
                dict(content["observation"]),
                None if reward is None else finite("a reward of the server", float(reward)),
                bool(content.get("done")),
                dict(content.get("metadata") or content["observation"].get("metadata") or {}),
            )
        except TimeoutError:
            # The answer would come to the next question, so nothing can be asked on this connection again.
            raise InfrastructureError(f"the server at {url} has not answered for {self._server.seconds:g} s") from None
        except (WebSocketException, OSError) as error:
            raise InfrastructureError(f"the connection to the server at {url} broke: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InfrastructureError(f"the server at {url} does not speak OpenEnv's protocol: {error!r}") from error


class _Full(Exception):
    """The server has no room for another session."""


def _refuse(code: str, message: str, url: str) -> None:
    if code == "CAPACITY_REACHED":
        raise _Full(message)
    if code == "VALIDATION_ERROR":
        raise ToolError(f"the environment refuses this action: {message}")
    raise InfrastructureError(f"the server at {url} failed ({code}): {message}")


def _connected(server: Server) -> ClientConnection:
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    parts = urlsplit(server.url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    url = urlunsplit(parts._replace(scheme=scheme, path=f"{parts.path.rstrip('/')}/ws"))
    try:
        return connect(
            url, additional_headers=expand(dict(server.headers)), max_size=_MAX_MESSAGE_BYTES,
            open_timeout=server.seconds, close_timeout=5.0,
        )  # fmt: skip
    except (WebSocketException, OSError, TimeoutError) as error:
        raise InfrastructureError(f"the OpenEnv server at {server.url} is unreachable: {error}") from error
