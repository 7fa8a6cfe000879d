"""The templates: how they are filled, and the policy that a page of ours gives its browser."""

from __future__ import annotations

import base64
import hashlib
import math
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from toolrl.view.text import call_parts, excerpt, marked, plain, python

_FOLDER = Path(__file__).parent


@cache
def environment() -> Environment:
    """Templates in which every text is escaped, and what cannot be seen in it is replaced by a stand-in."""
    made = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "marked": marked,
        "excerpt": excerpt,
        "number": number,
        "signed": lambda value: number(value, sign=True),
        "count": lambda value: "-" if value is None else f"{value:,}",
        "percent": lambda value: "-" if _is_missing(value) else f"{100 * value:.0f}%",
        "duration": duration,
        "short_env": lambda env_id: env_id.rsplit("/", 1)[-1],
        "python": python,
    }
    made.globals |= {"asset": asset, "call_parts": call_parts, "url": url}
    return made


def render(template: str, **values: Any) -> Markup:
    """Fill a template."""
    return Markup(environment().get_template(template).render(**values))


@cache
def asset(name: str) -> Markup:
    """A style sheet or a script of ours, to stand inside a page."""
    return Markup((_FOLDER / "static" / name).read_text("utf-8"))


@cache
def content_security_policy(*, served: bool) -> str:
    """Nothing but our own style and script, by their hashes; a page that is served may ask its own server."""
    script, style = (_hash(asset(name)) for name in ("view.js", "view.css"))
    policy = f"default-src 'none'; script-src {script}; style-src {style}; img-src data:; base-uri 'none'"
    return f"{policy}; form-action 'self'; connect-src 'self'; frame-ancestors 'none'" if served else policy


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _finalize(value: Any) -> Any:
    if isinstance(value, Markup):
        return value
    return plain(value) if isinstance(value, str) else "" if value is None else value


def url(path: str, **parameters: Any) -> str:
    """A link within our pages; parameters that are None or empty are left out."""
    given = {name: value for name, value in parameters.items() if value not in (None, "")}
    return f"{path}?{urlencode(given, errors='backslashreplace')}" if given else path


def number(value: float | None, *, sign: bool = False) -> str:
    """Three significant digits or so, without an exponent where that can be avoided."""
    if value is None or _is_missing(value):
        return "-"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 100_000 or size < 0.001:
        text = f"{value:{'+' if sign else ''}.2g}"
    else:
        text = f"{value:{'+' if sign else ''},.{0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 0.1 else 3}f}"
    return text.replace("-", "\N{MINUS SIGN}", 1) if value < 0 else text


def duration(seconds: float | None) -> str:
    """Such as 4 ms, 1.25 s, 3 min 20 s."""
    if seconds is None or _is_missing(seconds):
        return "-"
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.001 or seconds == 0 else "<1 ms"
    if seconds < 100:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
