"""The application and the server that runs it."""

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
from toolrl.view.server import comparisons, pages
from toolrl.view.server.access import Access
from toolrl.view.server.responses import respond
from toolrl.view.server.runs import Runs

_HOST = "127.0.0.1"


def make_app(paths: Sequence[Path], token: str) -> ASGIApp:
    """Make the application.

    Args:
        paths: Folders of runs, folders with such folders in them, or files of trajectories.
        token: The secret that gives access.

    Raises:
        TaskError: There is no run at one of the paths.
    """
    app = Starlette(
        routes=[
            Route("/", pages.run_list),
            Route("/run", pages.run_page),
            Route("/metrics", pages.metrics_page),
            Route("/episode", pages.trajectory_page),
            Route("/text", pages.text_page),
            Route("/tokens", pages.tokens_page),
            Route("/group", comparisons.group_page),
            Route("/compare", comparisons.compare_page),
            Route("/diff", comparisons.diff_page),
        ],
        exception_handlers={UserError: _error_page, OSError: _error_page, 404: _not_found},
    )
    app.state.runs = Runs(paths)
    return Access(app, token)


def _error_page(request: Request, error: Exception) -> Response:
    return respond(request, "message.html", status=400, title="Cannot show this page", message=str(error))


def _not_found(request: Request, error: Exception) -> Response:
    return respond(request, "message.html", status=404, title="Page not found", message="")


def _import_for_comparisons() -> None:
    """Import what only comparisons need. It takes a second, best spent while nobody waits."""
    for name in ("pandas", "toolrl.evaluation"):
        import_module(name)


class PageServer(Server):
    """Serves the local page on a thread.

    Attributes:
        url: The address, with the token.
    """

    def __init__(self, paths: Sequence[Path], port: int = 0):
        """Listen on 127.0.0.1; `start` serves.

        Args:
            paths: What to show; see `make_app`.
            port: The port; 0 picks a free one.

        Raises:
            ConfigError: The port is taken.
            TaskError: There is no run at one of the paths.
        """
        token = secrets.token_urlsafe(24)
        super().__init__(make_app(paths, token), host=_HOST, port=port, name="toolrl-view")
        self.url += f"/?token={token}"

    def start(self) -> None:
        """Start serving, and return once requests are accepted.

        Raises:
            InfrastructureError: The server stopped at once.
        """
        super().start()
        threading.Thread(target=_import_for_comparisons, name="toolrl-view-imports", daemon=True).start()
