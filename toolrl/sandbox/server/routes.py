"""What each request to the server means."""

from __future__ import annotations

import datetime
import email
import email.policy
import json
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from toolrl.errors import SandboxFault
from toolrl.sandbox.base import ExecResult
from toolrl.sandbox.server.files import HOME, FileError
from toolrl.sandbox.server.hosting import Context, HostedSandbox, Hosting
from toolrl.sandbox.server.notebook import encoded, result_messages

_ENVD_VERSION = "0.6.0"  # what the files of ours can do
_KEEPALIVE_SECONDS = 5.0
_LOOK_SECONDS = 0.2  # how soon we see that a client has hung up
_RPC_CODES = {400: "invalid_argument", 403: "permission_denied", 404: "not_found", 409: "already_exists"}


@dataclass(frozen=True, slots=True)
class Request:
    """One request, its sandbox found and its permission checked."""

    hosting: Hosting
    hosted: HostedSandbox | None
    arguments: tuple[str, ...]
    query: Mapping[str, str]
    headers: Message
    body: bytes

    @property
    def sandbox(self) -> HostedSandbox:
        """The sandbox that the request is for."""
        assert self.hosted is not None
        return self.hosted

    def json(self) -> dict[str, Any]:
        """The body as an object."""
        value = json.loads(self.body or b"{}")
        if not isinstance(value, dict):
            raise ValueError("the body must be a JSON object")
        return value


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer: JSON, bytes, or lines as they come."""

    status: int = 200
    content: object = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: Callable[[Callable[[], bool]], Iterator[bytes]] | None = None
    finish: Callable[[], None] = lambda: None

    @classmethod
    def failure(cls, status: int, message: str, *, is_rpc: bool = False) -> Reply:
        """An error in the form that the client's parser expects."""
        code = _RPC_CODES.get(status, "unknown") if is_rpc else status
        return cls(status, {"code": code, "message": message})

    def payload(self) -> bytes:
        """The body."""
        if isinstance(self.content, bytes):
            return self.content
        return b"" if self.content is None else json.dumps(self.content).encode()


@dataclass(frozen=True, slots=True)
class Route:
    """A kind of request."""

    method: str
    path: re.Pattern[str]
    answer: Callable[[Request], Reply]
    of_sandbox: bool = True
    open_to_all: bool = False
    is_rpc: bool = False


def find_route(method: str, path: str) -> tuple[Route | None, tuple[str, ...]]:
    """The route of a request and the variable parts of its path."""
    for route in _ROUTES:
        match = route.path.fullmatch(path)
        if match and route.method == method:
            return route, match.groups()
    return None, ()


def _create(request: Request) -> Reply:
    body = request.json()
    hosted = request.hosting.create(
        str(body.get("templateID", "")),
        float(body.get("timeout") or 300),
        body.get("metadata") or {},
        body.get("envVars") or {},
        request.headers.get("Idempotency-Key"),
    )
    if hosted is None:
        message = f"there are {request.hosting.settings.max_sandboxes} sandboxes at most"
        return Reply(429, {"code": 429, "message": message}, headers={"Retry-After": "1"})
    return Reply(201, _handle(hosted))


def _connect(request: Request) -> Reply:
    hosted = request.hosting.get(request.arguments[0])
    if hosted is None:
        return _no_sandbox(request)
    request.hosting.set_end(hosted, float(request.json().get("timeout") or 300))
    return Reply(200, _handle(hosted))


def _handle(hosted: HostedSandbox) -> dict[str, Any]:
    return {
        "templateID": hosted.template,
        "sandboxID": hosted.id,
        "clientID": "toolrl",
        "envdVersion": _ENVD_VERSION,
        "envdAccessToken": hosted.token,
        "trafficAccessToken": hosted.token,
    }


def _no_sandbox(request: Request) -> Reply:
    return Reply.failure(404, f"sandbox {request.arguments[0]} was not found")


