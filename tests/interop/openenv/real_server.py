"""Runs in an environment of its own that has openenv: two servers of its own kind, `python real_server.py KIND PORT`.

`echo` is what `openenv init` writes, with room for many sessions; `tools` has tools by MCP, as its guide shows.
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from fastmcp import FastMCP  # type: ignore[import-not-found]
from openenv.core.env_server.http_server import create_app  # type: ignore[import-not-found]
from openenv.core.env_server.interfaces import Environment  # type: ignore[import-not-found]
from openenv.core.env_server.mcp_environment import MCPEnvironment  # type: ignore[import-not-found]
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation  # type: ignore[import-not-found]
from openenv.core.env_server.types import Action, Observation, State  # type: ignore[import-not-found]

SESSIONS = 32


class EchoAction(Action):  # type: ignore[misc,unused-ignore]
    """Say something."""

    message: str


class EchoObservation(Observation):  # type: ignore[misc,unused-ignore]
    """What was said."""

    echoed_message: str = ""
    message_length: int = 0


class Echo(Environment):  # type: ignore[misc,unused-ignore]
    """Echoes; longer messages earn more, which the audit must find."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        self._state = State()

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> EchoObservation:
        self._state = State(episode_id=episode_id, step_count=0)
        return EchoObservation(echoed_message="Echo environment ready!", done=False, reward=0.0)

    def step(self, action: EchoAction, timeout_s: float | None = None, **kwargs: Any) -> EchoObservation:
        self._state.step_count += 1
        reward = min(len(action.message) * 0.1, 1.0)
        return EchoObservation(
            echoed_message=action.message, message_length=len(action.message), done=False, reward=reward
        )

    @property
    def state(self) -> State:
        return self._state


class Tools(MCPEnvironment):  # type: ignore[misc,unused-ignore]
    """Adds numbers; the sum of the seed's is worth 1."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        server = FastMCP("tools")
        self._goal, self._state = 0, State()

        @server.tool  # type: ignore[untyped-decorator,unused-ignore]
        def add(a: int, b: int) -> int:
            """Add two numbers."""
            return a + b

        @server.tool  # type: ignore[untyped-decorator,unused-ignore]
        def divide(a: int, b: int) -> float:
            """Divide two numbers."""
            return a / b

        super().__init__(server)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        self._goal, self._state = (seed or 0) + 40, State(episode_id=episode_id, step_count=0)
        return Observation(done=False, reward=0.0, metadata={"goal": self._goal})

    def step(self, action: Any, timeout_s: float | None = None, **kwargs: Any) -> Any:
        observed = super().step(action, timeout_s=timeout_s, **kwargs)
        self._state.step_count += 1
        return observed

    def _step_impl(self, action: Any, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        return Observation(done=False, reward=0.0)

    @property
    def state(self) -> State:
        return self._state


KINDS: dict[str, tuple[Any, Any, Any]] = {
    "echo": (Echo, EchoAction, EchoObservation),
    "tools": (Tools, CallToolAction, CallToolObservation),
}

if __name__ == "__main__":
    kind, port = sys.argv[1], int(sys.argv[2])
    app = create_app(*KINDS[kind], env_name=kind, max_concurrent_envs=SESSIONS)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
