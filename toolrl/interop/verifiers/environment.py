"""`from_verifiers`: the environment; and `play`: the agent that plays it."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from toolrl.audit import AuditOptions
from toolrl.env import ToolEnv
from toolrl.errors import ConfigError, TaskError
from toolrl.interop.verifiers.process import Bridge, BridgeSettings, Outcome
from toolrl.rewards.grader import GOLD, HACK
from toolrl.types import Episode, Limits, Score, Task

if TYPE_CHECKING:
    from toolrl.gateway import AgentContext  # it needs an extra, and describing an environment does not

PYTHON_VARIABLE = "TOOLRL_VERIFIERS_PYTHON"
AGENT = "toolrl.interop.verifiers:play"
_PLACE = "_verifiers"  # in a task's metadata: the key of its environment, the task's index, and that of its content
_LIMITS = Limits(turns=64, tool_calls=64, completion_tokens=16_384, turn_tokens=4096)

_played: WeakValueDictionary[str, VerifiersEnv] = WeakValueDictionary()  # environments of this process, by their key


class VerifiersEnv(ToolEnv):
    """A taskset of verifiers. Its episodes are played by `play`; make it with `from_verifiers`."""

    audit_options = AuditOptions(
        excused=dict.fromkeys(("contract", "worthless", "broken_calls"), "only verifiers plays its tasks")
    )

    def __init__(self, settings: BridgeSettings, **options: Any):
        """Start the bridge, and read the tasks.

        Args:
            settings: How the bridge is run.
            options: Further settings of `ToolEnv`.

        Raises:
            ConfigError: There is no such taskset, or the settings are wrong.
            TaskError: It has no tasks.
            InfrastructureError: It does not load.
        """
        self.key = secrets.token_hex(8)
        self.bridge = Bridge(settings)
        self._closed = False
        self._outcomes: dict[str, Outcome] = {}
        self._unfinished: Counter[int] = Counter()
        try:
            tasks = self._tasks(self.bridge.tasks())
            super().__init__(tasks=tasks, reward=self._reward, **options)
        except BaseException:
            self.bridge.close()
            raise
        _played[self.key] = self

    def _tasks(self, rows: Sequence[Mapping[str, Any]]) -> list[Task]:
        name = self.bridge.settings.taskset["id"]
        if not rows:
            raise TaskError(f"the taskset {name!r} has no tasks")
        are_named = len({row["id"] for row in rows} - {None}) == len(rows)
        return [
            Task(
                str(row["id"]) if are_named else f"{name}-{row['index']}",
                row["prompt"],
                metadata={_PLACE: (self.key, row["index"], row["key"]), "name": row["name"] or ""},
            )
            for row in rows
        ]

    async def play(self, context: AgentContext) -> str:
        """Have verifiers play a task; see `play`."""
        _, index, key = context.metadata[_PLACE]
        try:
            outcome = await self.bridge.run(
                index, key, base_url=context.base_url, api_key=context.api_key, model=context.model
            )
        except asyncio.CancelledError:  # the agent's time is up, and the reward is asked next
            self._unfinished[index] += 1
            raise
        # Whatever an episode's answer says, only what is kept here is worth anything: a model could write the same.
        handle = f"verifiers-{secrets.token_hex(16)}"
        self._outcomes[handle] = outcome
        return handle

    def _reward(self, task: Task, episode: Episode) -> Score:
        """The taskset's own.

        Raises:
            ConfigError: The episode was played by something else.
        """
        outcome = self._outcomes.pop(episode.answer or "", None)
        if outcome is None:
            index = task.metadata[_PLACE][1]
            if self._unfinished[index] > 0:
                self._unfinished[index] -= 1
                return Score(None, reason="verifiers did not end the episode within the agent's time; --agent_seconds")
            raise ConfigError(
                f"verifiers plays its tasks itself: pass --agent {AGENT}, in Python AgentProgram(play). Nothing else "
                "can play them, and so they cannot be audited"
            )
        if outcome.error:  # the model's, or it would have been a fault
            return Score(0.0, outcome.metrics, reason=outcome.error)
        if outcome.reward is None:
            return Score(None, reason="the taskset gave no reward")
        metrics = {f"verifiers_{name}" if name in (GOLD, HACK) else name: n for name, n in outcome.metrics.items()}
        return Score(outcome.reward, metrics, reason=outcome.stop)

    def copy(self) -> VerifiersEnv:
        """See `ToolEnv.copy`; the bridge ends with the last copy."""
        other = super().copy()
        assert isinstance(other, VerifiersEnv)
        other._closed = False
        self.bridge.share()
        return other

    def close(self) -> None:
        """End the bridge too."""
        super().close()
        if not self._closed:
            self._closed = True
            self.bridge.close()


async def play(context: AgentContext) -> str:
    """Plays the tasks of `from_verifiers`: the agent for `AgentProgram`, and for `--agent`.

    Args:
        context: The episode's.

    Raises:
        ConfigError: The environment is another.
        InfrastructureError: The episode failed, and the model did not cause it.
    """
    env = _played.get(context.metadata.get(_PLACE, ("",))[0])
    if env is None:
        raise ConfigError(f"{AGENT} plays environments made by from_verifiers, and this is another")
    return await env.play(context)


def from_verifiers(
    taskset_id: str,
    *,
    python: str | None = None,
    tasks: int | None = None,
    taskset: Mapping[str, Any] | None = None,
    agent: Mapping[str, Any] | None = None,
    paths: Sequence[str] = (),
    limits: Limits | None = None,
    seconds: float = 3600.0,
    start_seconds: float = 600.0,
    split: str | None = None,
    **settings: Any,
) -> ToolEnv:
    """Make an environment of a taskset of verifiers, which is installed elsewhere.

    Args:
        taskset_id: Its id, as for verifiers' own commands.
        python: The Python that has verifiers and the taskset; by default $TOOLRL_VERIFIERS_PYTHON.
        tasks: The most tasks; None takes all.
        taskset: Its configuration (`--env.taskset.*` of verifiers).
        agent: The configuration of its agent (`--env.agent.*`). Unless it says otherwise, or the taskset does, the
            agent is verifiers' `null`, a conversation with the taskset's tools, and runs on this machine.
        paths: Folders of tasksets that are not installed.
        limits: Of tokens; turns and calls are verifiers' own (`agent`).
        seconds: The longest episode, the model's own time included; a longer one is a fault.
        start_seconds: How long it may take to load the tasks.
        split: "train" or "test" keeps only those; about a fifth is held out, by a hash of the prompt.
        settings: Further settings of `ToolEnv`, except tools and rewards.

    Raises:
        ConfigError: There is no such Python or taskset, or the settings are wrong.
        TaskError: There are no tasks.
        InfrastructureError: The taskset does not load.
    """
    chosen = python or os.environ.get(PYTHON_VARIABLE, "")
    found = shutil.which(os.path.expanduser(chosen))
    if found is None:
        raise ConfigError(
            f"{f'there is no Python at {chosen!r}' if chosen else 'verifiers needs an environment of its own'}: run "
            "`python -m venv .venv-verifiers && .venv-verifiers/bin/pip install verifiers==0.4.0 uv`, and set "
            f"{PYTHON_VARIABLE}=.venv-verifiers/bin/python"
        )
    if tasks is not None and tasks < 1:
        raise ConfigError(f"tasks must be at least 1, got {tasks!r}")
    bridge = BridgeSettings(
        os.path.abspath(found), {**(taskset or {}), "id": taskset_id}, dict(agent or {}), tasks,
        [os.path.abspath(os.path.expanduser(path)) for path in paths], seconds, start_seconds,
    )  # fmt: skip
    return VerifiersEnv(bridge, limits=limits or _LIMITS, split=split, **settings)
