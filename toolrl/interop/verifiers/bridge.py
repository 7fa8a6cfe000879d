"""A program that plays verifiers' tasks. It runs in an environment of its own, and imports nothing but verifiers.

`python -P bridge.py SETTINGS` reads requests from stdin and writes answers to stdout, one JSON object a line. Any
number of requests can be in flight; an answer has the `id` of its request. It ends with its stdin, or by SIGTERM.

    {"id": 1, "do": "tasks"}                     {"id": 1, "tasks": [{"index": 0, "key": ..., "prompt": ...}]}
    {"id": 2, "do": "run", "index": 0, "key": ..., "base_url": ..., "api_key": ..., "model": ...}
                                                 {"id": 2, "reward": 1.0, "metrics": {}, "error": "", "fault": ""}
    {"id": 3, "do": "cancel", "run": 2}          {"id": 2, "error": "cancelled", "fault": "environment", ...}
                                                 {"id": 3}

A request that cannot be served has `{"failed": TEXT, "settings": true}`, where `settings` tells whether they are wrong.
SETTINGS is a JSON object: `taskset` and `agent` as verifiers' configuration has them, and `most`, the most tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from importlib import import_module  # verifiers is imported by name: it is missing wherever this file is checked
from typing import Any, BinaryIO

Json = dict[str, Any]

_MAX_REQUEST_BYTES = 1 << 22
_TOO_MANY_REQUESTS = 429
_KEY = "TOOLRL_API_KEY_"  # begins the name of the variable with an episode's key
_SETTINGS_ERRORS = (ImportError, ValueError, TypeError, AttributeError, LookupError)


class Player:
    """verifiers' environment of a taskset, and its tasks."""

    def __init__(self, settings: Mapping[str, Any]):
        """Load the environment.

        Raises:
            ValueError: It has several agents, or the settings are wrong.
        """
        self._env = import_module("verifiers.v1.utils.loaders").load_environment(_config(settings))
        self._most: int | None = settings["most"]
        self._tasks: list[Any] = []
        self._is_serving = False

    def tasks(self) -> list[Json]:
        """The tasks, without their answers.

        Raises:
            ValueError: There is no end of them.
        """
        self._load()
        return [_described(index, task) for index, task in enumerate(self._tasks)]

    def _load(self) -> None:
        if self._tasks:
            return
        taskset = self._env.taskset
        if self._most is not None:
            taskset = taskset.take(self._most)
        elif not taskset.bounded:
            raise ValueError("this taskset has no end; pass tasks=N")
        self._tasks = list(taskset)

    async def serve(self, stack: AsyncExitStack) -> None:
        """Start what episodes share, once; it ends with the stack."""
        self._load()
        if not self._is_serving:
            await stack.enter_async_context(self._env.serving())
            self._is_serving = True

    async def run(self, request: Json) -> Json:
        """Play a task once.

        Raises:
            LookupError: It is not the task that the caller means.
        """
        task = self._tasks[request["index"]]
        if task.key != request["key"]:
            raise LookupError(f"task {request['index']} has changed since: this taskset is not the same each time")
        v1 = import_module("verifiers.v1")
        # Their client reads its key from a variable; programs that they start do not inherit one with this name.
        variable = f"{_KEY}{request['id']}"
        os.environ[variable] = request["api_key"]
        try:
            client = v1.EvalClientConfig(base_url=request["base_url"], api_key_var=variable)
            context = v1.ModelContext(model=request["model"], client=client, sampling=v1.SamplingConfig())
            (slot,) = self._env.slots(task)
            return _outcome(await self._env.run_slot(slot, context))
        finally:
            del os.environ[variable]


def _config(settings: Mapping[str, Any]) -> Any:
    """The configuration of a taskset's environment, which must have one agent."""
    loaders = import_module("verifiers.v1.utils.loaders")
    taskset, agent = dict(settings["taskset"]), dict(settings["agent"])
    kind = loaders.env_config_type(taskset["id"])
    agent_config = import_module("verifiers.v1").AgentConfig
    roles = {name: f.default for name, f in kind.model_fields.items() if isinstance(f.default, agent_config)}
    if len(roles) != 1:
        raise ValueError(
            f"the environment of {taskset['id']} has the agents {sorted(roles)}; only one with a single agent can be "
            "played, since an episode has one score"
        )
    ((role, default),) = roles.items()
    # verifiers' own defaults are a shell on this machine, and a sandbox that costs money.
    if default.harness is None and loaders.default_harness_id(taskset["id"]) == "bash":
        agent.setdefault("harness", {"id": "null"})
    if "runtime" not in default.model_fields_set:
        agent.setdefault("runtime", {"type": "subprocess"})
    return loaders.resolve_env_config({"taskset": taskset, role: agent})


def _described(index: int, task: Any) -> Json:
    data = task.data
    prompt = data.prompt_text or data.description or data.name or data.id or f"task {index}"
    return {"index": index, "key": task.key, "id": data.id, "name": data.name, "prompt": prompt}


