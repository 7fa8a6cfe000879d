"""`ToolEnv`: tools + tasks + a reward = a Gymnasium environment whose actions are a model's turns."""

from __future__ import annotations

import copy
import logging
import operator
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import gymnasium

from toolrl.chat.dialects import Dialect, HermesDialect
from toolrl.episode import EpisodeSession, check_parts, check_solution
from toolrl.errors import ConfigError, TaskError
from toolrl.gym.naming import absolute, found_by_place, without_label
from toolrl.gym.registry import creator_of, import_module_of, settings_of, unknown
from toolrl.gym.spaces import UnicodeText
from toolrl.rewards.confidence import REQUEST, check_confidence
from toolrl.rewards.grader import Grader, GroupReward, Reward
from toolrl.support.event_loop import run_sync
from toolrl.support.waiting import noting
from toolrl.tasks import TaskSet
from toolrl.tools.definition import Tool
from toolrl.tools.dispatch import Toolbox, cut_text
from toolrl.tools.resources import ResourceScope
from toolrl.types import Limits, Message, Task, ToolCall
from toolrl.users.definition import User

MAX_TEXT_CHARACTERS = 100_000
_log = logging.getLogger(__name__)


class ToolEnv(gymnasium.Env[str, str]):
    """A multi-turn environment: an action is the text of an assistant turn, an observation what comes back.

    The first observation is the task's prompt, later ones are tool results or what the user says. A turn without a tool
    call is said to the user; without a user it is the final answer: the episode terminates and is scored. So it does
    when a tool or the user ends it. At the limit of turns it is truncated and scored.

    `open_episode` gives the same episode with typed messages; any number of them can be in flight at the same time.

    Attributes:
        tasks: The task set.
        toolbox: The tools.
        user: Who answers when the agent speaks; None if a turn without a call is the answer.
        limits: Bounds of an episode. Tokens are counted by the rollout engine.
        grader: Its rewards.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - Gymnasium's own convention

    def __init__(
        self,
        *,
        tasks: TaskSet | Iterable[Task | Mapping[str, Any]],
        reward: Reward,
        group_reward: GroupReward | None = None,
        gold: Reward | None = None,
        tools: Iterable[Tool | Callable[..., Any] | Sequence[Tool]] = (),
        user: Any = None,
        system_prompt: str = "",
        limits: Limits | None = None,
        oracle: Callable[[Task], Sequence[Message]] | None = None,
        dialect: Dialect | None = None,
        template_options: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
        split: str | None = None,
    ):
        """Create an environment.

        Args:
            tasks: Tasks, or rows; see `TaskSet`.
            reward: `(task, episode) -> Score | float`, sync or async; None means unscorable. See
                `toolrl.rewards`.
            group_reward: `(task, episodes) -> scores`, sync or async: the final scores of the episodes of a task, for
                what only comparison can judge. It sees `episode.score`, and of each episode that has one everything but
                its `state`; see `toolrl.rewards.prefer`. An episode played by itself is a group of one.
            gold: A reward that is closer to what is wanted (held-out tests, a stricter grader), like `reward`. It is
                recorded with each episode as the part `gold` of its score, and never trained on; see
                `toolrl.training.monitors`.
            tools: Tools, plain typed functions, or classes whose methods are tools over one state; see
                `toolrl.toolkit`.
            user: A function or class `(task, message, state) -> str | Ended` that answers when the agent speaks without
                calling a tool; see `toolrl.users`.
            system_prompt: Shown before the task; the tools' schemas are added by the chat template.
            limits: Bounds of an episode.
            oracle: `task -> assistant messages` that solve it; used by checks, demonstrations and
                `toolrl eval --policy oracle`.
            dialect: How `step` reads tool calls in actions; Hermes by default.
            template_options: Variables of the chat template for every episode, such as `{"enable_thinking": False}`;
                a task's own take precedence.
            render_mode: "ansi" makes `render()` return the conversation as text.
            split: "train" or "test" keeps only those of `tasks`; about a fifth is held out for "test", by a hash of the
                prompt. None keeps all, for environments that have splits of their own.
        """
        self.limits = limits or Limits()
        self.grader = Grader(reward, group_reward, gold)
        check_parts(self.grader, oracle, system_prompt, limits)
        self.tasks = tasks if isinstance(tasks, TaskSet) else TaskSet(tasks)
        self.toolbox = Toolbox(tools)
        self.user = None if user is None else User(user)
        if self.user is not None:
            self.toolbox.share(self.user.resources)
        self.system_prompt = system_prompt
        self.render_mode = render_mode
        self.observation_space = UnicodeText(MAX_TEXT_CHARACTERS)
        self.action_space = UnicodeText(MAX_TEXT_CHARACTERS)
        self._oracle = oracle
        self.dialect: Dialect = dialect or HermesDialect()
        self.template_options: Mapping[str, Any] = dict(template_options or {})
        self._run_scope = ResourceScope()
        self._session: EpisodeSession | None = None
        self._conversation: Sequence[Message] = ()
        self.made_from: tuple[str, dict[str, Any]] | None = None  # what `make` was called with
        if split is not None:
            self.keep_split(split)

    def keep_split(self, split: str) -> None:
        """Keep only the tasks of one split, "train" or "test"; see `TaskSet.of_split`.

        Raises:
            ConfigError: The split is neither.
            TaskError: No task is left.
        """
        self.tasks = self.tasks.of_split(split)

    def with_tools(
        self, tools: Iterable[Tool | Callable[..., Any] | Sequence[Tool]], reward: Reward | None = None
    ) -> ToolEnv:
        """The same environment with other tools, and with another reward if one is given.

        It shares the resources of a run with this one, which closes them.
        """
        other = copy.copy(self)
        other.made_from = None
        other.toolbox = Toolbox(tools)
        if other.user is not None:
            other.toolbox.share(other.user.resources)
        if reward is not None:
            other.grader = replace(self.grader, reward=reward)
        return other

    def copy(self) -> ToolEnv:
        """The same environment with resources and a current episode of its own."""
        other = copy.copy(self)
        other._run_scope, other._session, other._conversation = ResourceScope(), None, ()
        return other

    def ask_confidence(self, weight: float = 0.0) -> None:
        """Ask the agent how sure it is of its answer, and reward that it knows; see `toolrl.rewards.confidence`.

        Args:
            weight: Of the Brier score that is deducted from the reward, less than 0.5; 0 only notes the confidence.

        Raises:
            ConfigError: The weight is out of range.
        """
        check_confidence(weight)
        if self.grader.confidence is None:
            self.system_prompt = f"{self.system_prompt} {REQUEST}".strip()
        self.grader = replace(self.grader, confidence=weight)

    # ---- for the rollout engine

    def open_episode(self, task: Task, env_id: str = "") -> EpisodeSession:
        """Start an episode; close it when done.

        Args:
            task: The task.
            env_id: Names the environment in notes on errors; by default the id it was made with, else its class.
        """
        env_id = env_id or (self.spec.id if self.spec else type(self).__name__)
        return EpisodeSession(
            task, self.toolbox, self.grader, self.limits, self.system_prompt, self._run_scope, env_id, self.user
        )

    def oracle(self, task: Task) -> Sequence[Message]:
        """Assistant messages that solve the task, the last one with the answer.

        Where a confidence is asked for, they state one drawn by the task's id.

        Raises:
            ConfigError: The environment has no oracle, or the oracle returns something else.
        """
        if self._oracle is None:
            raise ConfigError(f"{type(self).__name__} has no oracle; pass oracle= to ToolEnv")
        with noting(f"in the oracle of {type(self).__name__}, task {task.id!r}"):
            solution = check_solution(self._oracle(task), task)
        if self.grader.confidence is not None and not solution[-1].tool_calls:
            # Any confidence: a model that has only seen 1 would say nothing else, and could not learn by trying.
            stated = random.Random(task.id).randint(0, 10) / 10
            solution[-1] = say(f"{solution[-1].content}<confidence>{stated:g}</confidence>")
        return solution

    # ---- for Gymnasium

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode with the task from `options["task"]` (a `Task`, an id or an index), else a random one.

        Raises:
            ConfigError: An option is unknown, or its value has the wrong type.
            TaskError: No task has this id or index.
        """
        super().reset(seed=seed)
        self._end_session()
        options = dict(options or {})
        chosen = options.pop("task", None)
        if options:
            raise ConfigError(f"unknown reset option {next(iter(options))!r}; known: 'task'")
        if chosen is None:
            chosen = int(self.np_random.integers(len(self.tasks)))
        if isinstance(chosen, str):
            chosen = self.tasks.by_id(chosen)
        task = chosen if isinstance(chosen, Task) else self._task_at(chosen)
        self._session = self.open_episode(task)
        self._conversation = self._session.messages
        return task.prompt, {"task_id": task.id, "system_prompt": self.system_prompt, "tools": self.toolbox.schemas}

    @property
    def task(self) -> Task | None:
        """The task of the episode in progress; None between episodes."""
        return None if self._session is None else self._session.task

    def _task_at(self, index: Any) -> Task:
        try:
            return self.tasks[operator.index(index)]
        except TypeError:
            raise ConfigError(f"reset option 'task' takes a Task, an id or an index, got {index!r}") from None
        except IndexError:
            raise TaskError(f"no task has the index {index!r}; there are {len(self.tasks)}") from None

    def step(self, action: str | Message) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one assistant turn: text in the environment's dialect, or a message: `call("price", fruit="fig")`.

        Returns:
            Observation (tool results, one per line, or the user's words; empty after an answer or at a limit), reward,
            terminated, truncated, and info: `tool_calls`, `failures`, `awards` if there are any, and at the end `stop`,
            `score`, and the `ending` if a tool or the user gave one. The reward is what the turn was awarded, and at
            the end whatever is missing to the score, so that an episode's rewards sum up to it. An unscored episode
            ends with reward 0 and `info["score"]["value"]` None.

        Raises:
            ConfigError: The action is neither text nor a message.
            InfrastructureError: A tool or the user failed, and the model did not cause it.
        """
        if not isinstance(action, (str, Message)):
            raise ConfigError(f"an action is the text of an assistant turn, or a message, got {action!r:.80}")
        if self._session is None:
            raise gymnasium.error.ResetNeeded("call reset() before step(); an episode also ends with its last step")
        session = self._session
        turn = action if isinstance(action, Message) else self.dialect.parse(action, self.toolbox.schemas)
        step = run_sync(session.advance(turn))
        failures = [str(result.failure) for result in step.results if result.failure is not None]
        info: dict[str, Any] = {"tool_calls": len(step.results), "failures": failures}
        if step.awards:
            info["awards"] = [asdict(award) for award in step.awards]
        text = cut_text("\n".join(message.content for message in step.messages), MAX_TEXT_CHARACTERS - 100)[0]
        if step.stop is None:
            return text, session.earned(step, None), False, False, info
        score = run_sync(session.score(step.stop))
        reward = session.earned(step, score)
        info |= {"stop": str(step.stop), "score": asdict(score)}
        if session.ended is not None:
            info["ending"] = session.ended.reason
        self._end_session()
        return text * step.stop.terminated, reward, step.stop.terminated, step.stop.truncated, info

    def render(self) -> str | None:
        """Return the current or last conversation as text if `render_mode` is "ansi"."""
        if self.render_mode != "ansi":
            return None
        return "\n".join(f"{message.role}: {self._rendered(message)}" for message in self._conversation)

    def _rendered(self, message: Message) -> str:
        try:
            return self.dialect.format(message) if message.tool_calls else message.content
        except ConfigError:  # the dialect can read this call but not write it
            return "\n".join(dict.fromkeys([message.content, *(call.raw for call in message.tool_calls)])).strip()

    def close(self) -> None:
        """Close the current episode and the resources shared by all episodes."""
        self._end_session()
        if self.user is not None:
            self.user.close()
        self._run_scope.close()

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            run_sync(session.close())


def make(env_id: str, **settings: Any) -> ToolEnv:
    """Make an environment by its name.

    Args:
        env_id: An id of Gymnasium's registry, after the name of a module that registers it if need be
            (`my_envs:mine/Shopping-v0`). Or where it is written: `my_env.py:Shopping`, `my_env.py` if there is only
            one, or `my_package.envs:Shopping`, for a `ToolEnv`, a class of them or a function that returns one. A
            label (`toolrl/PythonMath-v0@hard`) tells apart the same environment with other settings.
        settings: Passed to the environment. If it takes no `split`, its tasks are divided; see `ToolEnv`. If it takes
            no `confidence`, that is the weight for `ToolEnv.ask_confidence`.

    Raises:
        EnvironmentNotFound: No environment has this name; the message suggests close matches.
        ConfigError: It is not a toolrl environment, or does not take these settings.
        TaskError: It has too few tasks for the split.
    """
    if not isinstance(env_id, str):
        raise ConfigError(f"an environment's id is text such as 'toolrl/PythonMath-v0', got {env_id!r:.80}")
    name = without_label(env_id)
    create = found_by_place(name)
    creator = create or creator_of(name)
    if creator is None and import_module_of(name) in gymnasium.registry:
        raise ConfigError(f"{name} is registered without an entry_point; set it to the class")
    create = create or partial(gymnasium.make, name, disable_env_checker=True)
    asks = "confidence" in settings and not (creator is not None and "confidence" in settings_of(creator))
    confidence = settings.pop("confidence") if asks else None
    try:
        made = create(**settings)
    except gymnasium.error.Error as error:
        if creator is not None:
            raise
        raise unknown(name, error) from None
    except TypeError as error:
        refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if refused is None or refused[1] not in settings:
            raise
        if refused[1] != "split":
            taken = ", ".join(settings_of(creator)) if creator is not None else ""
            raise ConfigError(
                f"{name} does not take these settings: {refused[1]!r}; it takes: {taken or 'none'}"
            ) from None
        made = create(**{key: value for key, value in settings.items() if key != "split"})
        env = getattr(made, "unwrapped", made)
        if isinstance(env, ToolEnv):
            before = len(env.tasks)
            env.keep_split(settings["split"])
            _log.warning(
                "%s has no splits of its own: about a fifth of its tasks is held out for 'test', and %r has %d of %d",
                env_id, settings["split"], len(env.tasks), before,
            )  # fmt: skip
    env = getattr(made, "unwrapped", made)
    if not isinstance(env, ToolEnv):
        raise ConfigError(f"{name} is a {type(env).__name__}, not a toolrl.ToolEnv")
    if confidence is not None:
        env.ask_confidence(confidence)
        settings["confidence"] = confidence
    env.made_from = (absolute(name), settings)
    return env


def call(tool_name: str, /, **arguments: Any) -> Message:
    """An assistant message with one tool call; for oracles and tests."""
    return Message("assistant", "", (ToolCall(tool_name, arguments),))


def say(text: str) -> Message:
    """An assistant message without a tool call: to the user, or the final answer; for oracles and tests."""
    return Message("assistant", text)


__all__ = ["ToolEnv", "call", "make", "say"]
