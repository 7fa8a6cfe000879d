"""`User`: who answers when the agent speaks and calls no tool, made from an author's function or class."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from toolrl.errors import ConfigError, InfrastructureError, ToolDefinitionError, ToolError
from toolrl.support.usage import counting
from toolrl.support.waiting import TookTooLong, in_thread, noting, within
from toolrl.tools.dispatch import cut_text
from toolrl.tools.openers import check_opener
from toolrl.tools.resources import Resource, ResourceScope
from toolrl.types import Ended, Task

STATE = "user"  # the name of a user's own state among an episode's resources
MAX_REPLY_CHARACTERS = 20_000
_GIVEN = ("task", "message", "state", "scope")


class User:
    """A user of an environment; its state belongs to the episode.

    Attributes:
        author: What the author passed: a function, a class, or an object that is called.
        resources: What is injected, by parameter name, what the author has in `resources`, and the user's own state as
            "user".
    """

    def __init__(self, author: Any):
        """Wrap an author's user.

        Args:
            author: Called with what its parameters name: `task`; `message`, the text that the agent said; `state`, a
                dict that lives as long as the episode; `scope`, the episode's `ResourceScope`; and resources, which are
                injected as a tool's are. It returns its reply, or `Ended` to end the episode. It may be async. Of a
                class, one instance is made for each episode, with the task if it takes one, and closed with it. If it
                has a mapping `resources`, such as those of its own tools, the environment shares them.

        Raises:
            ConfigError: It cannot be called so.
        """
        self.author = author
        self._is_class = isinstance(author, type)
        called = author.__call__ if self._is_class else author
        if not callable(author) or (self._is_class and "__call__" not in dir(author)):
            raise ConfigError(
                f"user must be a function, or a class with __call__, of task, message and state, got {author!r:.80}"
            )
        self.name = getattr(author, "__qualname__", type(author).__qualname__)
        self._wanted, injected = self._parameters(called)
        try:
            if self._is_class:
                check_opener(author, takes_task=True)
        except ToolDefinitionError as error:
            raise ConfigError(f"the user {self.name!r} is made with at most the episode's task: {error}") from None
        self._given = {**injected, STATE: Resource(author if self._is_class else dict, "episode")}
        self.resources: Mapping[str, Resource] = {**getattr(author, "resources", {}), **self._given}

    def _parameters(self, called: Callable[..., Any]) -> tuple[list[str], dict[str, Resource]]:
        wanted, injected = [], {}
        parameters = list(inspect.signature(called).parameters.values())[self._is_class :]
        for parameter in parameters:
            if isinstance(parameter.default, Resource):
                injected[parameter.name] = parameter.default
            elif parameter.name in _GIVEN and parameter.kind is not parameter.POSITIONAL_ONLY:
                wanted.append(parameter.name)
            elif parameter.default is parameter.empty:
                raise ConfigError(
                    f"the user {self.name!r} has a parameter {parameter.name!r}; a user is given task, message and "
                    "state by name, and anything else by a default per_episode(...) or per_run(...)"
                )
        if STATE in injected:
            raise ConfigError(
                f"the user {self.name!r} has a resource named {STATE!r}, which is its own state; rename it"
            )
        return wanted, injected

    async def reply(self, task: Task, message: str, scope: ResourceScope, seconds: float) -> str | Ended:
        """What the user says to a message of the agent, as text that fits into a conversation.

        Args:
            task: The episode's task.
            message: What the agent said.
            scope: Holds the user's state and its resources.
            seconds: Time limit, the opening of resources included.

        Raises:
            InfrastructureError: The user is unreachable, or took too long: neither is caused by the agent.
            TypeError: It returned something other than text or `Ended`.
        """
        loop = asyncio.get_running_loop()

        async def ask() -> Any:
            opened = await in_thread(lambda: {name: scope.get(name, it, loop) for name, it in self._given.items()})
            state = opened.pop(STATE)
            function = state if self._is_class else self.author
            given = {"task": task, "message": message, "state": state, "scope": scope}
            arguments = {**{name: given[name] for name in self._wanted}, **opened}
            if inspect.iscoroutinefunction(function):
                return await function(**arguments)
            said = await in_thread(lambda: function(**arguments))
            return await said if inspect.isawaitable(said) else said

        try:
            with counting(scope.usage), noting(f"in the user {self.name!r}"):
                said = await within(seconds, f"the user {self.name!r}", ask)
        except TookTooLong as error:
            raise InfrastructureError(f"{error}; Limits(user_seconds=) sets the limit") from None
        except (OSError, ToolError) as error:  # a refused connection; an error meant for the agent
            error.add_note("raise InfrastructureError for a service that fails; what the agent should hear is returned")
            raise
        text = said.text if isinstance(said, Ended) else said
        if not isinstance(text, str):
            raise TypeError(f"the user {self.name!r} must return text or Ended(text), got {said!r:.80}")
        text = cut_text(text, MAX_REPLY_CHARACTERS)[0].encode("utf-8", "backslashreplace").decode()
        return Ended(text, said.reason, said.answer) if isinstance(said, Ended) else text

    def close(self) -> None:
        """Close what the author passed, if it is an object that can be closed."""
        if not self._is_class and hasattr(self.author, "close"):
            self.author.close()
