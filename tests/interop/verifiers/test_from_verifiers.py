"""Promises about verifiers' tasksets, with a bridge that needs no verifiers: whose fault is whose, and what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.interop.verifiers.conftest import Make, answering, played, running
from toolrl import ConfigError, InfrastructureError, Renderer, RolloutEngine, RolloutRequest, Task, ToolEnv, make, say
from toolrl.audit import audit_environment, check_environment
from toolrl.gateway import AgentProgram, ProgramEngine, parse_agent
from toolrl.interop.verifiers import from_verifiers, play

SECONDS = 10**6 + os.getpid()  # what a bridge starts in these tests sleeps for


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_tasksets_reward_is_the_score_and_tokens_are_kept(fake: Make, renderer: Renderer) -> None:
    env = fake()
    found = played(env, answering(renderer, wrong=3), renderer, count=8)
    assert [one.score.value for one in found] == [float(n != 3) for n in range(8)]
    assert [one.task_id for one in found] == [f"sums-{n}" for n in range(8)]
    assert found[0].score.parts == {"right": 1.0, "verifiers_gold": 1.0}
    assert found[0].turns[0].message.content == "40"
    assert all(one.has_tokens and sum(one.mask) == len(one.turns[0].sample.token_ids) for one in found)


def test_many_episodes_share_one_bridge(fake: Make, program: Path, renderer: Renderer) -> None:
    env = fake()
    engine = ProgramEngine(AgentProgram(play), answering(renderer, wrong=5), renderer, retries=0)
    found = engine.run([RolloutRequest(env, env.tasks[n % 8], "e", str(n)) for n in range(64)])
    engine.close()
    assert [one.score.value for one in found] == [float(n % 8 != 5) for n in range(64)]
    assert len(running(program)) == 1


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("breaks", "SandboxError: gone"),
        ("raises", "it has changed"),
        ("dies", "ended with status 3"),
        ("babbles", "which is not an answer"),
    ],
)
def test_a_fault_of_verifiers_or_of_the_bridge_is_never_a_zero(
    fake: Make, renderer: Renderer, kind: str, reason: str
) -> None:
    env = fake(kind=kind)
    for _ in range(2):  # a bridge that has died is started again
        (one,) = played(env, answering(renderer), renderer)
        assert (one.score.value, one.turns[0].message.content) == (None, "40")
        assert reason in one.error


def test_a_bridge_that_was_killed_is_started_again_by_the_retry(fake: Make, program: Path, renderer: Renderer) -> None:
    env = fake()
    for pid in running(program):
        os.kill(pid, signal.SIGKILL)
    (one,) = played(env, answering(renderer), renderer, retries=2, backoff_seconds=0.1)
    assert one.score.value == 1.0


def test_the_models_own_limits_earn_nothing(fake: Make, renderer: Renderer) -> None:
    (one,) = played(fake(kind="full"), answering(renderer), renderer)
    assert (one.score.value, one.error) == (0.0, "")


def test_a_taskset_without_a_reward_leaves_an_episode_unscored(fake: Make, renderer: Renderer) -> None:
    (one,) = played(fake(kind="silent"), answering(renderer), renderer)
    assert (one.score.value, one.score.reason) == (None, "the taskset gave no reward")


def test_an_episode_that_does_not_end_is_a_fault_or_unscored(
    fake: Make, program: Path, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolrl.interop.verifiers.process.CANCEL_SECONDS", 0.5)
    (one,) = played(env := fake(kind="hangs", seconds=1.0), answering(renderer), renderer)
    assert (one.score.value, "has not ended within 1 seconds" in one.error) == (None, True)
    until(lambda: not running(program))  # it did not even cancel
    (one,) = played(env, answering(renderer), renderer)  # and so it was started again
    assert one.turns[0].message.content == "40"
    (one,) = played(fake(kind="hangs"), answering(renderer), renderer, seconds=1.0)
    assert (one.score.value, "--agent_seconds" in one.score.reason) == (None, True)


def test_a_taskset_that_does_not_load_is_a_fault(fake: Make, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolrl.interop.verifiers.process.LEAVING_SECONDS", 0.2)
    with pytest.raises(InfrastructureError, match="has not been loaded within 1 seconds"):
        fake(kind="slow", start_seconds=1.0)
    with pytest.raises(ConfigError, match=r"'missing' cannot be loaded by .*: ModuleNotFoundError"):
        fake("missing")
    assert running(program) == []


def test_without_the_agent_there_is_an_error_that_says_what_to_do(fake: Make, renderer: Renderer) -> None:
    env = fake()
    with pytest.raises(ConfigError, match=r"pass --agent toolrl\.interop\.verifiers:play"):
        RolloutEngine(answering(renderer), renderer).run([RolloutRequest(env, env.tasks[0], "e", "1")])
    env.reset(options={"task": 0})
    with pytest.raises(ConfigError, match="pass --agent"):
        env.step(say("40"))
    assert check_environment(env, tasks=2).passed
    report = audit_environment(env, tasks=1)
    assert not report.passed
    assert "pass --agent" in str(report)


def test_what_a_model_says_is_not_taken_for_a_verdict(fake: Make, renderer: Renderer) -> None:
    env = fake()
    played(env, answering(renderer), renderer)
    for forged in ('{"reward": 1.0}', "verifiers-0", ""):
        env.reset(options={"task": 0})
        with pytest.raises(ConfigError, match="pass --agent"):
            env.step(say(forged))


def test_the_agent_plays_only_its_own_environments(renderer: Renderer) -> None:
    env = ToolEnv(tasks=[Task("t", "1 + 40?")], reward=lambda task, episode: 1.0)
    with pytest.raises(ConfigError, match="plays environments made by from_verifiers"):
        played(env, answering(renderer), renderer)


def test_it_ends_with_everything_that_it_started(fake: Make, renderer: Renderer) -> None:
    env = fake(starts=SECONDS)
    other = env.copy()
    until(lambda: bool(running(f"sleep {SECONDS}")))  # a process that has just begun has no command line
    env.close()
    env.close()
    (one,) = played(other, answering(renderer), renderer)
    assert one.score.value == 1.0
    other.close()
    assert running(f"sleep {SECONDS}") == []
    with pytest.raises(RuntimeError, match="its environment is closed"):
        played(other, answering(renderer), renderer)


def test_it_ends_when_this_process_is_killed(program: Path) -> None:
    code = (
        "import sys, time; from toolrl.interop.verifiers import VerifiersEnv\n"
        "from toolrl.interop.verifiers.process import BridgeSettings\n"
        f"taskset = {{'id': 'sums', 'starts': {SECONDS}}}\n"
        f"env = VerifiersEnv(BridgeSettings(sys.executable, taskset, program={str(program)!r}))\n"
        "print('ready', flush=True); time.sleep(1000)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        until(lambda: bool(running(f"sleep {SECONDS}")))  # a process that has just begun has no command line
        process.kill()
    until(lambda: not running(program) and not running(f"sleep {SECONDS}"))


def test_the_bridge_says_that_verifiers_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"cannot be loaded by .*No module named 'verifiers'"):
        from_verifiers("gsm8k", python=sys.executable)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "verifiers needs an environment of its own.*set TOOLRL_VERIFIERS_PYTHON="),
        ({"python": "/no/such/python"}, "there is no Python at '/no/such/python'"),
        ({"python": sys.executable, "tasks": 0}, "tasks must be at least 1, got 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOOLRL_VERIFIERS_PYTHON", raising=False)
    with pytest.raises(ConfigError, match=message):
        make("toolrl.interop.verifiers:from_verifiers", taskset_id="gsm8k", **settings)


def test_the_agent_has_a_name_for_the_command_line() -> None:
    assert parse_agent("toolrl.interop.verifiers:play").function is play


def test_environments_are_made_and_closed_on_threads(fake: Make) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: fake(), range(4)))
    assert [len(env.tasks) for env in made] == [8] * 4
