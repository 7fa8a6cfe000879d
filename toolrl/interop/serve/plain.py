"""Environments by plain HTTP: tasks, sessions, turns and verdicts in JSON. docs/serve.md has the calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from toolrl.chat.wire import from_wire, to_wire
from toolrl.env import say
from toolrl.errors import InfrastructureError
from toolrl.interop.serve.host import (
    Busy,
    EpisodeEnded,
    Host,
    NotServed,
    Outcome,
    Session,
    described,
    judged,
    summary,
)
from toolrl.interop.serve.openapi import Operation
from toolrl.support.serving import Body, Refusal, json_response, read_body
from toolrl.types import Message, StopReason

MAX_BODY_BYTES = 16 << 20
_MOST_TASKS = 1000  # in one answer


class Environment(BaseModel):
    """An environment: its name, what it is, how many tasks each split has, and its tools as JSON schemas."""

    name: str
    about: str
    splits: dict[str, int]
    tools: list[dict[str, Any]]
    answers_end: bool = Field(description="Whether a turn without a call ends the episode; else somebody replies to it")
    turns: int = Field(description="The most turns of an episode")


class Environments(BaseModel):
    """All environments."""

    environments: list[Environment]


class TaskShown(BaseModel):
    """A task, without its answer."""

    id: str
    prompt: str
    kind: str = ""
    difficulty: str | float | None = None
    needs_tool: bool | None = None


class Tasks(BaseModel):
    """Some tasks of a split, and how many it has."""

    tasks: list[TaskShown]
    total: int


class Opened(BaseModel):
    """An episode that has begun: its session, its task, the conversation so far, and the tools as JSON schemas."""

    session: str
    task: TaskShown
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]


class Verdict(BaseModel):
    """A score; without a value the episode could not be scored, for this reason, which is not the same as 0."""

    value: float | None
    parts: dict[str, float] = {}
    reason: str = ""


class Turned(BaseModel):
    """What followed a turn.

    `messages` are the results of its calls, or the reply to its words. `failures` has for each call why it failed, or
    nothing. `reward` is what the turn earned; the rewards of an episode add up to its score. `stop` says why the
    episode ended: answer, tool, user, turns, or fault, after which there is no value.
    """

    messages: list[dict[str, Any]]
    failures: list[str | None]
    reward: float
    done: bool
    stop: str | None = None
    score: Verdict | None = None


class State(BaseModel):
    """A session as it is; it has no task and no split before its first episode."""

    session: str
    environment: str
    task: str
    split: str
    turns: int
    reward: float
    done: bool


class Done(BaseModel):
    """It is done."""

    closed: bool = True


class Open(Body):
    """Begins an episode: with a task by its id, its place, or chosen by a seed; otherwise by chance."""

    environment: str = Field("", description="May be left out where one is served")
    split: str = "train"
    task: str | None = None
    index: int | None = Field(None, ge=0)
    seed: int | None = Field(None, ge=0)


class Step(Body):
    """A turn of the agent: a message as in OpenAI's chat completions, or a text in the environment's dialect."""

    message: dict[str, Any] | None = None
    text: str | None = None


class Verify(Body):
    """Ends the episode: with an answer, or with the state as it is."""

    answer: str | None = None


_OPERATIONS = {
    "environments": Operation("get", "/v1/environments", "The environments.", Environments),
    "tasks": Operation(
        "get", "/v1/tasks", "Tasks, without their answers.", Tasks,
        query={"environment": "Its name.", "split": "train or test.", "start": "The first.", "stop": "After the last."},
    ),
    "open": Operation("post", "/v1/sessions", "Begin an episode in a session of its own.", Opened, Open),
    "state": Operation("get", "/v1/sessions/{session}", "How far it is.", State),
    "step": Operation("post", "/v1/sessions/{session}/step", "Take a turn.", Turned, Step),
    "verify": Operation("post", "/v1/sessions/{session}/verify", "End the episode, and grade it.", Turned, Verify),
    "close": Operation("delete", "/v1/sessions/{session}", "Close the session.", Done),
}  # fmt: skip
OPERATIONS = list(_OPERATIONS.values())


class PlainApi:
    """The routes of a host."""

    def __init__(self, host: Host):
        """Serve a host's environments."""
        self._host = host
        handlers = {
            "environments": self._environments, "tasks": self._tasks, "open": self._open, "state": self._state,
            "step": self._step, "verify": self._verify, "close": self._close,
        }  # fmt: skip
        self.routes = [
            Route(_OPERATIONS[name].path, _refusing(handler), methods=[_OPERATIONS[name].method.upper()])
            for name, handler in handlers.items()
        ]

    async def _environments(self, request: Request) -> BaseModel:
        shown = []
        for name in self._host.names.values():
            env = await self._host.any_env(name)
            one = Environment(
                name=name, about=summary(env), splits=await self._host.splits(name), tools=env.toolbox.schemas,
                answers_end=env.user is None, turns=env.limits.turns,
            )  # fmt: skip
            shown.append(one)
        return Environments(environments=shown)

    async def _tasks(self, request: Request) -> BaseModel:
        given = request.query_params
        env = await self._host.env(self._named(given.get("environment", "")), given.get("split", "train"))
        total = len(env.tasks)
        start = _number(given.get("start"), "start", 0)
        stop = min(_number(given.get("stop"), "stop", start + _MOST_TASKS), start + _MOST_TASKS, total)
        tasks = [TaskShown(**described(env.tasks[place])) for place in range(start, stop)]
        return Tasks(tasks=tasks, total=total)

    async def _open(self, request: Request) -> BaseModel:
        body = Open.of(await read_body(request, MAX_BODY_BYTES))
        session = self._host.open(self._named(body.environment))
        try:
            messages = await session.begin(split=body.split, task_id=body.task, index=body.index, seed=body.seed)
        except BaseException:
            await self._host.close(session)
            raise
        assert session.task is not None
        env = await self._host.env(session.name, session.split)
        return Opened(
            session=session.id, task=TaskShown(**described(session.task)), messages=list(map(to_wire, messages)),
            tools=env.toolbox.schemas,
        )  # fmt: skip

    async def _state(self, request: Request) -> BaseModel:
        session = self._session(request)
        return State(
            session=session.id, environment=session.name, task=session.task.id if session.task else "",
            split=session.split,
            turns=session.turns, reward=session.total, done=not session.is_playing,
        )  # fmt: skip

    async def _step(self, request: Request) -> BaseModel:
        session = self._session(request)
        body = Step.of(await read_body(request, MAX_BODY_BYTES))
        env = await self._host.any_env(session.name)
        if (body.message is None) == (body.text is None):
            raise Refusal(400, "a step has a message or a text, and not both")
        if body.message is None:
            turn = env.dialect.parse(body.text or "", env.toolbox.schemas)
        else:
            turn = _read_turn(body.message)
        return await _turned(session.take(turn))

    async def _verify(self, request: Request) -> BaseModel:
        session = self._session(request)
        body = Verify.of(await read_body(request, MAX_BODY_BYTES))
        if body.answer is not None and session.is_playing:
            ended = await _turned(session.take(say(body.answer)))
            if ended.done:
                return ended
        return await _turned(session.verify())

    async def _close(self, request: Request) -> BaseModel:
        await self._host.close(self._session(request))
        return Done()

    def _session(self, request: Request) -> Session:
        return self._host.session(request.path_params["session"])

    def _named(self, name: str) -> str:
        if not name and len(self._host.names) > 1:
            raise Refusal(400, f"name an environment: {', '.join(self._host.names.values())}")
        return self._host.names.get(name, name) if name else next(iter(self._host.names.values()))


