"""The streamable HTTP transport, of a server that runs elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx2
from mcp.client.streamable_http import streamable_http_client

from toolrl.tools.mcp.stdio import MAX_MESSAGE_BYTES, TOO_LARGE

_CONNECT_SECONDS = 10.0


@contextlib.asynccontextmanager
async def http_transport(url: str, headers: Mapping[str, str], on_status: Callable[[int], None]) -> AsyncIterator[Any]:
    """Connect the SDK's client to a server.

    Args:
        url: The server's address.
        headers: Sent with each request.
        on_status: Called with the status of each response, which the SDK's errors leave out.
    """
    headers = {"accept-encoding": "identity", **headers}
    timeout = httpx2.Timeout(_CONNECT_SECONDS, read=None)  # tools have time limits of their own
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout, transport=_Watched(on_status)) as client,
        streamable_http_client(url, http_client=client, max_sse_event_size=MAX_MESSAGE_BYTES) as streams,
    ):
        yield streams


class _Watched(httpx2.AsyncHTTPTransport):
    """Refuses answers without end; the SDK limits events only."""

    def __init__(self, on_status: Callable[[int], None]):
        super().__init__()
        self._on_status = on_status

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        self._on_status(response.status_code)
        if response.headers.get("content-type", "").startswith("application/json"):
            stream = response.stream
            assert isinstance(stream, httpx2.AsyncByteStream)
            response.stream = _BoundedStream(stream)
        return response


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream):
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        received = 0
        async for chunk in self._stream:
            received += len(chunk)
            if received > MAX_MESSAGE_BYTES:
                raise httpx2.StreamError(f"the answer exceeded the {MAX_MESSAGE_BYTES} {TOO_LARGE}")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
