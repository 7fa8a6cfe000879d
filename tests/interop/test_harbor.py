"""Promises about tasks in harbor's format."""

from __future__ import annotations

import logging
import shutil
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.interop.conftest import MakeTask
from tests.sandbox.conftest import descendants, eventually
from toolrl import ConfigError, RolloutEngine, RolloutRequest, Score, StopReason, TaskError, Trajectory, call, say
from toolrl.interop import HarborEnv, HarborTask, read_harbor_tasks
from toolrl.policy import ScriptedChatPolicy
from toolrl.sandbox import FileTree, LocalSandbox
from toolrl.sandbox.local.launcher import Zygote

Play = Callable[..., Score]

ABSOLUTE = {
    "instruction_md": "Write the number of lines of /app/data.txt into /app/count.txt.",
    "tests__test_sh": """#!/bin/bash
if python3 /tests/check.py; then
  echo 1 > /logs/verifier/reward.txt
else
  echo 0 > /logs/verifier/reward.txt
fi
""",
    "tests__check.py": "from pathlib import Path\nassert Path('/app/count.txt').read_text() == '3\\n'\n",
    "solution__solve_sh": "#!/bin/bash\nset -euo pipefail\nwc -l < /app/data.txt > /app/count.txt\n",
}


@pytest.mark.parametrize("files", [{}, ABSOLUTE], ids=["relative", "absolute"])
def test_a_task_is_solved_by_its_solution_and_by_nothing_else(
    make_task: MakeTask, play: Play, files: dict[str, str]
) -> None:
    env = HarborEnv(make_task(**files).parent)
    (task,) = env.tasks
    assert (task.id, task.kind, task.difficulty, task.needs_tool) == ("count", "files", "easy", True)
    assert task.prompt.startswith("Write the number of lines")
    assert play(env, env.oracle(task)).value == 1
    assert play(env, [say("It is done.")]) == Score(0.0, {"correct": 0.0}, reason="the shell was never used")
    assert play(env, [call("shell", command="true"), say("It is done.")]).value == 0
    assert play(env, [call("shell", command="echo 4 > count.txt")]).value == 0
    assert play(env, [call("shell", command="rm -f data.txt; echo 3 > count.txt")]).value == 1  # without an answer


@pytest.mark.parametrize(
    ("solution", "commands"),
    [
        ({"solution__solve_sh": "#!/bin/bash\necho 3 > count.txt"}, ["echo 3 > count.txt"]),
        ({"solution__solve_sh": "set -e\necho 3 > count.txt\nexit 0"}, ["(\nset -e\necho 3 > count.txt\nexit 0\n)"]),
        ({"solution__solve_sh": 'cp "$(dirname "$0")/three" count.txt', "solution__three": "3\n"}, None),
        ({"solution__solve_sh": "cp $HOME/solution/a/three count.txt", "solution__a__three": b"3\n"}, None),
    ],
)
def test_a_solution_is_calls_of_the_shell(
    make_task: MakeTask, play: Play, solution: dict[str, Any], commands: list[str] | None
) -> None:
    env = HarborEnv(make_task(**solution))
    messages = env.oracle(env.tasks[0])
    played = [one.arguments["command"] for message in messages for one in message.tool_calls]
    assert commands in (None, played)
    assert play(env, messages).value == 1


def test_a_dockerfile_that_copies_files_is_followed(make_task: MakeTask, play: Play) -> None:
    dockerfile = """# syntax=docker/dockerfile:1
FROM python:3.12-slim
LABEL a=b
ENV COLOUR=red NAME="two words"
WORKDIR /srv-of-task
WORKDIR deep/er
COPY data.txt other.txt /srv-of-task/deep/er/
COPY folder renamed
COPY data.txt \\
     as.txt
"""
    folder = make_task(
        environment__Dockerfile=dockerfile,
        **{"environment__other.txt": "o", "environment__folder__run": "#!/bin/sh\necho ran"},
        toml='[environment]\nenv = { SIZE = "5" }',
    )
    (folder / "environment/folder/run").chmod(0o755)
    results: list[Any] = []
    look = 'pwd; ls; renamed/run; cat as.txt | wc -l; echo "$COLOUR $NAME $SIZE"'
    play(HarborEnv(folder), [call("shell", command=look)], results=results)
    shown = "/home/user/srv-of-task/deep/er\nas.txt\ndata.txt\nother.txt\nrenamed\nran\n3\nred two words 5"
    assert results[0].content == shown


