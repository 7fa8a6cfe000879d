"""How a page is answered, and the links that pages have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from toolrl.errors import ConfigError
from toolrl.view.columns import FIELDS, FUNCTIONS
from toolrl.view.rendering import render, url
from toolrl.view.server.runs import Run, Runs


def answer(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """A page of ours."""
    html = render(
        template,
        fields=FIELDS,
        functions=FUNCTIONS,
        several_runs=len(runs_of(request).by_name) > 1,
        **values,
    )
    return HTMLResponse(html.encode("utf-8", "backslashreplace"), status_code=status)


def runs_of(request: Request) -> Runs:
    """The runs that are served."""
    runs: Runs = request.app.state.runs
    return runs


def run_of(request: Request) -> Run:
    """The run that an address names; the only one, if it names none.

    Raises:
        ConfigError: There is no such run.
    """
    runs = runs_of(request)
    name = request.query_params.get("run", "")
    return next(iter(runs.by_name.values())) if not name and len(runs.by_name) == 1 else runs[name]


def whole_number(request: Request, name: str, default: int, most: int = 10**12) -> int:
    """A whole number of an address, from 0 on.

    Raises:
        ConfigError: It is none.
    """
    text = request.query_params.get(name, "") or str(default)
    if not (text.isascii() and text.isdigit()) or len(text) > 13:
        raise ConfigError(f"{name} must be a whole number, got {text[:40]!r}")
    return min(int(text), most)


@dataclass(frozen=True, slots=True)
class Links:
    """Links from an episode to what is not on its page.

    Attributes:
        run: The run's name.
        id: The episode's.
        open_tokens: Whether its tokens are open from the start.
    """

    run: str
    id: str
    open_tokens: bool = False

    def text(self, place: str, start: int) -> str:
        """A text from a character on."""
        return url("/text", run=self.run, id=self.id, place=place, start=start)

    def tokens(self, start: int = 0) -> str:
        """Tokens from one on."""
        return url("/tokens", run=self.run, id=self.id, start=start)
