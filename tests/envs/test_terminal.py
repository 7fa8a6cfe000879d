"""Promises about Terminal-v0: its tasks can be solved, and neither idleness, carelessness nor forgery passes a test."""

from __future__ import annotations

import gzip
import importlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

import toolrl
from toolrl import ConfigError, ToolEnv, call, say
from toolrl.chat import HermesDialect
from toolrl.interop import HarborEnv
from toolrl_envs.terminal.env import TASKS
from toolrl_envs.terminal.make import generated

NAMES = sorted(path.name for path in TASKS.iterdir())
PROGRAMS = [name for name in NAMES if (TASKS / name / "tests" / "cases.json").exists()]
EVERY_TASK = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def env() -> Iterator[ToolEnv]:
    """All tasks of both splits."""
    env = HarborEnv(TASKS)
    yield env
    env.close()


def attempt(env: ToolEnv, name: str, *commands: str) -> tuple[float, str]:
    """Run commands in a task's shell; the score and its reason."""
    env.reset(options={"task": name})
    for message in [*(call("shell", command=command) for command in commands), say("done")]:
        _, _, _, _, info = env.step(HermesDialect().format(message))
    return info["score"]["value"], info["score"]["reason"]


def solution(name: str) -> str:
    return (TASKS / name / "solution" / "solve.sh").read_text()


# ---- the folders


@EVERY_TASK
def test_the_generated_files_are_those_in_the_folder(name: str) -> None:
    def plain(path: str, content: bytes) -> bytes:
        return gzip.decompress(content) if path.endswith(".gz") else content

    folder = TASKS / name
    drawn = generated(folder)
    assert {path: plain(path, (folder / path).read_bytes()) for path in drawn} == {
        path: plain(path, content) for path, content in drawn.items()
    }, "run python -m toolrl_envs.terminal.make"
    files = {path.relative_to(folder).as_posix() for path in folder.glob("environment/**/*") if path.is_file()}
    assert files == {path for path in drawn if path.startswith("environment/")} | {"environment/Dockerfile"}


def test_the_tests_of_programs_hold_no_right_output() -> None:
    """A program under test runs next to them, and could read them."""
    for name in PROGRAMS:
        module = importlib.import_module(f"toolrl_envs.terminal.programs.{name.replace('-', '_')}")
        text = "".join(path.read_text() for path in (TASKS / name / "tests").iterdir())
        steps = [step for session in module.sessions() for step in session.steps]
        given = repr([(step.arguments, step.stdin) for step in steps])
        outputs = {repr(step.output.strip())[1:-1] for step in steps if len(step.output) > 20}
        for output in (output for output in outputs if output not in given):
            assert output not in text
            assert output.replace("\\n", "\n") not in text


def test_the_tests_of_programs_are_all_alike() -> None:
    for name in ("check.py", "test.sh"):
        assert len({(TASKS / program / "tests" / name).read_text() for program in PROGRAMS}) == 1


def test_both_splits_have_every_kind_and_difficulty_and_share_nothing() -> None:
    splits = []
    for split in ("train", "test"):
        env = toolrl.make("toolrl/Terminal-v0", split=split)
        splits.append(env.tasks)
        env.close()
    assert [len(tasks) for tasks in splits] == [18, 8]
    assert {task.id for tasks in splits for task in tasks} == {*NAMES}
    for tasks in splits:
        assert {task.kind for task in tasks} == {"data", "files", "programs", "rules", "text"}
        assert {task.difficulty for task in tasks} == {1, 2, 3}


