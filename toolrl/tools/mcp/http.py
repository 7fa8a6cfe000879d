"""The streamable HTTP transport, of a server that runs elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx2
from mcp.client.streamable_http import streamable_http_client

from toolrl.tools.mcp.stdio import MAX_MESSAGE_BYTES, TOO_LARGE

_CONNECT_SECONDS = 10.0


@contextlib.asynccontextmanager
async def http_transport(url: str, headers: Mapping[str, str]) -> AsyncIterator[Any]:
    """Connect the SDK's client to a server."""
    headers = {"accept-encoding": "identity", **headers}
    timeout = httpx2.Timeout(_CONNECT_SECONDS, read=None)  # tools have time limits of their own
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout, transport=_Bounded()) as client,
        streamable_http_client(url, http_client=client, max_sse_event_size=MAX_MESSAGE_BYTES) as streams,
    ):
        yield streams


class _Bounded(httpx2.AsyncHTTPTransport):
    """Refuses answers without end; the SDK limits events only."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
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
                raise httpx2.StreamError(f"the answer exceeded the {TOO_LARGE}")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
