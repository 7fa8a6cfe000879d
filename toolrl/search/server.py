"""A retriever behind HTTP, in the protocol of Search-R1 and its descendants.

`POST /retrieve` takes `{"queries": [...], "topk": 3, "return_scores": true}` and answers `{"result": [[...], ...]}`,
one list per query: documents, or with `return_scores` `{"document": ..., "score": ...}`
(https://github.com/PeterGriffinJin/Search-R1, search_r1/search/retrieval_server.py). A document has `id`, `contents`
(the quoted title, a line break, the text), and besides `title`, `text` and `url`. Ours too: `POST /read`
`{"reference": ...}` answers `{"document": ...}`, and `GET /health` says what is served.

The standard library's server is enough: a connection is a thread, and as many search at a time as there are cores.
"""

from __future__ import annotations

import hmac
import json
import os
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from toolrl.errors import RetrieverFault, ToolError
from toolrl.search.base import Document, Retriever
from toolrl.serving import Handler, Server

_MAX_BODY = 16 << 20
_MAX_QUERIES = 1024
_MAX_RESULTS = 1000
_DEFAULT_RESULTS = 3


class RetrievalServer:
    """Serves a retriever until it is closed; the retriever stays its owner's.

    Args:
        retriever: What is searched.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        api_key: What clients must send as `Authorization: Bearer ...`; None lets everyone search.

    Attributes:
        url: Where it is; clients POST to `url + "/retrieve"`.

    Raises:
        ConfigError: The address is not free.
    """

    def __init__(self, retriever: Retriever, *, host: str = "127.0.0.1", port: int = 0, api_key: str | None = None):
        self._server = _Server(host, port)
        self._server.retriever, self._server.api_key = retriever, api_key
        self.url = self._server.url
        self._server.start("retrieval-server")

    def close(self) -> None:
        """Stop listening."""
        self._server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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


class _Reply(NamedTuple):
    status: int
    body: Mapping[str, Any]


class _BadRequest(ValueError):
    """What the client has sent makes no sense."""


class _Server(Server):
    retriever: Retriever
    api_key: str | None

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port, _Handler)
        self.slots = threading.BoundedSemaphore(os.cpu_count() or 1)


class _Handler(Handler):
    server: _Server

    def do_GET(self) -> None:
        """Say what is served."""
        if self.path != "/health":
            self._send(_Reply(404, {"detail": f"GET {self.path} is not served here"}))
        else:
            self._send(_Reply(200, {"status": "ok", "identity": self.server.retriever.identity}))

    def do_POST(self) -> None:
        """Answer a search or show a document."""
        try:
            body = self._body()
        except _BadRequest as error:
            self.close_connection = True  # what follows is not the next request
            self._send(_Reply(400, {"detail": str(error)}))
            return
        self._send(self._answer(body))

    def _answer(self, body: bytes) -> _Reply:
        key = self.server.api_key
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if key is not None and not hmac.compare_digest(given.encode(), key.encode()):
            return _Reply(401, {"detail": "the API key is not right"})
        actions = {"/retrieve": self._retrieve, "/read": self._read}
        if self.path not in actions:
            return _Reply(404, {"detail": f"POST {self.path} is not served here"})
        try:
            with self.server.slots:
                return _Reply(200, actions[self.path](_parsed(body)))
        except _BadRequest as error:
            return _Reply(422, {"detail": str(error)})
        except ToolError as error:
            return _Reply(404, {"detail": str(error), "not_readable": True})
        except RetrieverFault as error:
            return _Reply(503, {"detail": str(error)})

    def _retrieve(self, request: Mapping[str, Any]) -> dict[str, Any]:
        queries, k = request.get("queries"), request.get("topk")
        k = _DEFAULT_RESULTS if k is None else k
        if not (isinstance(queries, list) and all(isinstance(query, str) for query in queries)):
            raise _BadRequest("'queries' must be a list of texts")
        if len(queries) > _MAX_QUERIES:
            raise _BadRequest(f"at most {_MAX_QUERIES} queries a request, got {len(queries)}")
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= _MAX_RESULTS:
            raise _BadRequest(f"'topk' must be a whole number from 1 to {_MAX_RESULTS}, got {k!r}")
        found = self.server.retriever.search_batch(queries, k)
        if request.get("return_scores"):
            return {
                "result": [
                    [{"document": document_as_json(document), "score": document.score} for document in documents]
                    for documents in found
                ]
            }
        return {"result": [[document_as_json(document) for document in documents] for documents in found]}

    def _read(self, request: Mapping[str, Any]) -> dict[str, Any]:
        reference = request.get("reference")
        if not isinstance(reference, str):
            raise _BadRequest("'reference' must be a text")
        return {"document": document_as_json(self.server.retriever.read(reference))}

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _MAX_BODY:
            raise _BadRequest(f"Content-Length must be a number up to {_MAX_BODY}, got {length!r}")
        return self.rfile.read(int(length))

    def _send(self, reply: _Reply) -> None:
        payload = json.dumps(reply.body).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


def _parsed(body: bytes) -> Mapping[str, Any]:
    try:
        request = json.loads(body)
    except ValueError as error:
        raise _BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(request, dict):
        raise _BadRequest("the body must be a JSON object")
    return request