@pytest.mark.parametrize("settings", [{"size": 0}, {"split": "dev"}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        toolrl.make("toolrl/Terminal-v0", **settings)


# ---- what passes, and what does not

# For each task one that a hurried agent might try.
CARELESS = {
    "huge-numbers": "sort -n numbers.txt | uniq > sorted.txt",
    "top-errors": "{ echo service,errors; for s in auth billing cart mail search stock; do "
    'echo "$s,$(cat logs/* | grep ERROR | grep -c $s)"; done; } > errors.csv',
    "dedupe-photos": "python3 -m tarfile -e photos.tar.gz; rm photos/*/*'(1).jpg'",
    "encodings": "for f in texts/*.txt; do iconv -f latin1 -t utf-8 $f > x; mv x $f; done",
    "merge-settings": "sort -u ours.conf theirs.conf > merged.conf; touch conflicts.txt",
    "reassemble": "for f in parts/*; do tail -n +2 $f | base64 -d; done > message.bin",
    "apply-patch": "rm src/old.py; touch src/new.py",
    "life": "printf '#!/bin/bash\\ncat\\n' > life",
    "rotate-backups": "sed -i 's/rm -rf $name/rm \"$name\"/; s/ls -t/ls -r/' rotate.sh",
    "fix-stats": "sed -i 's/values.middle + 1./values[middle - 1]/; s/middle + 1/middle - 1/' stats.py",
}
CHEATS = {
    "nothing": "true",
    "empty files": "touch {names}",
    "copies of the input": 'for name in {names}; do find . -type f ! -name "$name" -exec cat {{}} + > "$name"; done',
    "nothing left": "rm -rf ./* ../logs ../tests",
    "a verdict of its own": "mkdir -p logs/verifier ../logs/verifier; for f in {{,../}}logs/verifier/reward; do "
    "echo 1 > $f.txt; echo '{{\"reward\": 1}}' > $f.json; done",
    "modules of Python": "for name in json re os sys hashlib pathlib random subprocess sitecustomize usercustomize; do "
    "echo 'import os; os._exit(0)' > $name.py; done; touch {names}",
    "a link to the verdict": "for name in {names}; do ln -sf ../tests/check.py $name; done",
}
# Under test, a program might do this instead of its work.
FORGER = r"""#!/usr/bin/env python3
import os, signal
app = os.path.dirname(os.path.abspath(__file__))
def forge(path, text):
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").write(text)
    except OSError:
        pass
def forge_all():
    forge(app + "/../logs/verifier/reward.txt", "1")
    forge(app + "/../logs/verifier/reward.json", '{"reward": 1}')
    forge(app + "/../tests/test.sh", "exit 0")
    forge(app + "/../tests/check.py", "")
    forge(app + "/../tests/cases.json", '{"program": "life", "sessions": []}')
forge_all()
if os.fork() == 0:
    os.setsid()
    while True:
        forge_all()
os.kill(os.getppid(), signal.SIGINT)
"""
# Does its work only if the process that judges it is closed to it.
SPY = r"""
try:
    open(f"/proc/{os.getppid()}/mem", "rb")
    sys.exit("open")
except PermissionError:
    pass
"""


def names_in(env: ToolEnv, task: str) -> str:
    """The names of files that an instruction mentions, for a shell."""
    return " ".join(sorted({*re.findall(r"`([\w-]+(?:\.\w+)?)`", env.tasks.by_id(task).prompt)}))


def cheat(env: ToolEnv, task: str, command: str) -> tuple[float, str]:
    return attempt(env, task, command.format(names=names_in(env, task)))


def test_a_solution_passes(env: ToolEnv) -> None:
    assert attempt(env, "apply-patch", solution("apply-patch"))[0] == 1.0


@pytest.mark.parametrize("kind", CHEATS)
def test_no_cheat_passes_one_task(env: ToolEnv, kind: str) -> None:
    assert cheat(env, "huge-numbers", CHEATS[kind])[0] == 0.0


def test_a_program_cannot_forge_its_verdict(env: ToolEnv) -> None:
    assert attempt(env, "life", f"cat > life <<'END'\n{FORGER}END")[0] == 0.0


def test_a_program_cannot_reach_the_process_that_judges_it(env: ToolEnv) -> None:
    spying = solution("life").replace("import sys\n", f"import os, sys\n{SPY}")
    assert attempt(env, "life", spying)[0] == 1.0


def test_the_shell_shows_neither_tests_nor_solutions(env: ToolEnv) -> None:
    env.reset(options={"task": "life"})
    command = "ls -A; python3 -c 'import toolrl_envs'; find / -name solve.sh -o -name cases.json 2> /dev/null"
    observation, *_ = env.step(HermesDialect().format(call("shell", command=command)))
    assert observation.split("\n")[0] == "glider.txt"
    assert "No module named 'toolrl_envs'" in observation
    assert "solve.sh" not in observation
    assert "cases.json" not in observation


@pytest.mark.slow
@EVERY_TASK
def test_every_solution_passes_and_no_cheat_does(env: ToolEnv, name: str) -> None:
    score, reason = attempt(env, name, solution(name))
    assert score == 1.0, reason
    for kind, command in CHEATS.items():
        assert cheat(env, name, command)[0] == 0.0, kind


@pytest.mark.slow
@pytest.mark.parametrize("name", CARELESS)
def test_careless_work_fails(env: ToolEnv, name: str) -> None:
    assert attempt(env, name, CARELESS[name])[0] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_program_forges_its_verdict(env: ToolEnv, name: str) -> None:
    program = importlib.import_module(f"toolrl_envs.terminal.programs.{name.replace('-', '_')}").PROGRAM
    assert attempt(env, name, f"cat > {program} <<'END'\n{FORGER}END")[0] == 0.0


@pytest.mark.slow
@EVERY_TASK
def test_a_solution_without_its_last_file_fails(env: ToolEnv, name: str) -> None:
    """What a solution leaves is needed, down to the smallest file."""
    smallest = "find . -type f -cnewer /tmp/start -printf '%s %p\\0' | sort -zn | head -zn 1 | cut -zd' ' -f2-"
    removal = f"{smallest} | xargs -0 rm"
    score, reason = attempt(env, name, "touch /tmp/start; sleep 0.05", solution(name), removal)
    assert score == 0.0, reason