def _outcome(episode: Any) -> Json:
    """What an episode was worth, or whose fault it is that this is unknown."""
    (trace, *others) = episode.traces or [None]
    error, fault, reward = "", "", None
    numbers: Json = {}
    if trace is not None:
        numbers = {name: reward.score for name, reward in trace.rewards.items() if reward is not None}
        numbers |= {name: value for name, value in trace.metrics.items() if value is not None}
    if not episode.ok:
        last = episode.last_error or (trace.last_error if trace is not None else None)
        error = f"{last.type}: {last.message}" if last else "verifiers does not say why"
        fault = "policy" if last is not None and _is_over_a_limit(last) else "environment"
    elif others:
        error, fault = f"the episode has {1 + len(others)} traces, and so no one reward", "environment"
    elif trace.rewards and all(one is not None for one in trace.rewards.values()):
        reward = float(trace.reward)
        if not math.isfinite(reward):
            error, fault, reward = f"the reward is {reward}", "environment", None
    metrics = {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
    stop = trace.stop_condition if trace is not None else None
    return {"reward": reward, "metrics": metrics, "error": error, "fault": fault, "stop": stop or ""}


def _is_over_a_limit(error: Any) -> bool:
    """Whether the model used up its calls or its context."""
    is_full = error.status_code == 400 and "maximum context length" in error.message
    return error.type == "ProviderError" and (error.status_code == _TOO_MANY_REQUESTS or is_full)


def _take_over_calls() -> None:
    """Make the calls to the model with a client of our own.

    verifiers 0.4 keeps a client for each key until its server ends, with TLS settings of its own: each episode would
    cost 20 ms and a megabyte. And it streams, so that a refusal (no calls left, a full context) looks like a broken
    connection, while its agents tell the two apart by the status.
    """
    server = import_module("verifiers.v1.interception.server")
    clients = import_module("verifiers.v1.clients")
    base = import_module("verifiers.v1.clients.base")
    relay_reply = import_module("verifiers.v1.clients.client").RelayReply
    configs = import_module("verifiers.v1.configs.client")
    shared: list[Any] = []

    class WholeTurns(clients.EvalClient):  # type: ignore[name-defined,misc,unused-ignore]
        def __init__(self, config: Any):
            if not shared:
                shared.append(base.build_async_httpx(config))
            self.base_url, self.client = config.base_url, shared[0]
            self.api_key, self.headers = configs.resolve_api_key(config), configs.resolve_headers(config)

        async def relay(self, dialect: Any, body: Json, session_id: Any = None, headers: Any = None) -> Any:
            whole = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
            url = base.join_url(self.base_url, dialect.upstream_path)
            response = await self._request(url, whole, self._headers(dialect, headers, session_id))
            return relay_reply("text/event-stream", _each(dialect.stream_events(response.json())), self.close)

        async def close(self) -> None:
            """The connections are the others' too, and end with the process."""

    def resolve(config: Any) -> Any:
        is_ours = isinstance(config, configs.EvalClientConfig) and config.api_key_var.startswith(_KEY)
        return WholeTurns(config) if is_ours else clients.resolve_client(config)

    vars(server)["resolve_client"] = resolve


async def _each(items: list[bytes]) -> AsyncIterator[bytes]:
    for item in items:
        yield item


class Bridge:
    """Serves requests."""

    def __init__(self, settings: Mapping[str, Any], requests: BinaryIO, answers: BinaryIO):
        """Serve a taskset over two pipes."""
        self._settings, self._requests, self._answers = settings, requests, answers
        self._player: Player | None = None
        self._runs: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Serve until the requests end."""
        loop, this = asyncio.get_running_loop(), asyncio.current_task()
        assert this is not None
        loop.add_signal_handler(signal.SIGTERM, this.cancel)
        reader = asyncio.StreamReader(limit=_MAX_REQUEST_BYTES)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), self._requests)
        async with AsyncExitStack() as stack:
            try:
                while line := await reader.readline():
                    await self._take(json.loads(line), stack)
            finally:
                runs = list(self._runs.values())
                for run in runs:
                    run.cancel()
                await asyncio.gather(*runs, return_exceptions=True)

    async def _take(self, request: Json, stack: AsyncExitStack) -> None:
        """Answer a request, or begin to. What episodes share is started here: the task that enters it leaves it."""
        try:
            if request["do"] == "cancel":
                run = self._runs.get(request["run"])
                if run is not None:
                    run.cancel()
                    await asyncio.wait([run])
                self._answer(request, {})
                return
            if self._player is None:
                self._player = Player(self._settings)
                _take_over_calls()
            if request["do"] == "tasks":
                self._answer(request, {"tasks": self._player.tasks()})
                return
            await self._player.serve(stack)
        except Exception as error:  # noqa: BLE001 - whatever a taskset raises is told to the caller
            self._fail(request, error)
            return
        self._runs[request["id"]] = asyncio.create_task(self._run(self._player, request))

    async def _run(self, player: Player, request: Json) -> None:
        try:
            self._answer(request, await player.run(request))
        except asyncio.CancelledError:
            self._answer(request, {"reward": None, "metrics": {}, "error": "cancelled", "fault": "environment"})
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(request, error)
        finally:
            del self._runs[request["id"]]

    def _fail(self, request: Json, error: Exception) -> None:
        logging.getLogger(__name__).warning("request failed", exc_info=error)
        text = f"{type(error).__name__}: {error}"
        self._answer(request, {"failed": text, "settings": isinstance(error, _SETTINGS_ERRORS)})

    def _answer(self, request: Json, answer: Json) -> None:
        with contextlib.suppress(BrokenPipeError):  # the caller has gone
            self._answers.write(json.dumps({"id": request["id"], **answer}).encode() + b"\n")
            self._answers.flush()


def main() -> None:
    """Keep the two pipes to itself, and serve."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # whatever is printed, here or by programs that a taskset starts
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(Bridge(json.loads(sys.argv[1]), requests, answers).serve())


if __name__ == "__main__":
    main()
