"""Promises about TRL's environment classes, kept against TRL's own code: the same prompts, tools and results."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from transformers.utils import get_json_schema
from trl import GRPOTrainer

from tests.interop.environments import ROWS, Accounts, Counter, WordGame
from toolrl import Limits, RolloutEngine, RolloutRequest, ToolEnv, call, say
from toolrl.interop import from_trl
from toolrl.policy import ScriptedChatPolicy


class _Stop(Exception):
    """Ends TRL's code where it would generate."""


def _stop(*arguments: Any) -> None:
    raise _Stop(*arguments)


class TrlRollout:
    """What TRL does with an environment class up to its model, and between two turns of it."""

    def __init__(self, cls: type, row: dict[str, Any], loop: asyncio.AbstractEventLoop):
        self.environment = cls()
        self.trainer = SimpleNamespace(
            accelerator=SimpleNamespace(device="cpu"),
            model=SimpleNamespace(training=True),
            environment_factories={None: cls},
            _multi_environment=False,
            _environment_pool={None: [self.environment]},
            _standalone_tools=[],
            tools=[...],
            max_tool_calling_iterations=1,
            async_loop=loop,
            _generate=_stop,
            _get_tool_suffix_ids=_stop,
        )
        with pytest.raises(_Stop) as stopped:
            GRPOTrainer._generate_and_score_completions(self.trainer, [copy.deepcopy(row)])  # it appends to prompts
        self.prompt = stopped.value.args[0][0]

    @property
    def tools(self) -> dict[str, Any]:
        return {**self.trainer._sync_tool_dicts[0], **self.trainer._async_tool_dicts[0]}

    def call(self, name: str, **arguments: Any) -> Any:
        """The content of the tool message."""
        calls = [{"type": "function", "function": {"name": name, "arguments": arguments}}]
        completions = [[{"role": "assistant", "tool_calls": calls}]]
        with pytest.raises(_Stop):
            GRPOTrainer._tool_call_loop(self.trainer, [self.prompt], [[]], [[]], completions, None, None, {})
        return completions[0][-1]["content"]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def zero(environments: list[Any], **kwargs: Any) -> list[float]:
    return [0.0 for _ in environments]


def ours(cls: type) -> ToolEnv:
    return from_trl(cls, ROWS[cls], zero, limits=Limits(turns=20))


def text_of(content: Any) -> str:
    """What a chat template shows of a message."""
    return content if isinstance(content, str) else "".join(block["text"] for block in content)


@pytest.mark.parametrize("cls", ROWS)
def test_the_model_is_prompted_as_in_trl(cls: type, loop: asyncio.AbstractEventLoop) -> None:
    env = ours(cls)
    for task, row in zip(env.tasks, ROWS[cls], strict=True):
        theirs = [(message["role"], text_of(message["content"])) for message in TrlRollout(cls, row, loop).prompt]
        session = env.open_episode(task)
        assert [(message.role, message.content) for message in session.messages] == theirs


def plain(schema: Any) -> Any:
    """What both forms of a schema say: without white space, and without what only one of the two tells the model."""
    if isinstance(schema, dict):
        if "anyOf" in schema:  # X | None
            schema = {**schema, **schema["anyOf"][0], "nullable": True}
        return {key: plain(value) for key, value in schema.items() if key not in ("default", "return", "anyOf")}
    return " ".join(schema.split()) if isinstance(schema, str) else schema


@pytest.mark.parametrize("cls", ROWS)
def test_the_model_has_the_tools_that_it_has_in_trl(cls: type, loop: asyncio.AbstractEventLoop) -> None:
    rollout = TrlRollout(cls, ROWS[cls][0], loop)
    schemas = ours(cls).toolbox.schemas
    names = sorted(name for name in rollout.tools if name != "close")
    assert [schema["function"]["name"] for schema in schemas] == names
    assert [plain(schema) for schema in schemas] == [plain(get_json_schema(rollout.tools[name])) for name in names]


CALLS = {
    WordGame: [
        ("guess", {"word": "crate"}),
        ("guess", {"word": "cat"}),
        ("hint", {"position": 9}),
        ("guess", {"word": "crane"}),
        ("guess", {"word": "slate"}),
        ("guess", {"word": "pound"}),
        ("guess", {"word": "pound"}),
    ],
    Counter: [("increment", {"step": 3}), ("increment", {"step": 1})],
    Accounts: [
        ("transfer", {"source": "bob", "target": "ann", "amount": 2}),
        ("transfer", {"source": "bob", "target": "ann", "amount": 20}),
        ("transfer", {"source": "eve", "target": "ann"}),
        ("balance", {"owner": "ann"}),
        ("balance", {"owner": "eve"}),
        ("share", {"amount": 3, "people": 2}),
        ("share", {"amount": 3, "people": 0}),
        ("rate", {"currency": "EUR"}),
        ("statement", {}),
    ],
}


@pytest.mark.parametrize("cls", ROWS)
def test_results_and_mistakes_read_as_in_trl(cls: type, loop: asyncio.AbstractEventLoop) -> None:
    rollout = TrlRollout(cls, ROWS[cls][0], loop)
    theirs = [text_of(rollout.call(name, **arguments)) for name, arguments in CALLS[cls]]
    env = ours(cls)
    script = [*(call(name, **arguments) for name, arguments in CALLS[cls]), say("Done.")]
    trajectory = RolloutEngine(ScriptedChatPolicy(script), None).run([RolloutRequest(env, env.tasks[0])])[0]
    assert [message.content for turn in trajectory.turns for message in turn.results] == theirs
    assert any(text.startswith("{'error': ") for text in theirs) == (cls is not Counter)
