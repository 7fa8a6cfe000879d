"""How a server is reached, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mcp.client.stdio import get_default_environment

from toolrl.support.secret_values import expand
from toolrl.tools.mcp.stdio import ServerProcess

if TYPE_CHECKING:
    from mcp.types import DiscoverResult, Tool as ServerTool

_FOLDER = "{folder}"


@dataclass(frozen=True)
class ServerSettings:
    """How a server is reached. Settings of `mcp_tools` that name environment variables still do."""

    name: str
    command: tuple[str, ...] = ()
    url: str = ""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def uses_folder(self) -> bool:
        """Whether each connection gets a folder of its own."""
        return any(_FOLDER in text for text in (*self.command, *self.env.values(), self.cwd or ""))

    def process(self, folder: str) -> ServerProcess:
        """The process of a stdio server."""
        env = {**get_default_environment(), **expand(dict(self.env))}
        return ServerProcess(
            [part.replace(_FOLDER, folder) for part in self.command],
            {name: value.replace(_FOLDER, folder) for name, value in env.items()},
            self.cwd.replace(_FOLDER, folder) if self.cwd else None,
        )


@dataclass(frozen=True)
class Known:
    """What is known of a server since its tools were listed.

    Attributes:
        tools: The tools that are used, as the server describes them.
        mode: The version of the protocol, as the SDK's client takes it; knowing it saves a request.
        discovered: What a server without a handshake said about itself.
    """

    tools: tuple[ServerTool, ...] = ()
    mode: str = "auto"
    discovered: DiscoverResult | None = None
