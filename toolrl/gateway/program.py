"""A program as the policy's body: it plays an episode with whatever SDK it was written, through the gateway.

toolrl gives it the task, the address and the key, samples its turns, and grades what it answers, and the state that its
calls of the environment's tools leave, by the environment's own reward.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import shlex
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from toolrl.chat import Renderer
from toolrl.episode import EpisodeSession
from toolrl.errors import ConfigError, InfrastructureError, PolicyFault
from toolrl.gateway.gateway import Client, Gateway, GatewayLimits
from toolrl.gateway.sandboxed import PORT, Gate, SandboxedRun
from toolrl.gateway.server import GatewayServer
from toolrl.gym.naming import object_at
from toolrl.players import renderer_of
from toolrl.policy import ChatPolicy, Policy
from toolrl.rollout import Played, Prompts, RolloutEngine, RolloutRequest
from toolrl.support.waiting import contained, in_thread
from toolrl.trajectory import Trajectory
from toolrl.types import Message, Score, StopReason, ToolCall, ToolFailure

_MAX_OUTPUT_BYTES = 1 << 20
_GRACE_SECONDS = 5.0
# What a command inherits of this process's environment.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH")


class ToolMistake(Exception):
    """A call of the environment's tool failed, and the agent caused it. The text is what a model would read."""


@dataclass(frozen=True, slots=True)
class AgentContext:
    """What a program is given for an episode.

    Attributes:
        prompt: The task.
        system_prompt: What the environment tells the agent; may be empty.
        tools: The environment's tools as JSON schemas.
        base_url: Of the gateway, for OpenAI's clients: it ends with `/v1`. Anthropic's take it without.
        api_key: The episode's.
        model: The policy's name there.
        metadata: The task's, for agents that belong to an environment; it may hold the solution.
    """

    prompt: str
    system_prompt: str
    tools: Sequence[Mapping[str, Any]]
    base_url: str
    api_key: str
    model: str
    metadata: Mapping[str, Any] = field(repr=False)
    tool_calls: ToolCalls = field(repr=False)

    async def call(self, name: str, /, **arguments: Any) -> str:
        """Call a tool of the environment; calls at the same time run one after the other.

        Raises:
            ToolMistake: The call failed as it would for a model.
            EpisodeOver: The tool has ended the episode.
            InfrastructureError: The tool could not do its work, and the agent did not cause it.
        """
        return await self.tool_calls.run(ToolCall(name, arguments))


class EpisodeOver(Exception):
    """The environment has ended the episode; a program need not catch this.

    Attributes:
        stop: Why.
    """

    def __init__(self, stop: StopReason):
        super().__init__(f"the episode has ended: {stop}")
        self.stop = stop


class ToolCalls:
    """A program's calls of the environment's tools.

    What ends the episode, or is nobody's mistake, is kept here: a program may catch everything, and go on.

    Attributes:
        over: Why the environment has ended the episode; None if it has not.
        fault: The infrastructure fault of a tool; None if there was none.
    """

    def __init__(self, session: EpisodeSession):
        """Call tools of an episode."""
        self.over: StopReason | None = None
        self.fault: InfrastructureError | None = None
        self._session = session
        self._one_call = asyncio.Lock()

    async def run(self, call: ToolCall) -> str:
        """See `AgentContext.call`."""
        async with self._one_call:
            if self.fault is not None:
                raise self.fault
            if self.over is not None:
                raise EpisodeOver(self.over)
            try:
                step = await self._session.advance(Message("assistant", "", (call,)))
            except InfrastructureError as fault:
                self.fault = fault
                raise
        result, self.over = step.results[0], step.stop
        if self.over is not None:
            raise EpisodeOver(self.over)
        if result.failure is not None and result.failure is not ToolFailure.LIMIT:
            raise ToolMistake(result.content)
        return result.content


AgentFunction = Callable[[AgentContext], Awaitable[str]]