async def _turned(turn: Awaitable[Outcome]) -> Turned:
    """What followed a turn, for a client; after a fault, that the episode has no score."""
    try:
        outcome = await turn
    except InfrastructureError as fault:
        score = Verdict(value=None, reason=str(fault))
        return Turned(messages=[], failures=[], reward=0.0, done=True, stop=str(StopReason.FAULT), score=score)
    step = outcome.step
    return Turned(
        messages=[] if step is None else list(map(to_wire, step.messages)),
        failures=[] if step is None else [result.failure and str(result.failure) for result in step.results],
        reward=outcome.reward,
        done=outcome.stop is not None,
        stop=outcome.stop and str(outcome.stop),
        score=None if outcome.score is None else Verdict(**judged(outcome.score)),
    )


def _read_turn(wire: dict[str, Any]) -> Message:
    try:
        turn = from_wire({"role": "assistant", **wire})
    except (ValueError, TypeError) as error:
        raise Refusal(400, f"message: {error}") from None
    if turn.role != "assistant":
        raise Refusal(400, f"message: a turn is the assistant's, got the role {turn.role!r}")
    return turn


def _number(text: str | None, name: str, missing: int) -> int:
    if text is None:
        return missing
    if not text.isdecimal() or len(text) > 12:
        raise Refusal(400, f"{name} must be a number that is not negative, got {text[:40]!r}")
    return int(text)


def _refusing(handler: Callable[[Request], Awaitable[BaseModel]]) -> Callable[[Request], Awaitable[Response]]:
    """A handler whose known errors are answers."""

    async def handle(request: Request) -> Response:
        try:
            return json_response((await handler(request)).model_dump(mode="json"))
        except NotServed as error:
            raise Refusal(404, str(error)) from None
        except EpisodeEnded as error:
            raise Refusal(409, str(error)) from None
        except Busy as error:
            raise Refusal(503, str(error), {"Retry-After": "1"}) from None
        except InfrastructureError as fault:
            raise Refusal(503, str(fault), {"Retry-After": "1"}) from fault

    return handle
