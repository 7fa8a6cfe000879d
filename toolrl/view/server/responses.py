"""What pages share: reading a request, rendering the response, and links."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from toolrl.errors import ConfigError
from toolrl.view.columns import FIELDS, FUNCTIONS
from toolrl.view.rendering import render, url
from toolrl.view.server.runs import Run, Runs


def respond(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """Render a page."""
    html = render(
        template,
        fields=FIELDS,
        functions=FUNCTIONS,
        several_runs=len(runs_of(request).by_name) > 1,
        **values,
    )
    return HTMLResponse(html.encode("utf-8", "backslashreplace"), status_code=status)


def runs_of(request: Request) -> Runs:
    """The runs being served."""
    runs: Runs = request.app.state.runs
    return runs


def run_of(request: Request) -> Run:
    """The run named in a request, or the only run if it names none.

    Raises:
        ConfigError: There is no such run.
    """
    runs = runs_of(request)
    name = request.query_params.get("run", "")
    return next(iter(runs.by_name.values())) if not name and len(runs.by_name) == 1 else runs[name]


def whole_number(request: Request, name: str, default: int, most: int = 10**12) -> int:
    """A query parameter that is a whole number, 0 or more.

    Raises:
        ConfigError: It is something else.
    """
    text = request.query_params.get(name, "") or str(default)
    if not (text.isascii() and text.isdigit()) or len(text) > 13:
        raise ConfigError(f"{name} must be a whole number, got {text[:40]!r}")
    return min(int(text), most)


@dataclass(frozen=True, slots=True)
class Links:
    """Links from a trajectory's page to the texts and tokens that it omits.

    Attributes:
        run: The run's name.
        id: The trajectory's id.
        open_tokens: Whether its page shows the tokens unfolded.
    """

    run: str
    id: str
    open_tokens: bool = False

    def text(self, place: str, start: int) -> str:
        """A link to a text, from a character on."""
        return url("/text", run=self.run, id=self.id, place=place, start=start)

    def tokens(self, start: int = 0) -> str:
        """A link to the tokens, from one on."""
        return url("/tokens", run=self.run, id=self.id, start=start)