@dataclass(frozen=True)
class AgentProgram:
    """The program that plays; exactly one of `function` and `command` is given.

    Attributes:
        function: An async function that takes an `AgentContext` and returns the answer. What it raises is a bug, unless
            the policy failed it.
        command: A command. It finds the task in TOOLRL_TASK, the gateway in OPENAI_BASE_URL, OPENAI_API_KEY,
            ANTHROPIC_BASE_URL, ANTHROPIC_API_KEY, and the model's name in TOOLRL_MODEL; what it prints is the answer.
            If it fails there is none.
        seconds: Longest run; then it is ended, and has no answer.
        limits: Of its calls to the model.
        environment: Further variables of a command, which inherits few of this process's.
        sandbox: A folder that a command runs in, in a sandbox: it may read that, write its own, and reach nothing but
            the gateway. Packages are this Python's. None runs it on this machine.
    """

    function: AgentFunction | None = None
    command: Sequence[str] = ()
    seconds: float = 600.0
    limits: GatewayLimits = field(default_factory=GatewayLimits)
    environment: Mapping[str, str] = field(default_factory=dict)
    sandbox: str | Path | None = None

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: There are both or neither of function and command, or no time.
        """
        if (self.function is None) == (not self.command):
            raise ConfigError("an AgentProgram has a function or a command, and not both")
        if self.sandbox is not None and self.function is not None:
            raise ConfigError("a function runs in this process; only a command can have a sandbox")
        if not self.seconds > 0:
            raise ConfigError(f"AgentProgram.seconds must be positive, got {self.seconds!r}")


def parse_agent(text: str, **settings: Any) -> AgentProgram:
    """A program as it is named on the command line: `my_agent.py:play`, `module:play`, or a command.

    Raises:
        ConfigError: There is no such function, or the text is not a command.
    """
    words = shlex.split(text)
    if len(words) == 1 and ":" in words[0]:
        function = object_at(words[0])
        if not inspect.iscoroutinefunction(function):
            raise ConfigError(f"--agent {text!r}: an agent is an async function that takes an AgentContext")
        return AgentProgram(function, **settings)
    if not words:
        raise ConfigError("--agent is empty; name a command, or FILE.py:FUNCTION")
    return AgentProgram(command=words, **settings)


class ProgramEngine(RolloutEngine):
    """A rollout engine whose episodes are played by a program."""

    def __init__(self, program: AgentProgram, policy: Policy | ChatPolicy, renderer: Renderer | None, **options: Any):
        """Serve the policy to the program.

        Args:
            program: Plays the episodes.
            policy: Samples its turns.
            renderer: Of the policy's model.
            options: See `RolloutEngine`.

        Raises:
            ConfigError: The policy has no tokens.
        """
        if renderer is None or isinstance(policy, ChatPolicy):
            raise ConfigError("a program needs a policy that samples tokens, with its renderer")
        super().__init__(policy, renderer, **options)
        self._program = program
        self._gateway = Gateway(policy, renderer, policy_timeout_seconds=self._policy_timeout_seconds)
        self._resources = ExitStack()
        self._gate = None
        if program.sandbox is not None:
            self._gate = Gate()
            self._resources.callback(self._gate.close)
        listeners = [self._gate.listener] if self._gate else []
        self._url = self._resources.enter_context(GatewayServer(self._gateway, listeners=listeners)).url

    def run(
        self, requests: Sequence[RolloutRequest], on_trajectory: Callable[[Trajectory], None] | None = None
    ) -> list[Trajectory]:
        """See `RolloutEngine.run`.

        Args:
            requests: What is played.
            on_trajectory: In place of the engine's own.
        """
        before = self._on_trajectory
        self._on_trajectory = on_trajectory or before
        try:
            return super().run(requests)
        finally:
            self._on_trajectory = before

    def close(self) -> None:
        """Stop serving. Safe to call twice."""
        self._resources.close()

    async def _play(
        self, request: RolloutRequest, session: EpisodeSession, played: Played, prompts: Prompts
    ) -> tuple[StopReason, Score]:
        own, env = self._program.limits, request.env.limits
        most = int(min(own.completion_tokens, env.completion_tokens, self._max_completion_tokens))
        limits = replace(own, turn_tokens=min(own.turn_tokens, env.turn_tokens), completion_tokens=most)
        assert self.renderer is not None
        client = self._gateway.open(self.sampling, limits, renderer_of(self.renderer, request.env, request.task))
        async with session:
            try:
                with session.counting_usage():
                    answer, stop = await self._answer(request, session, client)
                if stop is None:
                    stop = (await session.advance(Message("assistant", answer or ""))).stop or StopReason.ANSWER
                return stop, await session.score(stop, in_group=True)
            finally:
                self._gateway.close(client)
                self._note(client, request, played)

    def _note(self, client: Client, request: RolloutRequest, played: Played) -> None:
        """The conversations as the episode's: the latest is its main one."""
        branches = client.conversations.branches()
        if not branches:  # the model was never asked; the task is what it would have seen
            renderer = client.conversations.renderer
            branches = [Played(played.prompt, renderer.prompt_ids(played.prompt, request.env.toolbox.schemas))]
        main, *played.branches = branches
        played.prompt, played.prompt_ids, played.turns = main.prompt, main.prompt_ids, main.turns

    async def _answer(
        self, request: RolloutRequest, session: EpisodeSession, client: Client
    ) -> tuple[str | None, StopReason | None]:
        """What the program answers, or why there is no answer.

        Raises:
            InfrastructureError: The policy failed a call, or a tool its work, whatever the program made of it.
        """
        program, calls = self._program, ToolCalls(session)
        context = AgentContext(
            request.task.prompt, request.env.system_prompt, request.env.toolbox.schemas, f"{self._url}/v1", client.key,
            self._gateway.model, request.task.metadata, calls,
        )  # fmt: skip
        answer: str | None = None
        try:
            async with asyncio.timeout(program.seconds) as limit:
                if program.function is not None:
                    with contained(f"the program, with task {request.task.id!r}"):
                        answer = await program.function(context)
                elif self._gate is not None:
                    answer = await _run_in_sandbox(program, context, self._gate)
                else:
                    answer = await _run(program, context)
        except Exception as error:
            # Its SDK has raised what the gateway answered.
            caused = calls.fault or calls.over or client.fault or client.is_over_limit
            if not caused and not (isinstance(error, TimeoutError) and limit.expired()):
                raise  # a bug of the program
        if calls.fault is not None:
            raise calls.fault
        if client.fault:
            raise PolicyFault(client.fault)
        if calls.over is not None:
            return None, calls.over
        if answer is None and client.is_over_limit:
            return None, StopReason.TOKENS
        if answer is not None and not isinstance(answer, str):
            raise ConfigError(f"a program's function returns its answer as text, got {answer!r:.80}")
        return answer, None


