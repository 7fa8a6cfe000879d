"""Environments for OpenEnv's clients, by its protocol: actions and observations in JSON, a session for each connection.

Read in openenv 0.10, `core/env_server/http_server.py` and `core/env_client.py`; tried with its own client and its
`openenv validate`. An action calls a tool (`call_tool`), lists them (`list_tools`), or says something (`message`). A
client that only knows tools says things with the tool `answer`, or `say` where somebody replies.

Different here, on purpose: what is stateless there (`POST /reset`, `/step`, `/state`) plays in a session that `/reset`
opens and names in its metadata; an episode that a fault has ended is an error, and never an observation.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

import toolrl
from toolrl.chat.wire import to_wire
from toolrl.env import ToolEnv, say
from toolrl.errors import InfrastructureError
from toolrl.gateway.tools import words_tool
from toolrl.interop.serve.host import Busy, EpisodeEnded, Host, NotServed, Session, described, summary
from toolrl.interop.serve.openenv_wire import (
    Answer,
    CallTool,
    EpisodeState,
    FirstObservation,
    Health,
    ListTools,
    Metadata,
    Observation,
    Reset,
    Say,
    Schemas,
    StepRequest,
    TaskRange,
    action_adapter,
    as_listed,
    error_message,
    first_problem,
    observed,
    reward_of,
    rpc_error,
    state_of,
)
from toolrl.support.serving import Refusal, json_response, read_body
from toolrl.types import Message, ToolCall

MAX_BODY_BYTES = 16 << 20
_PARSE_ERROR, _INVALID_REQUEST, _NO_METHOD, _INVALID_PARAMS, _INTERNAL, _SERVER = (
    -32700, -32600, -32601, -32602, -32603, -32000,
)  # fmt: skip
_log = logging.getLogger(__name__)


class OpenEnvApi:
    """The routes of one environment of a host."""

    def __init__(self, host: Host, address: str):
        """Serve an environment.

        Args:
            host: Has it.
            address: Its name in addresses.
        """
        self._host, self._address, self._name = host, address, host.names[address]
        posts = {"tasks": self._tasks, "num_tasks": self._num_tasks, "task": self._task, "task_range": self._tasks}
        self.routes: list[BaseRoute] = [
            Route("/health", self._health),
            Route("/metadata", self._metadata),
            Route("/schema", self._schema),
            Route("/state", self._state),
            Route("/reset", self._reset, methods=["POST"]),
            Route("/step", self._step, methods=["POST"]),
            Route("/mcp", self._mcp, methods=["POST"]),
            WebSocketRoute("/ws", self._socket),
            WebSocketRoute("/mcp", self._mcp_socket),
            Route("/list_environments", self._list),
            Route("/{env}/splits", self._splits),
            *(Route(f"/{{env}}/{name}", handler, methods=["POST"]) for name, handler in posts.items()),
        ]

    # ---- acting

    async def _begin(self, session: Session, reset: Reset) -> Answer:
        messages = await session.begin(split=reset.split, task_id=reset.task_id, index=reset.index, seed=reset.seed)
        session.label = reset.episode_id or session.id
        assert session.task is not None
        about = {"task_id": session.task.id, "split": session.split}
        first = FirstObservation(
            prompt=session.task.prompt, messages=list(map(to_wire, messages)), task_id=session.task.id, metadata=about
        )
        return Answer(observation=first.model_dump(), metadata=about)

    async def _act(self, session: Session | None, data: Mapping[str, Any]) -> Answer:
        """Act.

        Raises:
            ValidationError: It is not an action.
            EpisodeEnded: No episode is in progress.
            InfrastructureError: The episode has ended without a score.
        """
        action = action_adapter.validate_python(dict(data))
        if isinstance(action, ListTools):
            listed = Observation(tools=[as_listed(schema) for schema in await self._tool_schemas()])
            return Answer(observation=listed.model_dump(exclude_none=True))
        if session is None:
            raise EpisodeEnded("no episode has begun; reset first")
        words = words_tool(await self._env())
        if isinstance(action, Say):
            outcome = await session.take(say(action.content))
        elif action.tool_name == words["function"]["name"] and isinstance(action.arguments.get("text"), str):
            outcome = await session.take(say(action.arguments["text"]))
        else:
            call = ToolCall(action.tool_name, action.arguments)
            outcome = await session.take(Message("assistant", "", (call,)))
        observation = observed(outcome)
        if isinstance(action, CallTool) and observation.tool_name is None:
            observation = observation.model_copy(
                update={"tool_name": action.tool_name, "result": observation.text, "text": None}
            )
        shown = observation.model_dump(exclude_none=True)
        return Answer(
            observation=shown, reward=reward_of(outcome), done=outcome.stop is not None, metadata=observation.metadata
        )

    async def _tool_schemas(self) -> list[dict[str, Any]]:
        env = await self._env()
        return [*env.toolbox.schemas, words_tool(env)]

    async def _env(self) -> ToolEnv:
        return await self._host.any_env(self._name)

    # ---- by WebSocket

    async def _socket(self, socket: WebSocket) -> None:
        await self._connected(socket, self._answer_to)

    async def _mcp_socket(self, socket: WebSocket) -> None:
        await self._connected(socket, self._rpc_answer_to)

    async def _connected(
        self, socket: WebSocket, answer: Callable[[Session, str], Awaitable[dict[str, Any] | None]]
    ) -> None:
        """Answer the messages of a connection. Its session ends with it, unless it was opened by HTTP."""
        await socket.accept()
        wanted, session, owned = socket.query_params.get("session_id"), None, False
        try:
            try:
                session = self._opened(wanted) if wanted else self._host.open(self._name)
                owned = not wanted
                if session.is_attached:
                    raise NotServed("this session has a connection already")
                session.is_attached = True
            except (NotServed, Busy) as error:
                session, code = None, "CAPACITY_REACHED" if isinstance(error, Busy) else "SESSION_ERROR"
                await socket.send_json(error_message(str(error), code))
                return
            while True:
                message = await socket.receive_text()
                if (reply := await answer(session, message)) is None:
                    return
                await socket.send_text(json.dumps(reply))
        except (WebSocketDisconnect, KeyError):  # KeyError: it sent bytes
            pass
        finally:
            if session is not None:
                session.is_attached = False
                if owned:
                    await self._host.close(session)
            with suppress(RuntimeError, WebSocketDisconnect):  # it is closed already
                await socket.close()

    async def _answer_to(self, session: Session, text: str) -> dict[str, Any] | None:
        """The answer to a message; None if it says goodbye."""
        try:
            message = json.loads(text)
        except (ValueError, RecursionError) as error:
            return error_message(f"Invalid JSON: {error}", "INVALID_JSON")
        kind = message.get("type") if isinstance(message, dict) else None
        data = message.get("data", {}) if isinstance(message, dict) else None
        if not isinstance(data, dict):
            return error_message("a message is an object with a type, and data that are an object", "VALIDATION_ERROR")
        try:
            if kind == "close":
                return None
            if kind == "mcp":
                return {"type": "mcp", "data": await self._rpc(data, session)}
            if kind == "state":
                return {"type": "state", "data": state_of(session).model_dump()}
            if kind in ("reset", "step"):
                begins = kind == "reset"
                acting = self._begin(session, Reset.model_validate(data)) if begins else self._act(session, data)
                return {"type": "observation", "data": (await acting).model_dump()}
        except ValidationError as error:
            return error_message(f"Invalid message: {first_problem(error)}", "VALIDATION_ERROR")
        except NotServed as error:
            return error_message(str(error), "VALIDATION_ERROR")
        except (EpisodeEnded, InfrastructureError) as error:
            return error_message(str(error), "EXECUTION_ERROR")
        except Exception as error:  # noqa: BLE001  a bug: reported here, and the connection goes on
            _log.exception("a bug, in an episode of %s", self._name)
            return error_message(f"the server has a bug: {type(error).__name__}", "EXECUTION_ERROR")
        return error_message(f"Unknown message type: {str(kind)[:80]}", "UNKNOWN_TYPE")

    async def _rpc_answer_to(self, session: Session, text: str) -> dict[str, Any]:
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            return rpc_error(None, _PARSE_ERROR, "Parse error")
        return await self._rpc(message, session)

    # ---- by JSON-RPC

    async def _rpc(self, message: Any, session: Session | None = None) -> dict[str, Any]:
        """The answer to a JSON-RPC message.

        Args:
            message: The message.
            session: Of its connection; otherwise it names one.
        """
        id = message.get("id") if isinstance(message, dict) else None
        params = message.get("params", {}) if isinstance(message, dict) else None
        if (
            not isinstance(params, dict)
            or message.get("jsonrpc") != "2.0"
            or not isinstance(message.get("method"), str)
        ):
            return rpc_error(id, _INVALID_REQUEST, "Invalid request: jsonrpc, method and params are needed")
        try:
            if session is None and isinstance(named := params.get("session_id"), str):
                session = self._opened(named)
            result = await self._rpc_result(message["method"], params, session)
        except (NotServed, ValidationError) as error:
            return rpc_error(
                id, _INVALID_PARAMS, first_problem(error) if isinstance(error, ValidationError) else str(error)
            )
        except Busy as error:
            about = {"active_sessions": self._host.number_of_sessions, "max_sessions": self._host.limits.sessions}
            return rpc_error(id, _SERVER, str(error), about)
        except EpisodeEnded as error:
            return rpc_error(id, _INVALID_REQUEST, str(error))
        except InfrastructureError as fault:
            return rpc_error(id, _INTERNAL, str(fault))
        except Exception as error:  # noqa: BLE001  a bug: reported here, and the connection goes on
            _log.exception("a bug, in an episode of %s", self._name)
            return rpc_error(id, _INTERNAL, f"the server has a bug: {type(error).__name__}")
        if result is None:
            return rpc_error(id, _NO_METHOD, f"Method not found: {message['method'][:80]}")
        return {"jsonrpc": "2.0", "id": id, "result": result}

    async def _rpc_result(self, method: str, params: dict[str, Any], session: Session | None) -> Any:
        """The result of a method; None if there is no such method."""
        if method == "openenv/session/create":
            opened = session or self._host.open(self._name)
            return {"session_id": opened.id}
        if method == "openenv/session/close":
            if session is None:
                raise NotServed("params must have the session_id of an open session")
            if session.is_attached:
                return {"session_id": session.id, "closed": False, "closing": True}
            await self._host.close(session)
            return {"session_id": session.id, "closed": True}
        if method == "tools/list":
            functions = [schema["function"] for schema in await self._tool_schemas()]
            return {
                "tools": [
                    {"name": one["name"], "description": one["description"], "inputSchema": one["parameters"]}
                    for one in functions
                ]
            }
        if method == "tools/call":
            action = {"type": "call_tool", "tool_name": params.get("name"), "arguments": params.get("arguments") or {}}
            answer = await self._act(session, action)
            text = answer.observation.get("result") or ""
            is_error = "error" in answer.observation
            return {"content": [{"type": "text", "text": text}], "isError": is_error, "data": text}
        return None

    # ---- by HTTP

    async def _health(self, request: Request) -> Response:
        return json_response(Health().model_dump())

    async def _metadata(self, request: Request) -> Response:
        about = summary(await self._env()) or self._name
        return _json(Metadata(name=self._address, description=about, version=toolrl.__version__))

    async def _schema(self, request: Request) -> Response:
        models = (Observation, FirstObservation, EpisodeState)
        observation, first, state = (model.model_json_schema() for model in models)
        action = {"type": "object", **action_adapter.json_schema()}
        return _json(Schemas(action=action, observation=observation, reset_observation=first, state=state))

    async def _state(self, request: Request) -> Response:
        id = request.query_params.get("session_id")
        return _json(state_of(self._found(id)) if id else EpisodeState())

    async def _reset(self, request: Request) -> Response:
        reset = Reset.of(await read_body(request, MAX_BODY_BYTES), 422)
        session = self._found(reset.session_id) if reset.session_id else None
        try:
            opened = session or self._host.open(self._name)
            try:
                answer = await self._begin(opened, reset)
            except BaseException:
                if session is None:
                    await self._host.close(opened)
                raise
        except NotServed as error:
            raise Refusal(422, str(error)) from None
        except Busy as error:
            raise Refusal(503, str(error), {"Retry-After": "1"}) from None
        return _json(answer.model_copy(update={"metadata": {**answer.metadata, "session_id": opened.id}}))

    async def _step(self, request: Request) -> Response:
        body = StepRequest.of(await read_body(request, MAX_BODY_BYTES), 422)
        try:
            return _json(await self._act(self._found(body.session_id) if body.session_id else None, body.action))
        except ValidationError as error:
            raise Refusal(422, f"action: {first_problem(error)}") from None
        except EpisodeEnded as error:
            raise Refusal(409, f"{error}; /reset names a session in its metadata, and a step gives it back") from None
        except InfrastructureError as fault:
            raise Refusal(503, str(fault)) from fault

    async def _mcp(self, request: Request) -> Response:
        try:
            message = json.loads(await read_body(request, MAX_BODY_BYTES))
        except (ValueError, RecursionError):
            return json_response(rpc_error(None, _PARSE_ERROR, "Parse error"))
        return json_response(await self._rpc(message))

    # ---- its tasks

    async def _list(self, request: Request) -> Response:
        return json_response([self._address])

    async def _splits(self, request: Request) -> Response:
        self._check_named(request)
        return json_response([{"name": split, "type": split} for split in await self._host.splits(self._name)])

    async def _tasks(self, request: Request) -> Response:
        env, asked = await self._asked(request)
        stop = len(env.tasks) if asked.stop is None else min(asked.stop, len(env.tasks))
        tasks = [described(env.tasks[place]) for place in range(asked.start or 0, stop)]
        return json_response({"tasks": tasks, "env_name": self._address})

    async def _num_tasks(self, request: Request) -> Response:
        return json_response({"num_tasks": len((await self._asked(request))[0].tasks)})

    async def _task(self, request: Request) -> Response:
        env, asked = await self._asked(request)
        if asked.index >= len(env.tasks):
            raise Refusal(400, f"no task has the index {asked.index}; there are {len(env.tasks)}")
        return json_response({"task": described(env.tasks[asked.index])})

    async def _asked(self, request: Request) -> tuple[ToolEnv, TaskRange]:
        self._check_named(request)
        asked = TaskRange.of(await read_body(request, MAX_BODY_BYTES), 422)
        try:
            return await self._host.env(self._name, asked.split), asked
        except NotServed as error:
            raise Refusal(404, str(error)) from None

    # ---- its sessions

    def _opened(self, id: str) -> Session:
        """An open session.

        Raises:
            NotServed: There is none of this environment's with this id.
        """
        session = self._host.session(id)
        if session.name != self._name:
            raise NotServed(f"no session {id[:80]!r} of {self._address} is open")
        return session

    def _found(self, id: str) -> Session:
        try:
            return self._opened(id)
        except NotServed as error:
            raise Refusal(404, str(error)) from None

    def _check_named(self, request: Request) -> None:
        if request.path_params["env"].lower() != self._address.lower():
            raise Refusal(404, f"unknown environment {request.path_params['env'][:80]!r}; this is {self._address!r}")


def _json(model: BaseModel) -> Response:
    return json_response(model.model_dump(mode="json"))