def _list(request: Request) -> Reply:
    return Reply(200, [_details(request, hosted) for hosted in request.hosting.all()])


def _get(request: Request) -> Reply:
    hosted = request.hosting.get(request.arguments[0])
    return Reply(200, _details(request, hosted)) if hosted else _no_sandbox(request)


def _details(request: Request, hosted: HostedSandbox) -> dict[str, Any]:
    limits = request.hosting.settings.limits
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


def _kill(request: Request) -> Reply:
    return Reply(204) if request.hosting.kill(request.arguments[0]) else _no_sandbox(request)


def _set_timeout(request: Request) -> Reply:
    hosted = request.hosting.get(request.arguments[0])
    if hosted is None:
        return _no_sandbox(request)
    request.hosting.set_end(hosted, float(request.json()["timeout"]))
    return Reply(204)


def _health(request: Request) -> Reply:
    identifier = request.headers.get("E2b-Sandbox-Id")
    if identifier is not None and request.hosting.get(identifier) is None:
        return Reply(502, {"code": 502, "message": "The sandbox was not found", "sandboxId": identifier})
    return Reply(200, "OK")


def _as_context(context: Context) -> dict[str, str]:
    return {"id": context.id, "language": "python", "cwd": context.folder}


def _open_context(request: Request) -> Reply:
    body = request.json()
    if body.get("language") not in (None, "python"):
        return Reply(500, f"no kernel for {body['language']!r}: only python".encode(), "text/plain")
    return Reply(200, _as_context(request.sandbox.open_context(str(body.get("cwd") or HOME))))


def _contexts(request: Request) -> Reply:
    return Reply(200, [_as_context(context) for context in request.sandbox.contexts()])


def _restart_context(request: Request) -> Reply:
    return _with_context(request, request.sandbox.restart)


def _remove_context(request: Request) -> Reply:
    return _with_context(request, request.sandbox.remove)


def _with_context(request: Request, action: Callable[[Context], None]) -> Reply:
    context = request.sandbox.context(request.arguments[0])
    if context is None:
        return Reply(404, f"Context {request.arguments[0]} not found".encode(), "text/plain")
    action(context)
    return Reply(200)


def _execute(request: Request) -> Reply:
    body = request.json()
    if body.get("language") not in (None, "python"):
        return Reply(500, f"no kernel for {body['language']!r}: only python".encode(), "text/plain")
    context = request.sandbox.context(body.get("context_id"))
    if context is None:
        return Reply(404, f"Context {body['context_id']} not found".encode(), "text/plain")
    environment = {**request.sandbox.environment, **(body.get("env_vars") or {})}
    execution = _Execution(context, str(body["code"]), environment)
    return Reply(200, content_type="application/x-ndjson", stream=execution.lines, finish=execution.abandon)


class _Execution:
    """One run, on a thread of its own, as lines for a client that may hang up."""

    def __init__(self, context: Context, code: str, environment: Mapping[str, str]) -> None:
        self._context, self._code, self._environment = context, code, environment
        self._messages: queue.SimpleQueue[dict[str, Any] | ExecResult | None] = queue.SimpleQueue()
        self._done = threading.Event()
        self._number = 0

    def lines(self, has_hung_up: Callable[[], bool]) -> Iterator[bytes]:
        """The stream, keepalives included."""
        threading.Thread(target=self._run, name="sandbox-run", daemon=True).start()
        silent = 0.0
        while True:
            try:
                message = self._messages.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if has_hung_up():
                    return
                silent += _LOOK_SECONDS
                if silent >= _KEEPALIVE_SECONDS:
                    silent = 0.0
                    yield encoded({"type": "keepalive"})
                continue
            silent = 0.0
            if message is None:
                yield encoded({"type": "end_of_execution"})
                return
            parts = [message] if isinstance(message, dict) else result_messages(message, self._number, self._code)
            for part in parts:
                yield encoded(part)

    def abandon(self) -> None:
        """Interrupt the code if its client is gone before its end."""
        if not self._done.is_set():
            self._context.session.interrupt()

    def _run(self) -> None:
        try:
            last: dict[str, Any] | ExecResult = self._context.run(
                self._code, self._environment, self._tell, self._count
            )
        except (SandboxFault, ValueError) as error:
            last = {"type": "error", "name": "UnexpectedEndOfExecution", "value": str(error), "traceback": ""}
        self._done.set()
        self._messages.put(last)
        self._messages.put(None)

    def _count(self, executions: int) -> None:
        self._number = executions
        self._messages.put({"type": "number_of_executions", "execution_count": executions})

    def _tell(self, stream: str, text: str) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat()
        self._messages.put({"type": stream, "text": text, "timestamp": now})


