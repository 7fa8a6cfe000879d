"""`ScriptedUser`: says what a script says; for tests, tasks and oracles."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolrl.errors import ConfigError
from toolrl.types import Ended, Task

Reply = str | Ended
Script = Sequence[Reply] | Mapping[str, Reply]


class ScriptedUser:
    """A user that follows a script. It keeps its place in the episode's state, so one object serves any number."""

    def __init__(
        self,
        script: Script | str | Callable[[Task], Script],
        *,
        otherwise: Reply = Ended(reason="the script is over"),  # noqa: B008 - immutable
    ):
        """Prepare a script.

        Args:
            script: Replies in order. Or rules, from a regular expression to a reply: the first one found in what the
                agent said decides, whatever its case. Or where a task has either of them: a key of its `metadata`, or a
                function of the task.
            otherwise: The reply when no reply is left, or no rule matches. By default the episode ends.

        Raises:
            ConfigError: It is not such a script.
        """
        self._script = script
        self._otherwise = _reply(otherwise, "otherwise")
        if not isinstance(script, str) and not callable(script):
            _check(script, "the user's script")

    def __call__(self, task: Task, message: str, state: dict[str, Any]) -> Reply:
        """The next reply.

        Raises:
            ConfigError: The task has no script.
        """
        script = self._of(task)
        if isinstance(script, Mapping):
            found = (reply for rule, reply in script.items() if re.search(rule, message, re.IGNORECASE))
            return next(found, self._otherwise)
        said = state["replies"] = state.get("replies", 0) + 1
        return script[said - 1] if said <= len(script) else self._otherwise

    def _of(self, task: Task) -> Script:
        if isinstance(self._script, str):
            if self._script not in task.metadata:
                raise ConfigError(f"the metadata of task {task.id!r} has no user's script under {self._script!r}")
            return _check(task.metadata[self._script], f"metadata[{self._script!r}] of task {task.id!r}")
        if callable(self._script):
            return _check(self._script(task), f"the user's script for task {task.id!r}")
        return self._script


def _check(script: Any, what: str) -> Script:
    if isinstance(script, Mapping):
        for rule, reply in script.items():
            _reply(reply, f"{what}, rule {rule!r}")
            try:
                re.compile(rule)
            except (re.error, TypeError) as error:
                raise ConfigError(f"{what}: {rule!r} is not a regular expression: {error}") from None
    elif isinstance(script, Sequence) and not isinstance(script, (str, bytes)):
        for place, reply in enumerate(script):
            _reply(reply, f"{what}, reply {place + 1}")
    else:
        raise ConfigError(f"{what} must be a list of replies, or a mapping of rules to replies, got {script!r:.80}")
    return script


def _reply(reply: Any, what: str) -> Reply:
    if not isinstance(reply, (str, Ended)):
        raise ConfigError(f"{what} must be text or Ended(text), got {reply!r:.80}")
    return reply
