"""A program as the policy's body: it plays an episode with whatever SDK it was written, through the gateway.

toolrl gives it the task, the address and the key, samples its turns, and grades what it answers, and the state that its
calls of the environment's tools leave, by the environment's own reward.
"""

from __future__ import annotations

import asyncio
import inspect
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from toolrl.chat import Renderer
from toolrl.episode import EpisodeSession
from toolrl.errors import ConfigError, PolicyFault, ProgramFault
from toolrl.gateway.command import Outcome, run_command
from toolrl.gateway.gateway import Client, Gateway, GatewayLimits
from toolrl.gateway.sandboxed import PORT, Gate, SandboxedRun
from toolrl.gateway.server import GatewayServer
from toolrl.gateway.tools import ToolCalls, ToolMistake
from toolrl.gym.naming import absolute, object_at
from toolrl.players import renderer_of
from toolrl.policy import ChatPolicy, Policy
from toolrl.rollout import Played, Prompts, RolloutEngine, RolloutRequest
from toolrl.support.waiting import contained, in_thread
from toolrl.trajectory import Trajectory
from toolrl.types import Message, Score, StopReason, ToolCall

_MOST_BYTES = 128 * 1024 - 64  # of a variable; Linux counts its name too


@dataclass(frozen=True, slots=True)
class AgentContext:
    """What a program is given for an episode.

    Attributes:
        prompt: The task.
        system_prompt: What the environment tells the agent; may be empty.
        tools: The environment's tools as JSON schemas.
        base_url: Of the gateway, for OpenAI's clients: it ends with `/v1`. Anthropic's take it without.
        api_key: The episode's.
        mcp_url: The environment's tools over MCP (streamable HTTP), which takes the key as `Authorization: Bearer ...`;
            empty if the package mcp is not installed.
        model: The policy's name there.
        metadata: The task's, for agents that belong to an environment; it may hold the solution.
    """

    prompt: str
    system_prompt: str
    tools: Sequence[Mapping[str, Any]]
    base_url: str
    api_key: str
    mcp_url: str
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

    async def say(self, text: str) -> str:
        """Say something to the environment's user, and return the reply.

        Raises:
            EpisodeOver: The user has ended the conversation.
            InfrastructureError: The user could not reply, and the agent did not cause it.
            ConfigError: The environment has no user.
        """
        return await self.tool_calls.say(text)


AgentFunction = Callable[[AgentContext], Awaitable[str]]


