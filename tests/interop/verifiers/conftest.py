"""Environments of verifiers' tasksets, and what plays them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from toolrl import Renderer, RolloutRequest, SamplingParams, ToolEnv
from toolrl.gateway import AgentProgram, ProgramEngine
from toolrl.interop.verifiers import VerifiersEnv, play
from toolrl.interop.verifiers.process import BridgeSettings
from toolrl.policy import Policy, ScriptedPolicy
from toolrl.policy.models import load_tokenizer
from toolrl.trajectory import Trajectory

FAKE = Path(__file__).with_name("fake_bridge.py")
Make = Callable[..., VerifiersEnv]


@pytest.fixture(scope="session")
def renderer() -> Renderer:
    return Renderer(load_tokenizer("tiny"))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A bridge that needs no verifiers, under a name of its own: another run of these tests has others."""
    return Path(shutil.copy(FAKE, tmp_path))


@pytest.fixture
def fake(program: Path) -> Iterator[Make]:
    """Makes environments of a bridge that needs no verifiers; nothing of them may be left."""
    made: list[VerifiersEnv] = []

    def make(id: str = "sums", seconds: float = 30.0, start_seconds: float = 30.0, **taskset: Any) -> VerifiersEnv:
        taskset["id"] = id
        settings = BridgeSettings(
            sys.executable, taskset, seconds=seconds, start_seconds=start_seconds, program=program
        )
        made.append(VerifiersEnv(settings))
        return made[-1]

    yield make
    for env in made:
        env.close()
    assert running(program) == []


def running(text: str | Path) -> list[int]:
    """The processes with a text in their command line, other than their keepers."""
    found = [(one.pid, " ".join(one.info["cmdline"] or ())) for one in psutil.process_iter(["cmdline"])]
    return [pid for pid, command in found if str(text) in command and "keeper.py" not in command]


def answering(renderer: Renderer, wrong: int = -1) -> ScriptedPolicy:
    """Adds, with one mistake."""

    def said(ids: list[int]) -> list[int]:
        number = int(renderer.decode(list(ids)).partition(" + 40")[0].split()[-1])
        text = "no idea" if number == wrong else str(number + 40)
        return [*renderer.text_ids(text), renderer.end_of_turn_id]

    return ScriptedPolicy(said)


def played(
    env: ToolEnv, policy: Policy, renderer: Renderer, *, count: int = 1, seconds: float = 60.0, **options: Any
) -> list[Trajectory]:
    """Episodes of the first tasks, by the agent."""
    program = AgentProgram(play, seconds=seconds)
    engine = ProgramEngine(program, policy, renderer, sampling=SamplingParams(0.0, 64), **{"retries": 0, **options})
    try:
        return engine.run([RolloutRequest(env, task, "e", task.id) for task in env.tasks.take(count)])
    finally:
        engine.close()
