"""verifiers itself, in an environment of its own: its tasksets played by policies of toolrl. `make test-agents`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.interop.verifiers.conftest import answering, played
from toolrl import ConfigError, Message, Renderer, RolloutRequest, SamplingParams, ToolEnv
from toolrl.evaluation import evaluate
from toolrl.gateway import AgentProgram, GatewayLimits, ProgramEngine
from toolrl.interop.verifiers import from_verifiers, play
from toolrl.policy import ScriptedPolicy, TransformersPolicy
from toolrl.policy.models import load_model

HERE = Path(__file__).parent
PYTHON = HERE.parents[2] / ".venv-verifiers" / "bin" / "python"

pytestmark = [
    pytest.mark.agents,
    pytest.mark.skipif(not PYTHON.exists(), reason="verifiers is not installed: make test-agents"),
    pytest.mark.timeout(300),
]

Make = Callable[..., ToolEnv]
BOXES = Path.home() / ".cache" / "verifiers" / "runtimes" / "subprocess"


@pytest.fixture
def taskset() -> Iterator[Make]:
    """Makes environments of the tasksets in this folder; nothing of them may be left."""
    before = set(BOXES.glob("*"))
    made: list[ToolEnv] = []

    def make(id: str, **settings: Any) -> ToolEnv:
        made.append(from_verifiers(id, python=str(PYTHON), paths=[str(HERE / "tasksets")], **settings))
        return made[-1]

    yield make
    for env in made:
        env.close()
    started = psutil.Process().children(recursive=True)
    assert [one for one in started if "verifiers" in " ".join(one.cmdline())] == []
    assert set(BOXES.glob("*")) == before


def test_its_reward_is_the_score_and_every_token_is_kept(taskset: Make, renderer: Renderer) -> None:
    env = taskset("toolrl-arithmetic")
    assert [task.id for task in env.tasks] == [f"sum-{n}" for n in range(8)]
    assert not any("answer" in json.dumps(dict(task.metadata)) for task in env.tasks)
    found = played(env, answering(renderer, wrong=3), renderer, count=8)
    assert [one.score.value for one in found] == [float(n != 3) for n in range(8)], [one.error for one in found]
    assert [one.score.parts for one in found] == [{"right": float(n != 3), "words": 1.0 + (n == 3)} for n in range(8)]
    for n, one in enumerate(found):
        asked = [Message("system", "You are a calculator."), Message("user", env.tasks[n].prompt)]
        text = "no idea" if n == 3 else str(n + 40)
        assert one.prompt_ids == renderer.prompt_ids(asked)
        assert one.completion_ids == [*renderer.text_ids(text), renderer.end_of_turn_id]
        assert (set(one.mask), one.branches, one.turns[0].message.content) == ({1}, (), text)


def test_a_conversation_with_its_tools_is_one_trajectory(taskset: Make, renderer: Renderer) -> None:
    env = taskset("toolrl-products", tasks=4)

    def said(ids: list[int]) -> list[int]:
        text = renderer.decode(list(ids))
        number = int(text.partition(" * 7?")[0].split()[-1])
        call = {"name": "multiply", "arguments": {"a": number, "b": 7}}
        turn = str(7 * number) if "<tool_response>" in text else f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
        return [*renderer.text_ids(turn, control=True), renderer.end_of_turn_id]

    for one in played(env, ScriptedPolicy(said), renderer, count=4):
        assert one.score.value == 1.0, (one.error, one.score)
        assert (len(one.turns), one.branches) == (2, ())
        assert sum(one.mask) == sum(len(turn.sample.token_ids) for turn in one.turns)
        assert "70" in renderer.decode(one.completion_ids) or one.task_id != "toolrl-products-0"


@pytest.mark.parametrize("limits", [GatewayLimits(calls=3), GatewayLimits(tokens=430)])
def test_a_model_that_never_ends_is_at_its_limits_and_earns_nothing(
    taskset: Make, renderer: Renderer, limits: GatewayLimits
) -> None:
    env = taskset("toolrl-products", tasks=1)
    call = '<tool_call>\n{"name": "multiply", "arguments": {"a": 10, "b": 7}}\n</tool_call>'
    loop = ScriptedPolicy(lambda ids: [*renderer.text_ids(call, control=True), renderer.end_of_turn_id])
    engine = ProgramEngine(AgentProgram(play, limits=limits), loop, renderer, retries=0)
    (one,) = engine.run([RolloutRequest(env, env.tasks[0], "e", "1")])
    engine.close()
    assert (one.score.value, one.error) == (0.0, ""), one
    assert len(one.turns) > 1


def test_sixteen_at_once_with_the_embedded_model(taskset: Make, renderer: Renderer) -> None:
    env = taskset("toolrl-arithmetic", taskset={"size": 40}, split="test")
    policy = TransformersPolicy(load_model("tiny"), stop_token_ids=renderer.stop_token_ids, seed=0)
    engine = ProgramEngine(AgentProgram(play), policy, renderer, sampling=SamplingParams(1.0, 32), retries=0)
    seen: list[Any] = []
    start = time.perf_counter()
    report = evaluate({"e": env}, None, None, tasks=4, samples=4, workers=engine, on_trajectory=seen.append)["e"]
    print(f"{len(seen)} episodes in {time.perf_counter() - start:.1f} s")
    engine.close()
    policy.close()
    assert (report.unscored, len(seen)) == (0, 16)
    for one in seen:  # it may call tools that do not exist, and is told so
        assert one.has_tokens
        assert one.branches == ()
        assert sum(one.mask) == sum(len(turn.sample.token_ids) for turn in one.turns)


def test_a_reward_that_fails_leaves_the_episode_unscored(taskset: Make, renderer: Renderer) -> None:
    env = taskset("toolrl-arithmetic", taskset={"fails": True})
    (one,) = played(env, answering(renderer), renderer)
    assert (one.score.value, one.turns[0].message.content) == (None, "40")
    assert "TaskError" in one.error
    assert "the grader is down" in one.error


def test_an_episode_that_is_given_up_is_stopped(taskset: Make, renderer: Renderer) -> None:
    env = taskset("toolrl-arithmetic")
    (one,) = played(env, answering(renderer), renderer, seconds=0.3)
    assert (one.score.value, "--agent_seconds" in one.score.reason) == (None, True)
    (one,) = played(env, answering(renderer), renderer)
    assert one.score.value == 1.0


def test_settings_that_are_wrong_are_said(taskset: Make) -> None:
    with pytest.raises(ConfigError, match="no-such-taskset"):
        taskset("no-such-taskset")
    with pytest.raises(ConfigError, match="colour"):
        taskset("toolrl-arithmetic", taskset={"colour": "red"})
    with pytest.raises(ConfigError, match=r"pass `env` or `base_url`"):
        taskset("openenv")