def _variables(program: AgentProgram, context: AgentContext, base_url: str) -> dict[str, str]:
    """What a command finds in its environment."""
    return {
        **program.environment,
        "TOOLRL_TASK": context.prompt,
        "TOOLRL_MODEL": context.model,
        "OPENAI_BASE_URL": base_url,
        "OPENAI_API_KEY": context.api_key,
        "ANTHROPIC_BASE_URL": base_url.removesuffix("/v1"),
        "ANTHROPIC_API_KEY": context.api_key,
    }


async def _run_in_sandbox(program: AgentProgram, context: AgentContext, gate: Gate) -> str | None:
    """What a command prints in a sandbox; None if it fails. Nothing of it is left afterwards."""
    assert program.sandbox is not None
    folder = Path(program.sandbox)
    run = await in_thread(lambda: SandboxedRun(program.command, folder, gate))
    variables = _variables(program, context, f"http://127.0.0.1:{PORT}/v1")
    try:
        return await in_thread(lambda: run.output(program.seconds, variables))
    finally:
        await in_thread(run.close)


async def _run(program: AgentProgram, context: AgentContext) -> str | None:
    """What a command prints; None if it fails. Nothing of it is left afterwards."""
    variables = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    given = _variables(program, context, context.base_url)
    try:
        process = await asyncio.create_subprocess_exec(
            *program.command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL, env={**variables, **given},
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(f"the program {program.command[0]!r} cannot be started: {error}") from None
    try:
        assert process.stdout is not None
        printed = await _read(process.stdout)
        code = await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.wait_for(process.wait(), _GRACE_SECONDS)
    return printed.decode("utf-8", "replace").strip() if code == 0 else None


async def _read(stream: asyncio.StreamReader) -> bytes:
    """What is printed, up to a limit; the rest is read and dropped."""
    kept = bytearray()
    while chunk := await stream.read(1 << 16):
        kept += chunk[: _MAX_OUTPUT_BYTES - len(kept)]
    return bytes(kept)
