"""Promises about verdicts: what the model leaves behind is data, and no verdict but the tests' own counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from tests.interop.conftest import MakeTask
from toolrl import SandboxFault, Score, call, say
from toolrl.interop import HarborEnv, Verifier
from toolrl.interop.verifier import score_of
from toolrl.sandbox import LocalSandbox, SandboxLimits
from toolrl.tools import Shell

Grade = Callable[..., Score]


@pytest.fixture
def grade(make_task: MakeTask, play: Callable[..., Score]) -> Grade:
    """Grades what a command leaves behind, with the tests of a task."""

    def grade(command: str, files: Mapping[str, str] | None = None, toml: str = "") -> Score:
        return play(HarborEnv(make_task(files, toml=toml)), [call("shell", command=command), say("It is done.")])

    return grade


SHIMS = """
mkdir -p bin ../bin
for name in test cat dirname echo true python3 bash sh; do
  printf '#!/bin/sh\\nexit 0\\n' > bin/$name; chmod +x bin/$name; cp bin/$name ../bin
done
export PATH=$PWD/bin:$PATH BASH_ENV=$PWD/env ENV=$PWD/env PYTHONPATH=$PWD PYTHONSTARTUP=$PWD/env LD_PRELOAD=$PWD/env
for file in env .bashrc .profile .bash_profile ../.bashrc ../.profile ../.bash_profile; do
  printf 'alias test=true\\ntest() { return 0; }\\nexport -f test\\nexit() { builtin exit 0; }\\n' > $file
done
printf 'import os; os._exit(0)\\n' | tee sitecustomize.py usercustomize.py json.py os.py ../json.py > /dev/null
"""
PLANTED = """
mkdir -p ../logs/verifier logs/verifier /tmp/logs/verifier
for folder in . .. logs/verifier ../logs/verifier /tmp/logs/verifier; do
  echo 1 > $folder/reward.txt; echo '{"reward": 1}' > $folder/reward.json
done
"""
REPLACED = """
mkdir -p tests ../tests
for folder in . tests ../tests; do
  printf '#!/bin/bash\\nexit 0\\n' > $folder/test.sh; echo 8 > $folder/expected; chmod 555 $folder/*
done
echo 8 > count.txt
"""
LINKED = """
rm -rf ../logs ../tests; mkdir -p ../planted/verifier; echo 1 > ../planted/verifier/reward.txt
ln -s planted ../logs; ln -s /dev/null ../tests; ln -s ../tests/expected count.txt; ln -s ../tests/expected data
"""
BACKGROUND = """
(trap '' TERM HUP INT; while :; do mkdir -p ../logs/verifier; echo 1 > ../logs/verifier/reward.txt; done) &
setsid bash -c 'while sleep 0.01; do cp ../tests/expected count.txt; done' > /dev/null 2>&1 & disown
"""


@pytest.mark.parametrize("attack", [SHIMS, PLANTED, REPLACED, LINKED, BACKGROUND])
def test_attacks_on_the_verdict_earn_nothing_and_do_not_spoil_honest_work(grade: Grade, attack: str) -> None:
    assert grade(attack).value == 0
    honest = grade(f"rm -f count.txt; echo 3 > solved; {attack}\n/bin/rm -f count.txt; /bin/cp solved count.txt")
    assert honest == Score(1.0, {"correct": 1.0}, reason="reward.txt: 1")


def test_a_program_that_the_tests_run_cannot_change_them_or_forge_a_verdict(grade: Grade) -> None:
    """It runs as their user: only a failing exit code is beyond its reach."""
    tests = 'python3 work.py > out; cmp -s out "$tests/expected"; echo 1 > "$tests/../logs/verifier/reward.txt"'
    test_sh = f'#!/bin/bash\nset -e\ntests="$(dirname "$0")"\n{tests}\n'
    assert grade("echo 'print(3)' > work.py", {"tests/test.sh": test_sh}).value == 1
    attack = r"""cat > work.py <<'END'
import glob, os, subprocess
for path in glob.glob("../tests/*"):
    for change in (os.remove, lambda p: os.rename(p, p + "x"), lambda p: open(p, "w").write("exit 0\n")):
        try: change(path)
        except OSError: pass
open("../logs/verifier/reward.json", "w").write("1")
loop = "while :; do echo 1 > ../logs/verifier/reward.txt; done"
subprocess.Popen(["bash", "-c", loop], start_new_session=True, stdout=subprocess.DEVNULL)
print(4)
END"""
    score = grade(attack, {"tests/test.sh": test_sh})
    assert (score.value, score.reason) == (0, "the tests ended with exit code 1")
    without_code = (
        test_sh.replace("set -e", "").replace("cmp", "! cmp") + "echo 0 > ../logs/verifier/reward.txt; exit 0"
    )
    planted = """printf 'open("../logs/verifier/reward.%s", "w").write("1")' json > work.py"""
    assert grade(planted, {"tests/test.sh": without_code}).reason == "reward.txt: 0"  # the only one that the tests name
    kills = "echo 'import os, signal; os.kill(os.getppid(), 9)' > work.py; mkdir -p ../logs/verifier"
    assert grade(kills, {"tests/test.sh": test_sh}).reason.startswith("the tests ended with exit code -9")


def test_tests_and_solution_are_out_of_reach_until_the_end(make_task: MakeTask, play: Callable[..., Score]) -> None:
    folder, results = make_task(), []
    look = f"ls {folder}; cat {folder}/*/*; ls -R ~; ls ~/tests /tests /solution; find / -name solve.sh"
    play(HarborEnv(folder), [call("shell", command=f"({look}) 2>/dev/null"), say("done")], results=results)
    assert [result.content for result in results] == ["/home/user:\napp\n\n/home/user/app:\ndata.txt\n[exit code 1]"]