def test_without_a_dockerfile_the_environments_files_are_there(make_task: MakeTask) -> None:
    folder = make_task(environment__more__x="y")
    (folder / "environment/Dockerfile").unlink()
    task = HarborTask.read(folder)
    assert (task.needs, task.workdir) == ([], "app")
    assert set(task.image.tree().files) == {"data.txt", "more/x"}
    shutil.rmtree(folder / "environment")
    assert HarborTask.read(folder).image.tree() == FileTree()


@pytest.mark.parametrize(
    ("files", "need"),
    [
        ({"environment__Dockerfile": "FROM ubuntu\nRUN apt-get update"}, "an image with 'RUN apt-get update'"),
        ({"environment__Dockerfile": "FROM me/tools:1"}, "an image with 'FROM me/tools:1'"),
        ({"environment__Dockerfile": "FROM ubuntu AS a\nFROM a"}, "an image with 'FROM ubuntu AS a'"),
        ({"environment__Dockerfile": "FROM ubuntu\nCOPY data.txt /etc/"}, "an image with 'COPY data.txt /etc/'"),
        ({"environment__Dockerfile": "FROM ubuntu\nWORKDIR /app\nCOPY data.txt ../x"}, "an image with 'COPY"),
        ({"environment__Dockerfile": "FROM ubuntu\nCOPY --chown=1 data.txt ."}, "an image with 'COPY --chown"),
        ({"environment__Dockerfile": "FROM ubuntu\nENV A=$HOME"}, "an image with 'ENV"),
        ({"environment__Dockerfile": "FROM ubuntu\nWORKDIR /app\nCOPY ../tests/expected ."}, "an image with 'COPY"),
        ({"environment__Dockerfile": "FROM ubuntu\nWORKDIR /tests/a"}, "the working directory /tests/a"),
        ({"environment__docker-compose.yaml": "services: {}"}, "several services"),
        ({"toml": '[environment]\ndocker_image = "me/x"'}, "the image me/x"),
        ({"toml": "[environment]\nallow_internet = true"}, "a network"),
        ({"toml": '[environment]\nnetwork_mode = "allowlist"'}, "a network"),
        ({"toml": "[environment]\ngpus = 1"}, r"\[environment\] gpus"),
        ({"toml": '[environment]\nos = "windows"'}, "the system windows"),
        ({"toml": '[[steps]]\nname = "a"'}, "more than one step"),
        ({"toml": '[[verifier.collect]]\ncommand = "a"'}, r"\[verifier\] collect"),
    ],
)
def test_a_task_that_needs_more_than_a_sandbox_is_refused_or_left_out(
    make_task: MakeTask, files: dict[str, str], need: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_task("good")
    folder = make_task("bad", **files).parent
    with pytest.raises(TaskError, match=f"task 'bad' needs {need}.*skip_unsupported=True"):
        HarborEnv(folder)
    with caplog.at_level(logging.WARNING):
        assert [task.folder.name for task in read_harbor_tasks(folder, skip_unsupported=True)] == ["good"]
    assert "1 of 2 tasks" in caplog.text
    with pytest.raises(TaskError, match="no tasks in harbor's format"):
        read_harbor_tasks(folder / "bad", skip_unsupported=True)


def test_a_broken_task_says_what_is_wrong(make_task: MakeTask, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no tasks in harbor's format"):
        HarborEnv(tmp_path)
    folder = make_task(environment__Dockerfile="FROM ubuntu\nWORKDIR /app\nCOPY nothing .")
    with pytest.raises(TaskError, match=r"nothing.* does not exist, which 'COPY nothing .' copies"):
        HarborTask.read(folder).image.tree()
    with pytest.raises(TaskError, match="variables of this machine are not passed on"):
        HarborTask.read(make_task(toml='[verifier]\nenv = { KEY = "${KEY}" }')).verifier("local", LocalSandbox)  # type: ignore[arg-type]
    (folder / "solution/solve.sh").unlink()
    with pytest.raises(TaskError, match="no solution"):
        HarborTask.read(folder).solution()
    (folder / "task.toml").write_text("a = ")
    with pytest.raises(TaskError, match=r"task.toml.* cannot be read"):
        HarborEnv(folder)
    (folder / "tests/test.sh").unlink()
    with pytest.raises(TaskError, match=r"it has no tests/test\.sh"):
        HarborEnv(folder)
    with pytest.raises(TaskError, match="names a folder in the root"):
        HarborEnv(make_task("absolute", **ABSOLUTE), sandbox="e2b")


def test_tests_that_the_sandbox_can_read_are_refused(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    task = HarborTask.read(make_task())
    readable = HarborTask(Path("/usr/share"), task.config)
    monkeypatch.setattr(HarborTask, "image", task.image)
    monkeypatch.setattr(Path, "__truediv__", lambda self, name: Path("/usr/bin/bash"))
    with pytest.raises(ConfigError, match="sandboxes can read '/usr/bin/bash'"):
        readable.open_shell("local", HarborEnv.__init__.__kwdefaults__["sandbox_limits"])


# ---- fault injection


@pytest.fixture
def zygote() -> Any:
    zygote = Zygote()
    yield zygote
    zygote.close()


def play_with_faults(env: HarborEnv, *commands: str) -> Trajectory:
    messages = [*(call("shell", command=command) for command in commands), say("It is done.")]
    engine = RolloutEngine(ScriptedChatPolicy(messages), None, retries=2, backoff_seconds=0)
    (trajectory,) = engine.run([RolloutRequest(env, env.tasks[0])])
    env.close()
    return trajectory


@pytest.mark.parametrize("of", ["shell", "tests"])
@pytest.mark.parametrize("times", [1, 99])
def test_a_sandbox_killed_from_outside_is_retried_then_unscored_and_leaves_nothing(
    make_task: MakeTask, zygote: Zygote, of: str, times: int
) -> None:
    killed = []

    class Fragile(LocalSandbox):
        def new_session(self) -> Any:
            session = super().new_session()
            session.run("1")
            if (of == "tests") == bool(self.mounts) and len(killed) < times:
                process = session.connection.process
                killed.append(process)
                threading.Timer(0.1, signal.pidfd_send_signal, [process, signal.SIGKILL]).start()
            return session

    before = descendants(zygote.process.pid)
    slow = {"tests__test_sh": "#!/bin/bash\nsleep 0.5; cmp count.txt ../tests/expected"}
    env = HarborEnv(make_task(**slow), sandbox=partial(Fragile, zygote=lambda: zygote))
    trajectory = play_with_faults(env, "sleep 0.5; echo 3 > count.txt; sleep 600 & setsid sleep 600 &")
    attempts = {("shell", 1): 2, ("shell", 99): 3}.get((of, times), 1)  # the tests are repeated alone
    assert (trajectory.score.value, trajectory.attempts) == (1.0 if times == 1 else None, attempts)
    assert (trajectory.stop is StopReason.FAULT) == ((of, times) == ("shell", 99))
    assert len(killed) == min(times, 3)
    if times > 1:
        assert "killed from outside" in trajectory.score.reason
    assert eventually(lambda: descendants(zygote.process.pid) == before)


def test_a_shell_that_is_killed_is_an_observation_and_the_episode_goes_on(make_task: MakeTask) -> None:
    trajectory = play_with_faults(HarborEnv(make_task()), "x=3; kill -9 $$", "echo ${x:-3} > count.txt")
    assert (trajectory.score.value, trajectory.attempts) == (1.0, 1)
    assert trajectory.tool_results[0].content.startswith("[the shell was ended by signal 9 (Killed); a new one is in")
