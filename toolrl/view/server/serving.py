"""The application and its server."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from toolrl.errors import UserError
from toolrl.support.serving import Server
from toolrl.view.server import comparing, pages
from toolrl.view.server.access import Access
from toolrl.view.server.answers import answer
from toolrl.view.server.runs import Runs

_HOST = "127.0.0.1"


def make_app(paths: Sequence[Path], token: str) -> ASGIApp:
    """The application.

    Args:
        paths: Folders of runs, folders that hold such folders, files of trajectories.
        token: Whoever has it may look.

    Raises:
        TaskError: There is no run at one of the paths.
    """
    app = Starlette(
        routes=[
            Route("/", pages.run_list),
            Route("/run", pages.run_page),
            Route("/metrics", pages.metrics_page),
            Route("/episode", pages.episode_page),
            Route("/text", pages.text_page),
            Route("/tokens", pages.tokens_page),
            Route("/group", comparing.group_page),
            Route("/compare", comparing.compare_page),
            Route("/diff", comparing.diff_page),
        ],
        exception_handlers={UserError: _mistake, OSError: _mistake, 404: _not_found},
    )
    app.state.runs = Runs(paths)
    return Access(app, token)


def _mistake(request: Request, error: Exception) -> Response:
    return answer(request, "message.html", status=400, title="This cannot be shown", message=str(error))


def _not_found(request: Request, error: Exception) -> Response:
    return answer(request, "message.html", status=404, title="There is no such page", message="")


def _import_the_rest() -> None:
    """What only comparisons need and takes a second to import, while nobody waits for it."""
    for name in ("pandas", "toolrl.evaluation"):
        import_module(name)


class PageServer:
    """The local page, served on a thread.

    Attributes:
        url: Its address, with the token.
    """

    def __init__(self, paths: Sequence[Path], port: int = 0):
        """Listen on 127.0.0.1; `start` serves.

        Args:
            paths: What to show; see `make_app`.
            port: 0 takes a free one.

        Raises:
            ConfigError: The port is taken.
            TaskError: There is no run at one of the paths.
        """
        token = secrets.token_urlsafe(24)
        self._server = Server(make_app(paths, token), host=_HOST, port=port, name="toolrl-view")
        self.url = f"{self._server.url}/?token={token}"

    def start(self) -> None:
        """Serve until `stop`; returns when requests are answered.

        Raises:
            InfrastructureError: The server ended at once.
        """
        self._server.start()
        threading.Thread(target=_import_the_rest, name="toolrl-view-imports", daemon=True).start()

    def stop(self) -> None:
        """Answer what has been asked, and end."""
        self._server.stop()
