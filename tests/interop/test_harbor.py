"""Promises about tasks in harbor's format."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
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
    "instruction.md": "Write the number of lines of /app/data.txt into /app/count.txt.",
    "tests/test.sh": """#!/bin/bash
if python3 /tests/check.py; then
  echo 1 > /logs/verifier/reward.txt
else
  echo 0 > /logs/verifier/reward.txt
fi
""",
    "tests/check.py": "from pathlib import Path\nassert Path('/app/count.txt').read_text() == '3\\n'\n",
    "solution/solve.sh": "#!/bin/bash\nset -euo pipefail\nwc -l < /app/data.txt > /app/count.txt\n",
}


@pytest.mark.parametrize("files", [{}, ABSOLUTE], ids=["relative", "absolute"])
def test_a_task_is_solved_by_its_solution_and_by_nothing_else(
    make_task: MakeTask, play: Play, files: dict[str, str]
) -> None:
    env = HarborEnv(make_task(files).parent)
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
        ({"solution/solve.sh": "#!/bin/bash\necho 3 > count.txt"}, ["echo 3 > count.txt"]),
        ({"solution/solve.sh": "set -e\necho 3 > count.txt\nexit 0"}, ["(\nset -e\necho 3 > count.txt\nexit 0\n)"]),
        ({"solution/solve.sh": 'cp "$(dirname "$0")/three" count.txt', "solution/three": "3\n"}, None),
        ({"solution/solve.sh": "cp $HOME/solution/a/three count.txt", "solution/a/three": b"3\n"}, None),
    ],
)
def test_a_solution_is_calls_of_the_shell(
    make_task: MakeTask, play: Play, solution: dict[str, Any], commands: list[str] | None
) -> None:
    env = HarborEnv(make_task(solution))
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
        {
            "environment/Dockerfile": dockerfile,
            "environment/other.txt": "o",
            "environment/folder/run": "#!/bin/sh\necho ran",
        },
        toml='[environment]\nenv = { SIZE = "5" }',
    )
    (folder / "environment/folder/run").chmod(0o755)
    results: list[Any] = []
    look = 'pwd; ls; renamed/run; cat as.txt | wc -l; echo "$COLOUR $NAME $SIZE"'
    play(HarborEnv(folder), [call("shell", command=look)], results=results)
    shown = "/home/user/srv-of-task/deep/er\nas.txt\ndata.txt\nother.txt\nrenamed\nran\n3\nred two words 5"
    assert results[0].content == shown


def test_without_a_dockerfile_the_environments_files_are_there(make_task: MakeTask) -> None:
    folder = make_task({"environment/more/x": "y"})
    (folder / "environment/Dockerfile").unlink()
    task = HarborTask.read(folder)
    assert (task.needs, task.workdir) == ([], "app")
    assert set(task.image.tree().files) == {"data.txt", "more/x"}
    shutil.rmtree(folder / "environment")
    assert HarborTask.read(folder).image.tree() == FileTree()


@pytest.mark.parametrize(
    ("files", "need"),
    [
        ({"environment/Dockerfile": "FROM ubuntu\nRUN apt-get update"}, "an image with 'RUN apt-get update'"),
        ({"environment/Dockerfile": "FROM me/tools:1"}, "an image with 'FROM me/tools:1'"),
        ({"environment/Dockerfile": "FROM ubuntu AS a\nFROM a"}, "an image with 'FROM ubuntu AS a'"),
        ({"environment/Dockerfile": "FROM ubuntu\nCOPY data.txt /etc/"}, "an image with 'COPY data.txt /etc/'"),
        ({"environment/Dockerfile": "FROM ubuntu\nWORKDIR /app\nCOPY data.txt ../x"}, "an image with 'COPY"),
        ({"environment/Dockerfile": "FROM ubuntu\nCOPY --chown=1 data.txt ."}, "an image with 'COPY --chown"),
        ({"environment/Dockerfile": "FROM ubuntu\nENV A=$HOME"}, "an image with 'ENV"),
        ({"environment/Dockerfile": "FROM ubuntu\nWORKDIR /app\nCOPY ../tests/expected ."}, "an image with 'COPY"),
        ({"environment/Dockerfile": "FROM ubuntu\nWORKDIR /tests/a"}, "the working directory /tests/a"),
        ({"environment/docker-compose.yaml": "services: {}"}, "several services"),
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
    make_task(name="good")
    files, toml = dict(files), files.get("toml", "")
    files.pop("toml", None)
    folder = make_task(files, "bad", toml).parent
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
    folder = make_task({"environment/Dockerfile": "FROM ubuntu\nWORKDIR /app\nCOPY nothing ."})
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
        HarborEnv(make_task(ABSOLUTE), sandbox="e2b")


def test_tests_that_the_sandbox_can_read_are_refused(make_task: MakeTask) -> None:
    zygote = Zygote(without=("landlock",))
    if zygote.active.level != "no-landlock":
        zygote.close()
        pytest.skip("needs namespaces")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as readable:  # /tmp inside is not the machine's
        folder = Path(shutil.copytree(make_task(), f"{readable}/task"))
        Path(readable).chmod(0o755)
        env = HarborEnv(folder, sandbox=partial(LocalSandbox, isolation="no-landlock", zygote=lambda: zygote))
        with pytest.raises(ConfigError, match=r"sandboxes can read '.*/tests/test\.sh'"):
            play_with_faults(env, "true")
        folder.chmod(0o700)
        if os.geteuid() == 0:  # then the code runs as another user
            assert play_with_faults(env, "echo 3 > count.txt").score.value == 1
    zygote.close()


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
    slow = {"tests/test.sh": "#!/bin/bash\nsleep 0.5; cmp count.txt ../tests/expected"}
    env = HarborEnv(make_task(slow), sandbox=partial(Fragile, zygote=lambda: zygote))
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
