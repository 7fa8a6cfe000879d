"""The OpenAPI description of a server, from the pydantic models of its requests and answers, and a page of it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import toolrl

_REFERENCE = "#/components/schemas/{model}"


@dataclass(frozen=True, slots=True)
class Operation:
    """What an address does.

    Attributes:
        method: "get", "post" or "delete".
        path: With parameters in braces.
        about: In a line.
        answer: Model of the answer.
        request: Model of the body.
        query: Parameters after the question mark, with what they are.
    """

    method: str
    path: str
    about: str
    answer: type[BaseModel]
    request: type[BaseModel] | None = None
    query: Mapping[str, str] | None = None


def openapi(title: str, about: str, operations: Sequence[Operation]) -> dict[str, Any]:
    """The description: OpenAPI 3.1."""
    models = {operation.answer for operation in operations} | {one.request for one in operations if one.request}
    schemas = models_json_schema(
        [(model, "validation") for model in sorted(models, key=lambda model: model.__name__)],
        ref_template=_REFERENCE,
    )[1].get("$defs", {})
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": toolrl.__version__, "description": about},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _described(operation: Operation) -> dict[str, Any]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    in_query = [
        {"name": name, "in": "query", "required": False, "description": what, "schema": {"type": "string"}}
        for name, what in (operation.query or {}).items()
    ]
    described: dict[str, Any] = {
        "summary": operation.about,
        "parameters": in_path + in_query,
        "responses": {"200": {"description": "The answer.", "content": _content(operation.answer)}},
    }
    if operation.request is not None:
        described["requestBody"] = {"content": _content(operation.request)}
    return described


def _content(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}}


def as_page(document: Mapping[str, Any]) -> str:
    """The description as a page that needs nothing from elsewhere."""
    parts = []
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            body = described.get("requestBody", {}).get("content")
            answer = described["responses"]["200"]["content"]
            rows = "".join(
                f"<li><code>{html.escape(one['name'])}</code> {html.escape(one.get('description', ''))}</li>"
                for one in described["parameters"]
            )
            parts.append(
                f"<section><h2><b>{method.upper()}</b> <code>{html.escape(path)}</code></h2>"
                f"<p>{html.escape(described['summary'])}</p>{f'<ul>{rows}</ul>' if rows else ''}"
                f"{_shown('Request', body)}{_shown('Answer', answer)}</section>"
            )
    schemas = "".join(
        f"<details id='{html.escape(name)}'><summary>{html.escape(name)}</summary>"
        f"<pre>{html.escape(json.dumps(schema, indent=1))}</pre></details>"
        for name, schema in document["components"]["schemas"].items()
    )
    title, about = html.escape(document["info"]["title"]), html.escape(document["info"]["description"])
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        "<meta name='viewport' content='width=device-width'><style>body{font:16px/1.5 system-ui;max-width:50rem;"
        "margin:2rem auto;padding:0 1rem;color-scheme:light dark}h2{font-size:1.05rem;margin-top:2rem}"
        "pre{overflow:auto}b{color:#2a7}summary{font-family:monospace}</style>"
        f"<h1>{title}</h1><p>{about} As JSON: <a href='openapi.json'>openapi.json</a></p>"
        f"{''.join(parts)}<h2>Models</h2>{schemas}</html>"
    )


def _shown(what: str, content: Mapping[str, Any] | None) -> str:
    if not content:
        return ""
    name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
    return f"<p>{what}: <a href='#{html.escape(name)}'>{html.escape(name)}</a></p>"
