"""The messages of OpenEnv: actions, observations, states, forms of errors; see `toolrl.interop.serve.openenv`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from toolrl.interop.serve.host import Outcome, Session, judged
from toolrl.interop.serve.openapi import Operation
from toolrl.support.serving import Body
from toolrl.types import ToolFailure

_RESULT_OF = {
    ToolFailure.MALFORMED: "invalid_args",
    ToolFailure.INVALID_ARGUMENTS: "invalid_args",
    ToolFailure.UNKNOWN_TOOL: "tool_not_found",
    ToolFailure.TIMEOUT: "timeout",
}


class _Action(BaseModel):
    model_config = ConfigDict(extra="forbid")
    metadata: dict[str, Any] = {}


class ListTools(_Action):
    """Lists the tools; needs no episode."""

    type: Literal["list_tools"]


class CallTool(_Action):
    """Calls a tool."""

    type: Literal["call_tool"]
    tool_name: str
    arguments: dict[str, Any] = {}


class Say(_Action):
    """Says something: the answer, which ends the episode, or words to somebody who replies."""

    type: Literal["message"]
    content: str


Action = Annotated[ListTools | CallTool | Say, Field(discriminator="type")]
action_adapter: TypeAdapter[ListTools | CallTool | Say] = TypeAdapter(Action)


class Observation(BaseModel):
    """What followed an action: a call has `tool_name`, `result` and `error`, words have `text`, a list has `tools`."""

    tool_name: str | None = None
    result: str | None = None
    error: dict[str, str] | None = None
    text: str | None = None
    tools: list[dict[str, Any]] | None = None
    metadata: dict[str, Any] = {}


class FirstObservation(BaseModel):
    """An episode's beginning."""

    prompt: str
    messages: list[dict[str, Any]]
    task_id: str
    metadata: dict[str, Any] = {}


class Answer(BaseModel):
    """An observation, with its reward and whether the episode is over."""

    observation: dict[str, Any]
    reward: float | None = None
    done: bool = False
    metadata: dict[str, Any] = {}


class EpisodeState(BaseModel):
    """How far an episode is."""

    episode_id: str | None = None
    step_count: int = 0
    task_id: str | None = None
    split: str = ""
    done: bool = False
    reward: float = 0.0


class Reset(Body):
    """Begins an episode; what else it holds is not read."""

    seed: int | None = Field(None, ge=0)
    episode_id: str | None = Field(None, max_length=255)
    split: str = "train"
    index: int | None = Field(None, ge=0)
    task_id: str | None = None
    session_id: str | None = None


class StepRequest(Body):
    """A step by HTTP."""

    action: dict[str, Any]
    session_id: str | None = None


class Health(BaseModel):
    """Whether it is well."""

    status: str = "healthy"


class Metadata(BaseModel):
    """What the environment is."""

    name: str
    description: str
    version: str


class Schemas(BaseModel):
    """JSON schemas."""

    action: dict[str, Any]
    observation: dict[str, Any]
    reset_observation: dict[str, Any]
    state: dict[str, Any]


class Rpc(BaseModel):
    """A JSON-RPC message."""

    jsonrpc: str = "2.0"
    id: int | str | None = None
    method: str | None = None
    params: dict[str, Any] = {}
    result: Any = None
    error: dict[str, Any] | None = None


class TaskRange(Body):
    """Which tasks."""

    split: str
    index: int = Field(0, ge=0)
    start: int | None = Field(None, ge=0)
    stop: int | None = Field(None, ge=0)


OPERATIONS = [
    Operation("post", "/reset", "Begin an episode; its session is in the metadata.", Answer, Reset),
    Operation("post", "/step", "Act, in that session.", Answer, StepRequest),
    Operation("get", "/state", "How far the episode is.", EpisodeState, query={"session_id": "The session."}),
    Operation("get", "/schema", "Schemas of actions, observations and states.", Schemas),
    Operation("get", "/metadata", "What the environment is.", Metadata),
    Operation("get", "/health", "Whether the server is well.", Health),
    Operation("post", "/mcp", "tools/list and tools/call by JSON-RPC.", Rpc, Rpc),
]


def as_listed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as OpenEnv lists it."""
    function = schema["function"]
    return {"name": function["name"], "description": function["description"], "input_schema": function["parameters"]}


def observed(outcome: Outcome) -> Observation:
    """What followed a turn, as an observation."""
    about: dict[str, Any] = {}
    if outcome.stop is not None:
        about["stop"] = str(outcome.stop)
    if outcome.score is not None:
        about["score"] = judged(outcome.score)
    step = outcome.step
    text = "" if step is None else "\n".join(message.content for message in step.messages)
    if step is None or not step.results:
        return Observation(text=text, metadata=about)
    result = step.results[0]
    kind = None if result.failure is None else _RESULT_OF.get(result.failure, "execution_error")
    error = None if kind is None else {"error_type": kind, "message": result.content}
    return Observation(tool_name=result.call.name, result=result.content, error=error, metadata=about)


def reward_of(outcome: Outcome) -> float | None:
    """What a step earned; None if the episode has no score."""
    return None if outcome.score is not None and outcome.score.value is None else outcome.reward


def state_of(session: Session) -> EpisodeState:
    """How far a session's episode is."""
    task = session.task
    return EpisodeState(
        episode_id=session.label, step_count=session.turns, task_id=task.id if task else None, split=session.split,
        done=session.outcome is not None and not session.is_playing, reward=session.total,
    )  # fmt: skip


def error_message(message: str, code: str) -> dict[str, Any]:
    """An error on a WebSocket."""
    return {"type": "error", "data": {"message": message, "code": code}}


def rpc_error(id: Any, code: int, message: str, data: Any = None) -> dict[str, Any]:
    """An error of JSON-RPC."""
    error = {"code": code, "message": message, **({} if data is None else {"data": data})}
    return {"jsonrpc": "2.0", "id": id if isinstance(id, (str, int)) else None, "error": error}


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong with a message, and where."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where or 'the action'}: {first['msg']}"[:500]
