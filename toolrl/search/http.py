"""A retriever behind HTTP: `toolrl search serve`, or any server with Search-R1's protocol."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from toolrl.errors import ConfigError, RetrieverFault
from toolrl.search.base import Document, NotReadable, Retriever, check_k
from toolrl.support.retry import RetryPolicy, ServiceCaller, TryAgain, retry_after_seconds

SERVICE_VARIABLE = "TOOLRL_SERVICE_"
_JSON = {"Content-Type": "application/json"}
_LIMITED = (202, 408, 425, 429)
# The user's own server: no rate limit, and as many concurrent requests as it has threads.
_OWN_SERVER = RetryPolicy(requests_per_second=None, max_concurrent=64)


class HTTPRetriever(Retriever):
    """Asks a server by `POST URL/retrieve`; see `toolrl.search.server` for the protocol.

    Args:
        url: The server's address, with or without `/retrieve`.
        api_key: Sent as `Authorization: Bearer ...`.
        timeout_seconds: For one request.
        retry_policy: How many concurrent requests, and when to retry.

    Raises:
        ConfigError: `url` is not an HTTP address.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 30.0,
        retry_policy: RetryPolicy = _OWN_SERVER,
    ):
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"a retrieval server's address begins with http:// or https://, got {url!r}")
        self._url, self._api_key = url.rstrip("/").removesuffix("/retrieve"), api_key or ""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=retry_policy.max_concurrent)
        self._client = httpx.Client(timeout=timeout_seconds, limits=limits)
        self._caller = ServiceCaller(self._url, retry_policy)

    @property
    def identity(self) -> str:
        """The server's address; what it serves may change."""
        return f"http {self._url}"

    def search(self, query: str, k: int) -> list[Document]:
        """See `Retriever.search`."""
        return self.search_batch([query], k)[0]

    def search_batch(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Send all queries in one request."""
        check_k(k)
        if not queries:
            return []
        body = {"queries": list(queries), "topk": k, "return_scores": True}
        found = self._ask("/retrieve", body).get("result")
        if not isinstance(found, list) or len(found) != len(queries):
            raise RetrieverFault(f"{self._url} answered {len(queries)} queries with {_shown(found)}")
        return [[_document(entry, self._url) for entry in documents[:k]] for documents in found]

    def read(self, reference: str) -> Document:
        """Ask for a whole document; only our own server supports this."""
        return _document(self._ask("/read", {"reference": reference}).get("document"), self._url)

    def close(self) -> None:
        """Close the connections; calls waiting for a retry end with a fault."""
        self._caller.close()
        self._client.close()

    def _address(self) -> tuple[str, str]:
        """The server's address, and the key."""
        return self._url, self._api_key

    def _ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._caller.call(f"{self._url}{path}", lambda: self._request(path, body))

    def _request(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        # A model can write a lone surrogate, which cannot be encoded.
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        url, key = self._address()
        headers = {**_JSON, "Authorization": f"Bearer {key}"} if key else _JSON
        try:
            response = self._client.post(url + path, content=content, headers=headers)
        except httpx.TransportError as error:
            raise TryAgain(f"{type(error).__name__}: {error}") from error
        if response.status_code in _LIMITED or response.status_code >= 500:
            raise TryAgain(f"status {response.status_code}", retry_after_seconds(response.headers.get("Retry-After")))
        try:
            answer = response.json()
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise TryAgain(f"status {response.status_code}, and the response is not JSON ({error})") from error
        if response.status_code in (401, 403):
            raise ConfigError(f"{self._url} refuses the API key; give HTTPRetriever(api_key=...)")
        if path == "/read" and response.status_code in (404, 405):
            if isinstance(answer, dict) and answer.get("not_readable"):
                raise NotReadable(str(answer.get("detail")))
            raise NotReadable("documents cannot be opened here: there are only search results")
        if response.status_code != 200 or not isinstance(answer, dict):
            raise RetrieverFault(f"{self._url}{path} answered {response.status_code}: {_shown(answer)}")
        return answer


def _document(entry: Any, url: str) -> Document:
    """Parse a result of any such server: a document, or a document with its score."""
    try:
        fields = entry.get("document", entry)
        if isinstance(fields, str):
            fields = {"contents": fields}
        text, title = fields.get("text"), fields.get("title")
        if text is None:
            text = fields["contents"]
            if title is None and "\n" in text:
                title, _, text = text.partition("\n")
                title = title.strip().strip('"')
        reference = fields.get("id", fields.get("docid", fields.get("url", title)))
        score = entry.get("score", 0.0) if "document" in entry else 0.0
        return Document(str(reference or ""), str(title or ""), str(text), str(fields.get("url") or ""), float(score))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RetrieverFault(f"{url} answered with {_shown(entry)}, which is not a document") from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]} ..."


class ServiceRetriever(HTTPRetriever):
    """Asks a server whose address is in TOOLRL_SERVICE_NAME, which may change: "URL KEY".

    Args:
        name: Of the service; see `toolrl.distributed`.

    Raises:
        ConfigError: There is no such variable.
    """

    def __init__(self, name: str):
        self._name = name
        super().__init__(self._address()[0])

    @property
    def identity(self) -> str:
        """The service's name: its address may change."""
        return f"service {self._name}"

    def _address(self) -> tuple[str, str]:
        variable = service_variable(self._name)
        url, _, key = os.environ.get(variable, "").partition(" ")
        if not url:
            raise ConfigError(f"no service {self._name!r} is offered here ({variable} is not set); see --services")
        return url, key


def service_variable(name: str) -> str:
    """The variable that has the address of a service."""
    return SERVICE_VARIABLE + name.upper()
