"""Routes and request handlers of the server."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from urllib.parse import parse_qsl

from pydantic import Field
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from toolrl.errors import SandboxFault
from toolrl.sandbox.base import check_environment
from toolrl.sandbox.server import commands
from toolrl.sandbox.server.file_routes import FOLDERS, read_file, write_files
from toolrl.sandbox.server.files import HOME, FileError
from toolrl.sandbox.server.hosting import Context, HostedSandbox, Hosting
from toolrl.sandbox.server.running import ExecutionResponse
from toolrl.support.serving import Body, Refusal, json_response, key_matches, read_body

_ENVD_VERSION = "0.6.0"  # the version whose file API is implemented here
_MAX_BODY = 16 << 20
_LIFETIME_SECONDS = 300.0  # of a sandbox whose client sets none
_MAX_PAGE = 1000
_RPC_CODES = {
    400: "invalid_argument",
    403: "permission_denied",
    404: "not_found",
    409: "already_exists",
    413: "resource_exhausted",
    501: "unimplemented",
    507: "resource_exhausted",
}

OfHosting = Callable[[Request, Hosting], Awaitable[Response]]
OfSandbox = Callable[[Request, HostedSandbox], Awaitable[Response]]
Seconds = Annotated[float, Field(ge=0)]
Variables = dict[str, str] | None


def routes(hosting: Hosting) -> list[Route]:
    """All routes."""

    def api(method: str, path: str, function: OfHosting) -> Route:
        async def endpoint(request: Request) -> Response:
            key = hosting.settings.api_key
            if key is not None and not key_matches(request.headers.get("X-API-Key", ""), key):
                raise Refusal(401, "wrong API key; send it as X-API-Key")
            with _errors_as_refusals():
                return await function(request, hosting)

        return Route(path, endpoint, methods=[method])

    def inner(method: str, path: str, function: OfSandbox, *, is_rpc: bool = False) -> Route:
        async def endpoint(request: Request) -> Response:
            hosted = hosting.get(request.headers.get("E2b-Sandbox-Id"))
            if hosted is None:
                raise _not_running(request)
            given = (request.headers.get(name, "") for name in ("X-Access-Token", "E2B-Traffic-Access-Token"))
            if hosting.settings.api_key is not None and not any(key_matches(token, hosted.token) for token in given):
                raise Refusal(401, "wrong access token of the sandbox")
            with _errors_as_refusals(is_rpc):
                return await function(request, hosted)

        return Route(path, endpoint, methods=[method])

    async def health(request: Request) -> Response:
        identifier = request.headers.get("E2b-Sandbox-Id")
        if identifier is not None and hosting.get(identifier) is None:
            raise _not_running(request)
        return json_response("OK")

    return [
        *(api("POST", f"{version}/sandboxes", _create) for version in ("", "/v2")),
        *(api("GET", f"{version}/sandboxes", _list) for version in ("", "/v2")),
        *(api("POST", f"{version}/sandboxes/{{id}}/connect", _connect) for version in ("", "/v2")),
        api("GET", "/sandboxes/{id}", _get),
        api("DELETE", "/sandboxes/{id}", _kill),
        api("POST", "/sandboxes/{id}/timeout", _set_timeout),
        Route("/health", health, methods=["GET"]),
        inner("POST", "/execute", _execute),
        inner("POST", "/contexts", _open_context),
        inner("GET", "/contexts", _contexts),
        inner("DELETE", "/contexts/{id}", _remove_context),
        inner("POST", "/contexts/{id}/restart", _restart_context),
        inner("GET", "/files", read_file),
        inner("POST", "/files", write_files),
        *(inner("POST", f"/filesystem.Filesystem/{name}", FOLDERS[name], is_rpc=True) for name in FOLDERS),
        inner("POST", "/process.Process/Start", commands.start, is_rpc=True),
        inner("POST", "/process.Process/List", commands.processes, is_rpc=True),
        inner("POST", "/process.Process/SendSignal", commands.signal, is_rpc=True),
        inner("POST", "/process.Process/{method}", commands.not_supported, is_rpc=True),
    ]


@contextmanager
def _errors_as_refusals(is_rpc: bool = False) -> Iterator[None]:
    """Turn errors into refusals that the client can parse; for an RPC, the code is a word."""
    try:
        yield
    except (Refusal, FileError, SandboxFault) as error:
        if isinstance(error, Refusal) and not is_rpc:
            raise
        status = 500 if isinstance(error, SandboxFault) else error.status
        code = {"code": _RPC_CODES.get(status, "unknown")} if is_rpc else {}
        raise Refusal(status, str(error), None, **code) from error


def _not_running(request: Request) -> Refusal:
    return Refusal(502, "The sandbox was not found", sandboxId=request.headers.get("E2b-Sandbox-Id"))


# ---- sandboxes


class _Creation(Body):
    templateID: str = ""
    timeout: Seconds | None = None
    metadata: Variables = None
    envVars: Variables = None


class _Timeout(Body):
    timeout: Seconds


class _Connection(Body):
    timeout: Seconds | None = None


async def _create(request: Request, hosting: Hosting) -> Response:
    body = _Creation.of(await read_body(request, _MAX_BODY))
    seconds = body.timeout or _LIFETIME_SECONDS
    arguments = body.templateID, seconds, body.metadata or {}, body.envVars or {}
    try:
        hosted = await hosting.threads.run(hosting.create, *arguments, request.headers.get("Idempotency-Key"))
    except ValueError as error:  # invalid environment variables
        raise Refusal(400, str(error)) from error
    if hosted is None:
        message = f"at most {hosting.settings.max_sandboxes} sandboxes are allowed"
        raise Refusal(429, message, {"Retry-After": "1"})
    return json_response(_handle(hosted), 201)


async def _connect(request: Request, hosting: Hosting) -> Response:
    hosted = _known(request, hosting)
    body = _Connection.of(await read_body(request, _MAX_BODY))
    hosting.set_end(hosted, body.timeout or _LIFETIME_SECONDS, at_least=True)
    return json_response(_handle(hosted))


def _known(request: Request, hosting: Hosting) -> HostedSandbox:
    hosted = hosting.get(request.path_params["id"])
    if hosted is None:
        raise Refusal(404, f"sandbox {request.path_params['id']} was not found")
    return hosted


def _handle(hosted: HostedSandbox) -> dict[str, Any]:
    return {
        "templateID": hosted.template,
        "sandboxID": hosted.id,
        "clientID": "toolrl",
        "envdVersion": _ENVD_VERSION,
        "envdAccessToken": hosted.token,
        "trafficAccessToken": hosted.token,
    }


async def _list(request: Request, hosting: Hosting) -> Response:
    """List sandboxes, newest first, in pages; https://github.com/e2b-dev/E2B, spec/openapi.yml, /v2/sandboxes."""
    query = request.query_params
    wanted = dict(parse_qsl(query.get("metadata", "")))
    states = [state for text in query.getlist("state") for state in text.split(",")]
    start, count = _whole(query.get("nextToken", "0")), _whole(query.get("limit", str(_MAX_PAGE)))
    found = [
        hosted
        for hosted in reversed(hosting.all())
        if wanted.items() <= hosted.metadata.items() and (not states or "running" in states)
    ]
    page = found[start : start + min(count, _MAX_PAGE)]
    following = {"X-Next-Token": str(start + len(page))} if start + len(page) < len(found) else {}
    return json_response([_details(hosting, hosted) for hosted in page], headers=following)


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise Refusal(400, f"expected a non-negative integer, got {text[:40]!r}")
    return int(text)


