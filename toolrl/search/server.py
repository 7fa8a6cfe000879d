"""A retriever behind HTTP, in the protocol of Search-R1 and its descendants.

`POST /retrieve` takes `{"queries": [...], "topk": 3, "return_scores": true}` and answers `{"result": [[...], ...]}`,
one list per query: documents, or with `return_scores` `{"document": ..., "score": ...}`
(https://github.com/PeterGriffinJin/Search-R1, search_r1/search/retrieval_server.py). A document has `id`, `contents`
(the quoted title, a line break, the text), `title`, `text` and `url`. Our additions: `POST /read`
`{"reference": ...}` answers `{"document": ...}`, and `GET /health` says what is served.

Requests are searched in small batches that take turns, so that no client waits long behind one with many queries. The
amount of text in one response is bounded.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import Field
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from toolrl.errors import RetrieverFault, ToolError
from toolrl.search.base import Document, Retriever
from toolrl.support.serving import (
    Body,
    Refusal,
    Server,
    check_bearer,
    json_app,
    json_response,
    read_body,
    refuse_browsers,
)
from toolrl.support.threads import Threads

T = TypeVar("T")

_MAX_BODY_BYTES = 16 << 20
_MAX_RESPONSE_BYTES = 64 << 20
_MAX_QUERIES = 1024
_MAX_RESULTS = 1000
_DEFAULT_RESULTS = 3
_BATCH_SECONDS = 0.1  # a faster batch is followed by one of twice the size
_MAX_BATCH_QUERIES = 64
_MAX_BATCH_RESULTS = 1024
_MIN_THREADS = 8  # searches may wait for a network rather than a core


class RetrievalServer(Server):
    """Serves a retriever until closed; the retriever itself is not closed.

    Args:
        retriever: The retriever to serve.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        api_key: Clients must send it as `Authorization: Bearer ...`; None lets everyone search except web pages.

    Attributes:
        url: The server's address; clients POST to `url + "/retrieve"`.

    Raises:
        ConfigError: The address is in use.
    """

    def __init__(self, retriever: Retriever, *, host: str = "127.0.0.1", port: int = 0, api_key: str | None = None):
        self._retriever, self._host, self._api_key = retriever, host, api_key
        self._threads = Threads(max(_MIN_THREADS, os.cpu_count() or 1))
        routes = [
            Route("/retrieve", self._retrieve, methods=["POST"]),
            Route("/read", self._read, methods=["POST"]),
            Route("/health", self._health, methods=["GET"]),
        ]
        super().__init__(json_app(routes), host=host, port=port, name="retrieval-server", guard=self._guard)
        self.start()

    def _guard(self, headers: Headers) -> None:
        if self._api_key is None:
            refuse_browsers(headers, self._host)

    def _check_key(self, request: Request) -> None:
        if self._api_key is not None:
            check_bearer(request.headers, self._api_key)

    async def _health(self, request: Request) -> Response:
        return json_response({"status": "ok", "identity": self._retriever.identity})

    async def _retrieve(self, request: Request) -> Response:
        self._check_key(request)
        body = _Search.of(await read_body(request, _MAX_BODY_BYTES), 422)
        k, results, size, count = body.topk or _DEFAULT_RESULTS, list[str](), 0, 1
        while len(results) < len(body.queries):
            queries = body.queries[len(results) : len(results) + count]
            found, seconds = await self._call(self._search, queries, k, bool(body.return_scores))
            results += found
            size += sum(map(len, found))
            _check_size(size)
            count = count * 2 if seconds < _BATCH_SECONDS else max(1, count // 2)
            count = max(1, min(count, _MAX_BATCH_QUERIES, _MAX_BATCH_RESULTS // k))
        return Response(f'{{"result": [{", ".join(results)}]}}', media_type="application/json")

    def _search(self, queries: list[str], k: int, with_scores: bool) -> tuple[list[str], float]:
        """Search one batch: a JSON list per query, and the seconds it took."""
        started = time.monotonic()
        texts, size = [], 0
        for documents in self._retriever.search_batch(queries, k):
            size += sum(2 * len(document.text) for document in documents)
            _check_size(size)
            shown = [document_as_json(document) for document in documents]
            scored = [{"document": one, "score": found.score} for one, found in zip(shown, documents, strict=True)]
            texts.append(json.dumps(scored if with_scores else shown))
        return texts, time.monotonic() - started

    async def _read(self, request: Request) -> Response:
        self._check_key(request)
        body = _Reference.of(await read_body(request, _MAX_BODY_BYTES), 422)
        return json_response({"document": document_as_json(await self._call(self._retriever.read, body.reference))})

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return await self._threads.run(function, *arguments)
        except ToolError as error:
            raise Refusal(404, str(error), not_readable=True) from error
        except RetrieverFault as error:
            raise Refusal(503, str(error)) from error


def _check_size(size: int) -> None:
    if size > _MAX_RESPONSE_BYTES:
        most = f"{_MAX_RESPONSE_BYTES >> 20} MB"
        raise Refusal(422, f"the response would be larger than {most}; send fewer queries or a smaller topk")


def document_as_json(document: Document) -> dict[str, str]:
    """A document as the protocol has it."""
    contents = f'"{document.title}"\n{document.text}' if document.title else document.text
    return {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "url": document.url,
        "contents": contents,
    }


class _Search(Body):
    queries: Annotated[list[str], Field(max_length=_MAX_QUERIES)]
    topk: Annotated[int, Field(ge=1, le=_MAX_RESULTS)] | None = None
    return_scores: bool | None = None


class _Reference(Body):
    reference: str
