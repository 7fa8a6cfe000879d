"""A retriever behind HTTP, in the protocol of Search-R1 and its descendants.

`POST /retrieve` takes `{"queries": [...], "topk": 3, "return_scores": true}` and answers `{"result": [[...], ...]}`,
one list per query: documents, or with `return_scores` `{"document": ..., "score": ...}`
(https://github.com/PeterGriffinJin/Search-R1, search_r1/search/retrieval_server.py). A document has `id`, `contents`
(the quoted title, a line break, the text), and besides `title`, `text` and `url`. Ours too: `POST /read`
`{"reference": ...}` answers `{"document": ...}`, and `GET /health` says what is served.

A request is searched for in small batches, which take turns with those of others: nobody waits long behind one with
many queries. How much text one answer may hold is bounded.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from toolrl.errors import RetrieverFault, ToolError
from toolrl.search.base import Document, Retriever
from toolrl.support.serving import Body, Refusal, Server, Threads, answer, body_of, is_right, json_app, refuse_pages

T = TypeVar("T")

_MAX_BODY = 16 << 20
_MAX_ANSWER = 64 << 20
_MAX_QUERIES = 1024
_MAX_RESULTS = 1000
_DEFAULT_RESULTS = 3
_BATCH_SECONDS = 0.1  # a batch that took less is followed by one of twice the size
_MAX_BATCH = 64  # queries
_MAX_BATCH_RESULTS = 1024  # documents
_LEAST_AT_ONCE = 8  # searches may wait for a network and not for a core


class RetrievalServer:
    """Serves a retriever until it is closed; the retriever stays its owner's.

    Args:
        retriever: What is searched.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        api_key: What clients must send as `Authorization: Bearer ...`; None lets everyone search but the pages of
            browsers.

    Attributes:
        url: Where it is; clients POST to `url + "/retrieve"`.

    Raises:
        ConfigError: The address is not free.
    """

    def __init__(self, retriever: Retriever, *, host: str = "127.0.0.1", port: int = 0, api_key: str | None = None):
        self._retriever, self._host, self._api_key = retriever, host, api_key
        self._threads = Threads(max(_LEAST_AT_ONCE, os.cpu_count() or 1))
        routes = [
            Route("/retrieve", self._retrieve, methods=["POST"]),
            Route("/read", self._read, methods=["POST"]),
            Route("/health", self._health, methods=["GET"]),
        ]
        self._server = Server(json_app(routes), host=host, port=port, name="retrieval-server", guard=self._guard)
        self.url = self._server.url
        self._server.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _guard(self, headers: Headers) -> None:
        if self._api_key is None:
            refuse_pages(headers, self._host)

    def _check_key(self, request: Request) -> None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if self._api_key is not None and not (scheme.lower() == "bearer" and is_right(given, self._api_key)):
            raise Refusal(401, "the API key is not right; send it as `Authorization: Bearer ...`")

    async def _health(self, request: Request) -> Response:
        return answer({"status": "ok", "identity": self._retriever.identity})

    async def _retrieve(self, request: Request) -> Response:
        self._check_key(request)
        body = _Search.of(await body_of(request, _MAX_BODY), 422)
        k, results, size, count = body.topk or _DEFAULT_RESULTS, list[str](), 0, 1
        while len(results) < len(body.queries):
            queries = body.queries[len(results) : len(results) + count]
            found, seconds = await self._ask(self._search, queries, k, bool(body.return_scores))
            results += found
            size += sum(map(len, found))
            if size > _MAX_ANSWER:
                message = (
                    f"the answer would be larger than {_MAX_ANSWER >> 20} MB: send fewer queries, or a smaller topk"
                )
                raise Refusal(422, message)
            count = count * 2 if seconds < _BATCH_SECONDS else max(1, count // 2)
            count = max(1, min(count, _MAX_BATCH, _MAX_BATCH_RESULTS // k))
        return Response(f'{{"result": [{", ".join(results)}]}}', media_type="application/json")

    def _search(self, queries: list[str], k: int, with_scores: bool) -> tuple[list[str], float]:
        """One batch: a JSON list for each query, and how long it took in seconds."""
        started = time.monotonic()
        texts, size = [], 0
        for documents in self._retriever.search_batch(queries, k):
            size += sum(2 * len(document.text) for document in documents)
            if size > _MAX_ANSWER:
                raise _too_large()
            shown = [document_as_json(document) for document in documents]
            scored = [{"document": one, "score": found.score} for one, found in zip(shown, documents, strict=True)]
            texts.append(json.dumps(scored if with_scores else shown))
        return texts, time.monotonic() - started

    async def _read(self, request: Request) -> Response:
        self._check_key(request)
        body = _Reference.of(await body_of(request, _MAX_BODY), 422)
        return answer({"document": document_as_json(await self._ask(self._retriever.read, body.reference))})

    async def _ask(self, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return await self._threads.run(function, *arguments)
        except ToolError as error:
            raise Refusal(404, str(error), not_readable=True) from error
        except RetrieverFault as error:
            raise Refusal(503, str(error)) from error


def _too_large() -> Refusal:
    most = f"{_MAX_ANSWER >> 20} MB"
    return Refusal(422, f"the answer would be larger than {most}: send fewer queries, or a smaller topk")


def document_as_json(document: Document) -> dict[str, str]:
    """A document as it travels."""
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
