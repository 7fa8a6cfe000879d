"""Rendering of templates, number formats, and the content security policy of our pages."""

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

from toolrl.evaluation.compare import p_text
from toolrl.support.visible import plain
from toolrl.view.text import call_parts, excerpt, marked, python

_FOLDER = Path(__file__).parent


@cache
def environment() -> Environment:
    """The template environment: every text is escaped, and invisible characters become stand-ins."""
    templates = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "marked": marked,
        "excerpt": excerpt,
        "number": number,
        "signed": lambda value: number(value, sign=True),
        "count": lambda value: "-" if value is None else f"{value:,}",
        "percent": lambda value: "-" if _is_missing(value) else f"{100 * value:.0f}%",
        "duration": duration,
        "p_value": p_text,
        "short_env": lambda env_id: env_id.rsplit("/", 1)[-1],
        "python": python,
    }
    templates.globals |= {"asset": asset, "call_parts": call_parts, "url": url}
    return templates


def render(template: str, **values: Any) -> Markup:
    """Render a template."""
    return Markup(environment().get_template(template).render(**values))


@cache
def asset(name: str) -> Markup:
    """One of our style sheets or scripts, to embed in a page."""
    return Markup((_FOLDER / "static" / name).read_text("utf-8"))


@cache
def content_security_policy(*, served: bool) -> str:
    """A policy that allows our own style and script only, by hash; a served page may also query its server."""
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
    """A link to one of our pages; parameters that are None or empty are omitted."""
    given = {name: value for name, value in parameters.items() if value not in (None, "")}
    return f"{path}?{urlencode(given, errors='backslashreplace')}" if given else path


def number(value: float | None, *, sign: bool = False) -> str:
    """A number with about three significant digits, and an exponent only if it is very large or small."""
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
    """A duration, such as 4 ms, 1.25 s or 3 min 20 s."""
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