@dataclass(frozen=True)
class AgentProgram:
    """The program that plays; exactly one of `function` and `command` is given.

    Attributes:
        function: An async function that takes an `AgentContext` and returns the answer. What it raises is a bug, unless
            the policy failed it; after a `ToolMistake` that it does not catch there is no answer.
        command: A command. It finds the task in TOOLRL_TASK and TOOLRL_SYSTEM_PROMPT, the gateway in OPENAI_BASE_URL,
            OPENAI_API_KEY, ANTHROPIC_BASE_URL, ANTHROPIC_API_KEY, the environment's tools in TOOLRL_MCP_URL, and the
            model's name in TOOLRL_MODEL; what it prints is the answer. If it fails there is none, and the trajectory's
            `info["program"]` says why; if it fails before it has asked for anything, that is a fault.
        seconds: Longest run; then it is ended, and has no answer.
        limits: Of its calls to the model.
        environment: Further variables of a command, which inherits few of this process's.
        sandbox: A folder that a command runs in, in a sandbox: it may read that, write its own, and reach nothing but
            the gateway. Packages are this Python's. None runs it on this machine.
        made_from: What `parse_agent` made it of, so that workers can make it too.
    """

    function: AgentFunction | None = None
    command: Sequence[str] = ()
    seconds: float = 600.0
    limits: GatewayLimits = field(default_factory=GatewayLimits)
    environment: Mapping[str, str] = field(default_factory=dict)
    sandbox: str | Path | None = None
    made_from: tuple[str, dict[str, Any]] | None = field(default=None, compare=False)

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
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--agent {text!r} is not a command: {error}") from None
    if settings.get("sandbox") is not None:
        settings["sandbox"] = Path(settings["sandbox"]).absolute()
    if len(words) == 1 and ":" in words[0]:
        function = object_at(words[0])
        if not inspect.iscoroutinefunction(function):
            raise ConfigError(f"--agent {text!r}: an agent is an async function that takes an AgentContext")
        return AgentProgram(function, **settings, made_from=(absolute(words[0]), settings))
    if not words:
        raise ConfigError("--agent is empty; name a command, or FILE.py:FUNCTION")
    return AgentProgram(command=words, **settings, made_from=(text, settings))


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
        self._server = self._resources.enter_context(GatewayServer(self._gateway, listeners=listeners))

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
        client.tools = tools = ToolCalls(session, request.env)
        async with session:
            try:
                with session.counting_usage():
                    outcome, stop = await self._outcome(request, client, tools)
                if outcome.failure:
                    played.info["program"] = outcome.failure
                if stop is None and (outcome.answer or not tools.has_user):
                    stop = (await session.advance(Message("assistant", outcome.answer or ""))).stop
                stop = stop or StopReason.ANSWER
                return stop, await session.score(stop, in_group=True)
            finally:
                self._gateway.close(client)
                self._note(client, request, played)
                played.results = tuple(session.results)

    def _note(self, client: Client, request: RolloutRequest, played: Played) -> None:
        """The conversations as the episode's: the latest is its main one."""
        branches = client.conversations.branches()
        if not branches:  # the model was never asked; the task is what it would have seen
            renderer = client.conversations.renderer
            branches = [Played(played.prompt, renderer.prompt_ids(played.prompt, request.env.toolbox.schemas))]
        main, *played.branches = branches
        played.prompt, played.prompt_ids, played.turns = main.prompt, main.prompt_ids, main.turns

    async def _outcome(
        self, request: RolloutRequest, client: Client, calls: ToolCalls
    ) -> tuple[Outcome, StopReason | None]:
        """What the program answers, or how it fails; and why the episode ended before it could answer.

        Raises:
            InfrastructureError: The policy failed a call, or a tool its work, whatever the program made of it; or the
                program failed before it had asked anything of either.
            Exception: A bug of the program or of a tool.
        """
        program = self._program
        context = AgentContext(
            request.task.prompt, request.env.system_prompt, request.env.toolbox.schemas, f"{self._server.url}/v1",
            client.key, self._server.mcp_url, self._gateway.model, request.task.metadata, calls,
        )  # fmt: skip
        outcome = Outcome(None)
        try:
            async with asyncio.timeout(program.seconds) as limit:
                if program.function is not None:
                    with contained(f"the program, with task {request.task.id!r}"):
                        outcome = Outcome(await program.function(context))
                else:
                    outcome = await self._run(context)
        except ToolMistake as mistake:  # the model's, and the program has let it pass
            outcome = Outcome(None, f"did not catch a mistake of the model: {mistake}")
        except Exception as error:
            # Its SDK has raised what the gateway answered.
            caused = calls.fault or calls.over or client.fault or client.is_over_limit
            is_late = isinstance(error, TimeoutError) and limit.expired()
            if not caused and not is_late:
                raise  # a bug of the program
            if is_late:
                outcome = Outcome(None, f"had not ended after {program.seconds:g} s (--agent_seconds)")
        finally:
            await calls.close()
        if calls.fault is not None:
            raise calls.fault
        if client.fault:
            raise PolicyFault(client.fault)
        if calls.over is not None:
            return outcome, calls.over
        if outcome.answer is None and client.is_over_limit:
            return outcome, StopReason.TOKENS
        if outcome.failure and not client.calls and not calls.made:
            raise ProgramFault(f"the program {outcome.failure}; it had asked neither the model nor a tool")
        if not isinstance(outcome.answer, str | None):
            raise ConfigError(f"a program's function returns its answer as text, got {outcome.answer!r:.80}")
        return outcome, None

    async def _run(self, context: AgentContext) -> Outcome:
        """Run the program's command."""
        program, gate = self._program, self._gate
        if gate is None or program.sandbox is None:
            return await run_command(program.command, _variables(program, context))
        folder, inside = Path(program.sandbox), f"http://127.0.0.1:{PORT}"
        context = replace(context, base_url=f"{inside}/v1", mcp_url=context.mcp_url.replace(self._server.url, inside))
        run = await in_thread(lambda: SandboxedRun(program.command, folder, gate))
        try:
            return await in_thread(lambda: run.outcome(program.seconds, _variables(program, context)))
        finally:
            await in_thread(run.close)


def _variables(program: AgentProgram, context: AgentContext) -> dict[str, str]:
    """What a command finds in its environment.

    Raises:
        ConfigError: A variable cannot hold it.
    """
    given = {
        "TOOLRL_TASK": context.prompt,
        "TOOLRL_SYSTEM_PROMPT": context.system_prompt,
        "TOOLRL_MODEL": context.model,
        "TOOLRL_MCP_URL": context.mcp_url,
        "OPENAI_BASE_URL": context.base_url,
        "OPENAI_API_KEY": context.api_key,
        "ANTHROPIC_BASE_URL": context.base_url.removesuffix("/v1"),
        "ANTHROPIC_API_KEY": context.api_key,
    }
    for name, text in given.items():
        size = len(text.encode("utf-8", "replace"))
        if size > _MOST_BYTES or "\0" in text:
            raise ConfigError(
                f"{name} cannot be given to a command: a variable holds {_MOST_BYTES:,} bytes, none of them zero, "
                f"and not {text[:60]!r}, {size:,} bytes; a function gets any text"
            )
    return {**program.environment, **given}
