"""TRL's environment classes (`GRPOTrainer(environment_factory=...)`) as a `ToolEnv`. TRL is not imported.

Read in TRL 1.16, `trl/trainer/grpo_trainer.py`: the text that `reset(**row)` returns is appended to the last message of
the row's prompt; every public function of the class but `reset` and `get_reward` is a tool, in alphabetical order; a
result is shown as `str(result)`, an exception as `str({"error": str(exception)})`; rewards are summed.

Different here, on purpose:

- Each episode has a new instance, closed by its `close()` or `aclose()`. TRL resets instances and never closes them.
- A task's prompt is fixed, so that a group of episodes shares it: `reset` runs once for each row when the environment
  is made, and again in each episode, where it must return the same text. Its randomness has to come from the row.
- Arguments are validated, a call has a time limit and its result a length limit, as those of any tool.
- Only `mistakes` become text for the model. A fault is retried and leaves the episode unscored, a bug stops the run.
- Reward functions see the environment and the agent's final message, not the transcript.
- `close` and `aclose` are never tools.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import math
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from toolrl.env import ToolEnv
from toolrl.errors import ConfigError, InfrastructureError, TaskError, ToolError, ToolrlError
from toolrl.gym.naming import object_at
from toolrl.support.event_loop import run_sync
from toolrl.support.rows import read_rows
from toolrl.support.waiting import in_thread
from toolrl.tasks import TaskSet, task_from_row
from toolrl.tools.openers import required_parameters
from toolrl.tools.resources import Resource, ResourceScope
from toolrl.tools.results import as_text
from toolrl.tools.toolkit import LIFECYCLE, toolkit
from toolrl.types import Ended, Episode, Score, Task

Errors = tuple[type[Exception], ...]
RewardFunc = Callable[..., Any]

MISTAKES: Errors = (ValueError, LookupError, ArithmeticError)
FAULTS: Errors = (ConnectionError, TimeoutError)
STATE_NAME = "environment"
_PLACEHOLDER: Mapping[str, Any] = {"prompt": [{"role": "user", "content": ""}]}  # TRL's row where there is no data set


def from_trl(
    environment_factory: Callable[[], Any],
    dataset: Iterable[Mapping[str, Any]] | None = None,
    reward_funcs: RewardFunc | Sequence[RewardFunc] = (),
    *,
    only: Collection[str] | None = None,
    mistakes: Errors = MISTAKES,
    faults: Errors = FAULTS,
    timeout_seconds: float = 30.0,
    max_output_characters: int = 4000,
    **settings: Any,
) -> ToolEnv:
    """Make an environment from a class that was written for TRL's `GRPOTrainer(environment_factory=...)`.

    Args:
        environment_factory: The class, or a function without arguments that makes an instance. The reward finds the
            instance as `episode.state["environment"]`.
        dataset: Rows, such as a `datasets.Dataset`: each is a task, and given to `reset` as keyword arguments. A row's
            `prompt` is text, or a user message, perhaps after a system message that all rows share. Its `id` and
            `answer` become the task's. None: a single task whose prompt is what `reset` returns.
        reward_funcs: TRL's reward functions, called with lists of one: `environments`, `prompts`, `completions` (only
            the final message) and the row's columns. Their rewards and that of `get_reward` are summed; all None leaves
            the episode unscored.
        only: Names of the methods that are tools, in this order; by default all public ones, as in TRL.
        mistakes: Exceptions of a tool that the model caused, and sees. `(Exception,)` is what TRL does: bugs and
            services that are down train the model too.
        faults: Exceptions that the model did not cause, in a tool, in `reset` or in a reward.
        timeout_seconds: See `Tool`; for each method.
        max_output_characters: See `Tool`; for each method.
        settings: Of `ToolEnv`, such as `limits`, `oracle` and `split`.

    Raises:
        ConfigError: It is not such a class; nothing computes a reward; a reward function needs what it cannot get; or
            `reset` returns another text each time.
        TaskError: A row's prompt cannot be shown.
        ToolDefinitionError: A method cannot be a tool; see `toolrl.toolkit`.
    """
    _check_factory(environment_factory)
    rows = [_PLACEHOLDER] if dataset is None else list(dataset)
    system_prompt = _system_prompt_of(rows)
    kind, tasks = run_sync(_tasks_of(environment_factory, rows, faults))
    functions = [name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")]
    scored_by: list[Any] = list(reward_funcs) if isinstance(reward_funcs, (list, tuple)) else [reward_funcs]
    _check_rewards(kind, "get_reward" in functions, scored_by, tasks[0])

    async def opened(task: Task) -> AsyncIterator[Any]:
        async with _after_reset(environment_factory, task.metadata, faults) as (environment, text):
            if _prompt_of(task.metadata)[1] + text != task.prompt:
                raise ConfigError(
                    f"{kind.__name__}.reset returns another text each time, and a group of episodes must share its "
                    f"prompt: it returned {text!r:.80} for task {task.id!r}, whose prompt ends with "
                    f"{task.prompt[-80:]!r}; take its random choices from the row, as in random.Random(row['seed'])"
                )
            yield environment

    resource = Resource(opened, "episode")
    run_sync(_run_through(opened(tasks[0])))  # fails if the text of `reset` is another one this time
    tools = toolkit(
        kind,
        only=[name for name in functions if name not in LIFECYCLE] if only is None else only,
        name=STATE_NAME,
        instance=resource,
        timeout_seconds=timeout_seconds,
        max_output_characters=max_output_characters,
    )
    return ToolEnv(
        tasks=tasks,
        tools=[replace(entry, function=_shown_as_in_trl(entry.function, mistakes, faults)) for entry in tools],
        reward=_reward(kind, scored_by, resource, faults),
        **{"system_prompt": system_prompt, **settings},
    )


def from_trl_at(place: str, *, dataset: str = "", **settings: Any) -> ToolEnv:
    """`from_trl` with names, as in `trl:my_env.py:Counter`.

    Args:
        place: Where the class is: `FILE.py:NAME` or `MODULE:NAME`.
        dataset: A file of rows, or a data set on the hub; see `toolrl.support.rows`. By default none.
        settings: Of `from_trl`.

    Raises:
        EnvironmentNotFound: There is no such file or module.
        ConfigError: It has no such class; see also `from_trl`.
    """
    rows = [row for _, row in read_rows(dataset)] if dataset else None
    return from_trl(object_at(place), rows, **settings)


async def _run_through(values: AsyncIterator[Any]) -> None:
    async for _ in values:
        pass


async def _tasks_of(
    factory: Callable[[], Any], rows: Sequence[Mapping[str, Any]], faults: Errors
) -> tuple[type, TaskSet]:
    """The class that the factory makes, and a task for each row."""
    kind: type = object
    tasks: list[Task] = []
    for index, row in enumerate(rows):
        prompt = _prompt_of(row, index)[1]
        async with _after_reset(factory, row, faults) as (environment, text):
            kind = type(environment)
        readable = {**row, "prompt": prompt + text, "answer": row.get("answer")}
        tasks.append(replace(task_from_row(readable, index), metadata=dict(row)))
    return kind, TaskSet(tasks)


@asynccontextmanager
async def _after_reset(
    factory: Callable[[], Any], row: Mapping[str, Any], faults: Errors
) -> AsyncIterator[tuple[Any, str]]:
    """A new environment and the text that its `reset` returned; closes it."""
    with _sorted_out((), faults):
        environment = await in_thread(factory)
    name = type(environment).__name__
    try:
        reset = getattr(environment, "reset", None)
        if not callable(reset) or inspect.iscoroutinefunction(reset):
            raise ConfigError(f"{name} needs a method reset(**row), which TRL calls, and does not await, at the start")
        try:
            inspect.signature(reset).bind(**row)
        except TypeError as error:
            raise ConfigError(
                f"{name}.reset: {error}; it is called with the row's columns, so it needs **kwargs"
            ) from None
        with _sorted_out((), faults):
            text = await in_thread(lambda: reset(**copy.deepcopy(row)))  # which it may change
        yield environment, "" if text is None else _text_of(text, f"{name}.reset returned")
    finally:
        close = getattr(environment, "aclose", None) or getattr(environment, "close", None)
        if close is not None:
            await _result(close)


@contextmanager
def _sorted_out(mistakes: Errors, faults: Errors) -> Iterator[None]:
    """Raise a mistake as `ToolError`, a fault as `InfrastructureError`, and anything else unchanged."""
    try:
        yield
    except ToolrlError:
        raise
    except faults as error:
        raise InfrastructureError(f"{type(error).__name__}: {error}") from error
    except mistakes as error:
        raise ToolError(str(error), output=str({"error": str(error)})) from error


def _shown_as_in_trl(function: Callable[..., Any], mistakes: Errors, faults: Errors) -> Callable[..., Any]:
    """A tool's function whose results and mistakes are worded as TRL words them."""

    def call(**arguments: Any) -> Any:
        with _sorted_out(mistakes, faults):
            result = function(**arguments)
        return finish(result) if inspect.isawaitable(result) else _shown(result)

    async def finish(result: Any) -> Any:
        with _sorted_out(mistakes, faults):
            result = await result
        return _shown(result)

    return call