async def _get(request: Request, hosting: Hosting) -> Response:
    return json_response(_details(hosting, _known(request, hosting)))


def _details(hosting: Hosting, hosted: HostedSandbox) -> dict[str, Any]:
    limits = hosting.settings.limits
    return {
        **_handle(hosted),
        "startedAt": _as_time(hosted.started_at),
        "endAt": _as_time(hosted.end_at),
        "cpuCount": 1,
        "memoryMB": limits.memory_mb,
        "diskSizeMB": limits.file_size_mb,
        "state": "running",
        "metadata": hosted.metadata,
    }


def _as_time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat().replace("+00:00", "Z")


async def _kill(request: Request, hosting: Hosting) -> Response:
    hosted = _known(request, hosting)
    if not await hosting.threads.run(hosting.kill, hosted.id):
        raise Refusal(404, f"sandbox {hosted.id} was not found")
    return Response(status_code=204)


async def _set_timeout(request: Request, hosting: Hosting) -> Response:
    hosted = _known(request, hosting)
    hosting.set_end(hosted, _Timeout.of(await read_body(request, _MAX_BODY)).timeout)
    return Response(status_code=204)


# ---- code


class _NewContext(Body):
    language: str | None = None
    cwd: str | None = None


class _Code(Body):
    code: str
    language: str | None = None
    context_id: str | None = None
    env_vars: Variables = None


async def _open_context(request: Request, hosted: HostedSandbox) -> Response:
    body = _NewContext.of(await read_body(request, _MAX_BODY))
    if not _is_python(body.language):
        return _no_kernel(body.language)
    try:
        return json_response(_as_context(await hosted.threads.run(hosted.open_context, body.cwd or HOME)))
    except ValueError as error:  # too many contexts
        raise Refusal(400, str(error)) from error


def _is_python(language: str | None) -> bool:
    return not language or language.strip().lower() == "python"


def _no_kernel(language: str | None) -> Response:
    return PlainTextResponse(f"no kernel for {str(language)[:40]!r}: only python", 500)


def _as_context(context: Context) -> dict[str, str]:
    return {"id": context.id, "language": "python", "cwd": context.folder}


async def _contexts(request: Request, hosted: HostedSandbox) -> Response:
    return json_response([_as_context(context) for context in hosted.contexts()])


async def _restart_context(request: Request, hosted: HostedSandbox) -> Response:
    return await _with_context(request, hosted, hosted.restart)


async def _remove_context(request: Request, hosted: HostedSandbox) -> Response:
    return await _with_context(request, hosted, hosted.remove)


async def _with_context(request: Request, hosted: HostedSandbox, action: Callable[[Context], None]) -> Response:
    context = hosted.context(request.path_params["id"])
    if context is None:
        return _no_context(request.path_params["id"])
    try:
        await hosted.threads.run(action, context)
    except ValueError as error:  # too many contexts, or the sandbox is closed
        raise Refusal(400, str(error)) from error
    return Response()


def _no_context(identifier: str) -> Response:
    return PlainTextResponse(f"Context {identifier} not found", 404)


async def _execute(request: Request, hosted: HostedSandbox) -> Response:
    body = _Code.of(await read_body(request, _MAX_BODY))
    if body.context_id and body.language:
        return PlainTextResponse("Only one of context_id or language can be provided", 400)
    if not _is_python(body.language):
        return _no_kernel(body.language)
    context = hosted.context(body.context_id or None)
    if context is None:
        return _no_context(body.context_id or "default")
    try:
        environment = check_environment({**hosted.environment, **(body.env_vars or {})})
    except ValueError as error:
        raise Refusal(400, str(error)) from error
    return ExecutionResponse(hosted, context, body.code, environment)
