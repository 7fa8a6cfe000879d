"""How long a server lives, what it is given, and that nothing of it is left behind."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests.tools.mcp.conftest import Call, raw_command
from toolrl import (
    ConfigError,
    InfrastructureError,
    RolloutEngine,
    RolloutRequest,
    StopReason,
    Task,
    Tool,
    ToolCall,
    ToolEnv,
    TrajectoryWriter,
    call,
    say,
)
from toolrl.policy import ScriptedChatPolicy
from toolrl.support.event_loop import run_sync
from toolrl.tools import Toolbox, mcp_tools
from toolrl.tools.resources import ResourceScope

USUAL = {"HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "LC_CTYPE"}  # Python adds the last to its own


def alive(pids: Sequence[int]) -> list[int]:
    """Those of the processes that run, a moment after they were told to end."""
    for _ in range(500):
        running = [pid for pid in pids if _is_running(pid)]
        if not running:
            return []
        time.sleep(0.01)
    return running


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def spawn(call: Call, tool: Tool) -> list[int]:
    """Have a server start processes, one of which leaves its group; the ids of all, its own first."""
    pids: list[int] = json.loads(call(tool, spawn=True).content)
    assert len(pids) == 3
    return pids


def test_nothing_of_the_environment_reaches_a_server_that_was_not_given_it(
    in_episode: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123")
    monkeypatch.setenv("COLOUR", "blue")
    tools = mcp_tools(command=raw_command(), env={"PAINT": "${COLOUR}"})
    seen = json.loads(in_episode(tools[0], env=True).content)
    assert seen.keys() - USUAL == {"PAINT"}
    assert seen["PAINT"] == "blue"


def test_secrets_for_a_server_are_in_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAINT_TOKEN", "s3cr3t-of-the-painter")
    tools = mcp_tools(command=raw_command(), env={"TOKEN": "${PAINT_TOKEN}", "API_KEY": "another-s3cr3t-0123456789"})
    env = make_env(tools)
    with TrajectoryWriter(tmp_path / "run.jsonl") as writer:
        for turn in (call("act", env=True), call("act", stderr="TOKEN=s3cr3t-of-the-painter", exit=1)):
            writer.write(play(env, turn, retries=0))
    env.close()
    text = (tmp_path / "run.jsonl").read_text()
    assert "***" in text
    assert "s3cr3t" not in text


def make_env(tools: list[Tool], **settings: Any) -> ToolEnv:
    return ToolEnv(tasks=[Task("t", "paint it")], tools=tools, reward=lambda task, episode: 1.0, **settings)


def play(env: ToolEnv, turn: Any, **settings: Any) -> Any:
    engine = RolloutEngine(ScriptedChatPolicy([turn, say("done")]), None, backoff_seconds=0, **settings)
    (trajectory,) = engine.run([RolloutRequest(env, env.tasks[0])])
    return trajectory


def test_a_server_of_an_episode_ends_with_it_and_with_all_that_it_started(act: Tool) -> None:
    pids = []
    for _ in range(2):
        scope = ResourceScope(Task("t", "p"), ResourceScope())

        def in_episode(tool: Tool, scope: ResourceScope = scope, **arguments: Any) -> Any:
            return run_sync(Toolbox([tool]).call(ToolCall("act", arguments), scope))

        pids.append(spawn(in_episode, act))
        assert pids[-1] == spawn(in_episode, act)[:1] + pids[-1][1:]
        scope.close()
        assert alive(pids[-1]) == []
    assert pids[0][0] != pids[1][0]


def test_a_server_that_dies_in_mid_call_is_replaced_for_the_next_attempt(act: Tool, tmp_path: Path) -> None:
    env = make_env([act])
    replaced = play(env, call("act", once=str(tmp_path / "once")), retries=1)
    assert (replaced.stop, replaced.score.value) == (StopReason.ANSWER, 1.0)
    unscored = play(env, call("act", exit=9), retries=1)
    assert (unscored.stop, unscored.score.value) == (StopReason.FAULT, None)
    env.close()


def test_a_server_of_a_run_is_shared_and_replaced_when_it_dies() -> None:
    (tool,) = mcp_tools(command=raw_command(), lifetime="run", name="raw")
    run = ResourceScope()
    scopes = [ResourceScope(Task("t", "p"), run) for _ in range(3)]

    def act_in(scope: ResourceScope, **arguments: Any) -> Any:
        return run_sync(Toolbox([tool]).call(ToolCall("act", arguments), scope))

    first, second = (json.loads(act_in(scope, spawn=True).content) for scope in scopes[:2])
    assert first[0] == second[0]
    for scope in scopes[:2]:
        scope.close()
    with pytest.raises(InfrastructureError, match="status 5"):
        act_in(scopes[2], exit=5)
    assert alive([*first, *second]) == []
    third = json.loads(act_in(scopes[2], spawn=True).content)
    assert third[0] != first[0]
    run.close()
    assert alive(third) == []


def test_a_server_has_a_folder_of_its_own_that_is_prepared_and_graded() -> None:
    folders = []

    def prepare(server: Any, task: Task) -> None:
        Path(server.folder, "paint.txt").write_text(task.prompt)
        assert server.call("act", text="prepared") == "prepared"
        with pytest.raises(InfrastructureError, match="'painter': its tool 'act' failed, called by the environment"):
            server.call("act", error=7)

    def reward(task: Task, episode: Any) -> float:
        folder = Path(episode.state["painter"].folder)
        folders.append(folder)
        return float((folder / "paint.txt").read_text() == "paint it")

    tools = mcp_tools(command=[*raw_command(), "{folder}"], cwd="{folder}", name="painter", prepare=prepare)
    env = ToolEnv(tasks=[Task("t", "paint it")], tools=tools, reward=reward)
    assert play(env, call("act")).score.value == 1.0
    assert not folders[0].exists()
    env.close()


def train(act: Tool, out: Connection) -> None:
    """A process that calls a tool which never answers."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    env = make_env([dataclasses.replace(act, timeout_seconds=600)])
    env.reset()
    out.send(json.loads(env.step(env.dialect.format(call("act", spawn=True)))[0]))
    try:
        env.step(env.dialect.format(call("act", silent=True)))
    finally:
        env.close()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_however_the_trainer_ends(act: Tool, end: signal.Signals) -> None:
    context = multiprocessing.get_context("fork")  # a new Python would take seconds to import everything
    ours, theirs = context.Pipe(duplex=False)
    trainer = context.Process(target=train, args=(act, theirs))
    trainer.start()
    theirs.close()
    pids = ours.recv()
    assert len(pids) == 3
    assert [pid for pid in pids if _is_running(pid)] == pids
    assert trainer.pid is not None
    os.kill(trainer.pid, end)
    trainer.join(60)
    assert trainer.exitcode is not None
    assert alive(pids) == []


def test_wrong_settings_are_refused_before_a_server_is_started() -> None:
    for settings, problem in [
        ({}, r"command=\[\.\.\.\] or url="),
        ({"command": "server"}, r"command=\[\.\.\.\]"),
        ({"command": ["no-such-server"]}, "'no-such-server' was not found"),
        ({"command": raw_command(), "env": {"A": "${NO_SUCH_VARIABLE}"}}, "NO_SUCH_VARIABLE, which is not set"),
        ({"command": raw_command(), "cwd": "/no/such/folder"}, "'/no/such/folder' is not a folder"),
        ({"command": raw_command(), "headers": {"A": "b"}}, "headers with url="),
        ({"command": raw_command(), "lifetime": "run", "prepare": print}, "prepare= does not go with"),
        ({"command": raw_command(), "only": ["paint"]}, "has the tools 'act'"),
        ({"command": raw_command(), "only": []}, "has 0 tools"),
    ]:
        with pytest.raises(ConfigError, match=problem):
            mcp_tools(**settings)