def _shown(result: Any) -> Any:
    if isinstance(result, Ended):
        return replace(result, text=_shown(result.text))
    if isinstance(result, list):
        text = _text_in(result)
        return as_text(result) if text is None else text
    return str(result)


def _text_in(content: Any) -> str | None:
    """Text, or that of a list of TRL's content blocks; None for anything else."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    texts = [str(block["text"]) for block in content if isinstance(block, Mapping) and block.get("type") == "text"]
    return "".join(texts) if texts and len(texts) == len(content) else None


def _text_of(content: Any, what: str) -> str:
    text = _text_in(content)
    if text is None:
        raise TaskError(f"{what} {content!r:.80}; only text can be shown")
    return text


def _prompt_of(row: Any, index: int | None = None) -> tuple[str, str]:
    """A row's system message and user message.

    Raises:
        TaskError: It has others.
    """
    if not isinstance(row, Mapping):
        raise TaskError(f"dataset must have rows, as a list of dicts or a datasets.Dataset has, got {row!r:.80}")
    where = "the prompt" if index is None else f"row {index}: the prompt"
    prompt = row.get("prompt", _PLACEHOLDER["prompt"])
    if isinstance(prompt, str):
        return "", prompt
    roles = [message.get("role") for message in prompt]
    if roles not in (["user"], ["system", "user"]):
        raise TaskError(f"{where} must be a user message, perhaps after a system message, got messages of {roles}")
    texts = [_text_of(message.get("content"), f"{where} contains") for message in prompt]
    return (texts[0] if len(texts) == 2 else ""), texts[-1]


def _system_prompt_of(rows: Sequence[Mapping[str, Any]]) -> str:
    prompts = {_prompt_of(row, index)[0]: index for index, row in reversed(list(enumerate(rows)))}
    if len(prompts) > 1:
        first, second = sorted(prompts.values())[:2]
        raise TaskError(
            f"rows {first} and {second} have different system messages, and an environment has one: make an "
            "environment of each, or move what differs into the user message"
        )
    return next(iter(prompts), "")


def _reward(kind: type, reward_funcs: Sequence[RewardFunc], resource: Resource, faults: Errors) -> Any:
    has_get_reward = hasattr(kind, "get_reward")

    async def reward(task: Task, episode: Episode) -> Score:
        scope = ResourceScope(task)  # for an episode without a call, which has opened nothing
        loop = asyncio.get_running_loop()
        try:
            environment: Any = episode.state.get(STATE_NAME)
            if environment is None:
                environment = await in_thread(lambda: scope.get(STATE_NAME, resource, loop))
            parts: dict[str, Any] = {}
            with _sorted_out((), faults):
                given = _given(task, episode.answer, environment)
                for function in reward_funcs:
                    [parts[_name(function)]] = await _result(partial(function, **given))
                if has_get_reward:
                    parts[kind.__name__] = await _result(environment.get_reward)
        finally:
            await in_thread(scope.close)
        numbers = {name: float(value) for name, value in parts.items() if value is not None and not math.isnan(value)}
        if not numbers:
            return Score(None, reason="all reward functions returned None")
        return Score(sum(numbers.values()), numbers)

    return reward


async def _result(function: Callable[[], Any]) -> Any:
    result = await in_thread(function)
    return await result if inspect.isawaitable(result) else result


def _given(task: Task, answer: str | None, environment: Any) -> dict[str, Any]:
    """What a reward function of TRL is called with, for one episode."""
    columns = {name: [value] for name, value in task.metadata.items() if name not in ("prompt", "completion")}
    system = _prompt_of(task.metadata)[0]
    prompt = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": task.prompt}]
    completion = [{"role": "assistant", "content": answer or ""}]
    return {**columns, "prompts": [prompt], "completions": [completion], "environments": [environment]}


def _name(function: RewardFunc) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _check_factory(factory: Any) -> None:
    if isinstance(factory, Mapping):
        raise ConfigError(
            "environment_factory is a mapping of several environments; make one of each, and train on all of them"
        )
    if not callable(factory):
        raise ConfigError(
            f"environment_factory must make an environment, got {factory!r:.80}; write the class, "
            f"{type(factory).__name__}"
        )
    if wanted := required_parameters(factory):
        name, names = _name(factory), ", ".join(parameter.name for parameter in wanted)
        raise ConfigError(f"{name}() needs {names}, and is called without arguments; write lambda: {name}(...)")


def _check_rewards(kind: type, has_get_reward: bool, reward_funcs: Sequence[Any], task: Task) -> None:
    if not (has_get_reward or reward_funcs):
        raise ConfigError(f"nothing computes a reward: pass reward_funcs, or give {kind.__name__} a method get_reward")
    for function in reward_funcs:
        if not callable(function):
            raise ConfigError(f"reward_funcs must be functions, got {function!r:.80}; models are not supported")
        try:
            inspect.signature(function).bind(**_given(task, "", None))
        except TypeError as error:
            raise ConfigError(
                f"reward function {_name(function)!r}: {error}; it is called with environments, prompts, completions "
                "and the row's columns, so it needs **kwargs"
            ) from None