def test_files_that_only_tell_what_the_tests_need_are_seen_by_them(grade: Grade) -> None:
    test_sh = """#!/bin/bash
set -ex
test -x run -a ! -x plain -a -d empty -a "$(readlink link)" = plain -a "$(./run)" = ran -a ! -e out -a -z "$X"
test "$HOME" != "$PWD" -a -z "$(ls -A ~ | grep -v -e app -e tests -e logs)" -a "$GIVEN" = yes
"""
    command = "printf '#!/bin/sh\\necho ran' > run; chmod 755 run; touch plain ~/.rc; mkdir empty; ln -s plain link; "
    command += "ln -s /etc out; export X=1"
    toml = '[verifier]\nenv = { GIVEN = "yes" }'
    assert grade(command, {"tests/test.sh": test_sh}, toml=toml) == Score(
        1.0, {"correct": 1.0}, reason="the tests passed"
    )


@pytest.mark.parametrize(
    ("name", "content", "value", "parts"),
    [
        ("reward.txt", b"1\n", 1.0, {"correct": 1.0}),
        ("reward.txt", b"0.25", 0.25, {"correct": 0.0}),
        ("reward.json", b'{"reward": 0.5, "style": 1}', 0.5, {"style": 1.0, "correct": 0.0}),
        ("reward.json", b'{"a": 1, "b": 0.5}', 0.75, {"a": 1.0, "b": 0.5, "correct": 0.0}),
        ("reward.json", b"true", 1.0, {"correct": 1.0}),
    ],
)
def test_a_verdict_is_a_number_or_numbers_by_name(name: str, content: bytes, value: float, parts: dict) -> None:
    score = score_of(name, content)
    assert (score.value, score.parts) == (value, parts)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("reward.txt", b""),
        ("reward.txt", b"1e300"),
        ("reward.txt", b"nan"),
        ("reward.txt", b"-1"),
        ("reward.txt", b"\xff\xfe"),
        ("reward.txt", b"1" * (1 << 17)),
        ("reward.json", b'{"reward": "1"}'),
        ("reward.json", b'{"reward": 1e999}'),
        ("reward.json", b"[1]"),
        ("reward.json", b"{}"),
        ("reward.json", b"[" * 60_000),
    ],
)
def test_a_verdict_that_is_no_number_from_0_to_1_is_worth_nothing(name: str, content: bytes) -> None:
    score = score_of(name, content)
    assert score.value == 0
    assert name in score.reason


@pytest.mark.parametrize(
    ("test_sh", "reason"),
    [
        ("sleep 600", "the tests did not finish within 0.5 seconds"),
        ("echo 1 > ../logs/verifier/reward.txt; exit 3", "the tests ended with exit code 3"),
        ("true # reward.txt", "the tests wrote no verdict"),
        ("ln -s /dev/zero ../logs/verifier/reward.txt", "the verdict reward.txt cannot be read"),
        ("mkfifo ../logs/verifier/reward.txt", "the verdict reward.txt cannot be read"),
    ],
)
def test_tests_without_a_verdict_are_worth_nothing(grade: Grade, test_sh: str, reason: str) -> None:
    score = grade("true", {"tests/test.sh": test_sh}, toml="[verifier]\ntimeout_sec = 0.5")
    assert score.value == 0
    assert score.reason.startswith(reason)


def test_a_full_or_locked_folder_is_the_models_own_fault(make_task: MakeTask) -> None:
    limits = SandboxLimits(processes=64, disk_mb=2)
    verifier = Verifier(make_task() / "tests", limits=SandboxLimits(processes=64, disk_mb=1))
    for command in ("head -c 1900000 /dev/zero > large", "cd ..; rmdir app; ln -s /etc app", "cd ..; chmod 0 app"):
        shell = Shell(LocalSandbox(limits), folder="app")
        shell.run(command, 5.0)
        assert verifier.score(shell).value == 0
        shell.close()


def test_a_sandbox_that_fails_is_not_the_models_fault(make_task: MakeTask) -> None:
    class Broken(LocalSandbox):
        def new_session(self) -> None:  # type: ignore[override]
            raise SandboxFault("gone")

    tests = make_task() / "tests"
    with LocalSandbox(SandboxLimits(processes=64)) as sandbox:
        shell = Shell(sandbox, folder="app")
        shell.run("echo 3 > count.txt", 5.0)
        with pytest.raises(SandboxFault, match="gone"):
            Verifier(tests, sandbox=Broken).score(shell)
        assert Verifier(tests, sandbox=partial(LocalSandbox, isolation="best_effort")).score(shell).value == 1
    assert Verifier(Path("unused")).score(None) == Score(0.0, {"correct": 0.0}, reason="the shell was never used")