def _read_file(request: Request) -> Reply:
    return Reply(200, request.sandbox.files.read(request.query["path"]), "application/octet-stream")


def _write_files(request: Request) -> Reply:
    files = request.sandbox.files
    kind = request.headers.get("Content-Type", "")
    if not kind.startswith("multipart/form-data"):
        return Reply(200, [files.write(request.query["path"], request.body)])
    head = f"Content-Type: {kind}\r\n\r\n".encode()
    parts = email.message_from_bytes(head + request.body, policy=email.policy.HTTP).iter_parts()
    written = []
    for part in parts:
        path = request.query.get("path") or part.get_filename()
        if not path:
            raise ValueError("a file without a path")
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        written.append(files.write(path, content))
    return Reply(200, written)


def _stat(request: Request) -> Reply:
    return Reply(200, {"entry": request.sandbox.files.stat(request.json()["path"])})


def _list_folder(request: Request) -> Reply:
    body = request.json()
    return Reply(200, {"entries": request.sandbox.files.list(body["path"], int(body.get("depth") or 1))})


def _make_folder(request: Request) -> Reply:
    return Reply(200, {"entry": request.sandbox.files.make_folder(request.json()["path"])})


def _move(request: Request) -> Reply:
    body = request.json()
    return Reply(200, {"entry": request.sandbox.files.move(body["source"], body["destination"])})


def _remove_file(request: Request) -> Reply:
    try:
        request.sandbox.files.remove(request.json()["path"])
    except FileError as error:
        if error.status != 404:
            raise
    return Reply(200, {})


def _rpc(name: str, answer: Callable[[Request], Reply]) -> Route:
    return Route("POST", re.compile(rf"/filesystem\.Filesystem/{name}"), answer, is_rpc=True)


def _api(method: str, path: str, answer: Callable[[Request], Reply]) -> Route:
    return Route(method, re.compile(path), answer, of_sandbox=False)


_ROUTES = (
    _api("POST", "(?:/v2)?/sandboxes", _create),
    _api("GET", "(?:/v2)?/sandboxes", _list),
    _api("GET", "/sandboxes/([^/]+)", _get),
    _api("DELETE", "/sandboxes/([^/]+)", _kill),
    _api("POST", "/sandboxes/([^/]+)/timeout", _set_timeout),
    _api("POST", "(?:/v2)?/sandboxes/([^/]+)/connect", _connect),
    Route("GET", re.compile("/health"), _health, of_sandbox=False, open_to_all=True),
    Route("POST", re.compile("/execute"), _execute),
    Route("POST", re.compile("/contexts"), _open_context),
    Route("GET", re.compile("/contexts"), _contexts),
    Route("DELETE", re.compile("/contexts/([^/]+)"), _remove_context),
    Route("POST", re.compile("/contexts/([^/]+)/restart"), _restart_context),
    Route("GET", re.compile("/files"), _read_file),
    Route("POST", re.compile("/files"), _write_files),
    _rpc("Stat", _stat),
    _rpc("ListDir", _list_folder),
    _rpc("MakeDir", _make_folder),
    _rpc("Move", _move),
    _rpc("Remove", _remove_file),
)
