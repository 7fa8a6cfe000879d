"""Request handlers for a sandbox's files and folders, as in envd."""

from __future__ import annotations

import email
import email.policy
import zlib
from collections.abc import AsyncIterator
from typing import Annotated, Any, BinaryIO

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from toolrl.sandbox.server.files import FileError
from toolrl.sandbox.server.hosting import HostedSandbox
from toolrl.support.serving import Body, Refusal, json_response, read_body

_MAX_BODY, _MAX_UPLOAD = 1 << 20, 128 << 20
_PIECE = 1 << 18


class _Path(Body):
    path: str
    depth: Annotated[int, Field(ge=0, le=1 << 32)] | None = None


class _Move(Body):
    source: str
    destination: str


async def read_file(request: Request, hosted: HostedSandbox) -> Response:
    """Stream a file's content."""
    return _FileResponse(hosted, await hosted.threads.run(hosted.files.read, _path_of(request)))


class _FileResponse(StreamingResponse):
    def __init__(self, hosted: HostedSandbox, file: BinaryIO) -> None:
        super().__init__(self._pieces(), media_type="application/octet-stream")
        self._hosted, self._file = hosted, file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)

    async def _pieces(self) -> AsyncIterator[bytes]:
        while piece := await self._hosted.threads.run(self._file.read, _PIECE):
            yield piece


def _path_of(request: Request) -> str:
    try:
        return request.query_params["path"]
    except KeyError:
        raise Refusal(400, "the query has no path") from None


async def write_files(request: Request, hosted: HostedSandbox) -> Response:
    """Create or replace one file, or all files of a form."""
    kind, path = request.headers.get("Content-Type", ""), request.query_params.get("path")
    coding = request.headers.get("Content-Encoding", "identity")
    if not kind.startswith("multipart/form-data") and not path:
        raise Refusal(400, "the query has no path")
    body = await read_body(request, _MAX_UPLOAD)

    def write() -> list[dict[str, Any]]:
        content = _decoded(body, coding)
        parts = _parts(kind, content, path) if kind.startswith("multipart/form-data") else [(path or "", content)]
        return [hosted.files.write(*part) for part in parts]

    return json_response(await hosted.threads.run(write))


def _decoded(body: bytes, coding: str) -> bytes:
    if coding == "identity":
        return body
    if coding != "gzip":
        raise Refusal(415, f"the body may be encoded as gzip, not as {coding[:40]!r}")
    decoder = zlib.decompressobj(wbits=31)
    try:
        content = decoder.decompress(body, _MAX_UPLOAD)
    except zlib.error as error:
        raise Refusal(400, f"the body is not gzip: {error}") from None
    if not decoder.eof:
        raise Refusal(413, f"the body is incomplete, or larger than {_MAX_UPLOAD:,} bytes")
    return content


def _parts(kind: str, content: bytes, path: str | None) -> list[tuple[str, bytes]]:
    """The files of a form, as (path, content)."""
    head = f"Content-Type: {kind}\r\n\r\n".encode("latin-1")
    message = email.message_from_bytes(head + content, policy=email.policy.HTTP)
    found = []
    for part in message.iter_parts() if message.is_multipart() else []:
        name, inner = path or part.get_filename(), part.get_payload(decode=True)
        if not name or not isinstance(inner, bytes):
            raise Refusal(400, "the form has a part that is not a file with a path")
        found.append((name, inner))
    if not found:
        raise Refusal(400, "the form contains no file")
    return found


async def _stat(request: Request, hosted: HostedSandbox) -> Response:
    body = _Path.of(await read_body(request, _MAX_BODY))
    return json_response({"entry": await hosted.threads.run(hosted.files.stat, body.path)})


async def _list_folder(request: Request, hosted: HostedSandbox) -> Response:
    body = _Path.of(await read_body(request, _MAX_BODY))
    return json_response({"entries": await hosted.threads.run(hosted.files.listing, body.path, body.depth or 1)})


async def _make_folder(request: Request, hosted: HostedSandbox) -> Response:
    body = _Path.of(await read_body(request, _MAX_BODY))
    return json_response({"entry": await hosted.threads.run(hosted.files.make_folder, body.path)})


async def _move(request: Request, hosted: HostedSandbox) -> Response:
    body = _Move.of(await read_body(request, _MAX_BODY))
    return json_response({"entry": await hosted.threads.run(hosted.files.move, body.source, body.destination)})


async def _remove_file(request: Request, hosted: HostedSandbox) -> Response:
    body = _Path.of(await read_body(request, _MAX_BODY))
    try:
        await hosted.threads.run(hosted.files.remove, body.path)
    except FileError as error:
        if error.status != 404:
            raise
    return json_response({})


FOLDERS = {"Stat": _stat, "ListDir": _list_folder, "MakeDir": _make_folder, "Move": _move, "Remove": _remove_file}
