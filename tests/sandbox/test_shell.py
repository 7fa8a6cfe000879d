"""Promises about a shell in a sandbox, on every backend and at every level of isolation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from toolrl.errors import SandboxFault
from toolrl.interop import Verifier
from toolrl.sandbox import FileTree, Mount, Sandbox, SandboxLimits
from toolrl.tools import Shell, ShellResult

Run = Callable[..., ShellResult]


@pytest.fixture(params=["full", "no-landlock", "no-userns", "e2b", "e2b-unreliable"])
def level(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def shell(open_sandbox: Callable[..., Sandbox]) -> Iterator[Shell]:
    shell = Shell(open_sandbox(processes=64, disk_mb=8, file_size_mb=4), folder="work", environment={"COLOUR": "red"})
    yield shell
    shell.close()


@pytest.fixture
def run(shell: Shell) -> Run:
    return lambda command, seconds=20.0: shell.run(command, seconds)


def test_folder_variables_functions_and_jobs_persist(run: Run) -> None:
    assert (
        run('x=1; export y=2; mkdir d; cd d; f() { echo "$x $y $COLOUR ${PWD##*/}"; }; alias hi="echo hi"').output == ""
    )
    assert run("f; hi; sh -c 'echo $x$y'").output == "1 2 red d\nhi\n2\n"
    run("declare -A map; map[key]=value; sleep 600 & job=$!")
    assert run('kill -0 $job && echo "${map[key]}"').output == "value\n"


def test_both_outputs_read_as_in_a_terminal(run: Run) -> None:
    result = run("echo a; echo b >&2; sh -c 'echo c; echo d >&2'; printf e")
    assert (result.output, result.exit_code, result.end) == ("a\nb\nc\nd\ne", 0, "")


def test_commands_have_no_input_and_no_terminal(run: Run) -> None:
    assert run("cat; read line; echo [$line]; tty").output == "[]\nnot a tty\n"
    assert run("ls /proc/self/fd 2>/dev/null | xargs").output in ("0 1 2 3\n", "\n")  # the last is of `ls` itself


def test_an_exit_code_is_that_of_the_last_command(run: Run) -> None:
    assert [run(command).exit_code for command in ("true", "false", "sh -c 'exit 7'", "nothing-like-it")] == [
        0,
        1,
        7,
        127,
    ]
    assert "syntax error" in run("if then").output
    assert run("cat <<'E'\nit's $x\nE\nfalse").output == "it's $x\n"


def test_a_command_past_its_limit_is_interrupted_and_the_shell_goes_on(run: Run) -> None:
    run("x=1; sleep 600 & job=$!")
    for command in ("sleep 600", "while :; do sleep 0.01; done", "while :; do :; done", "cat | sleep 600"):
        result = run(f"echo begun; {command}", 0.2)
        assert (result.output.splitlines()[0], result.end) == ("begun", "interrupted"), command
        assert run("kill -0 $job && echo $x").output == "1\n"


def test_a_command_that_ignores_interrupts_is_killed_and_the_shell_goes_on(run: Run, level: str) -> None:
    run("x=1")
    # Without namespaces a shell cannot tell its processes from others, and is killed too.
    assert run("(trap '' INT; while :; do :; done)", 0.2).end == ("killed" if level == "no-userns" else "interrupted")
    assert run("echo $x").output == ("\n" if level == "no-userns" else "1\n")


def test_what_a_command_does_to_its_shell_is_an_observation(run: Run) -> None:
    run("touch ~/kept")
    for command, end, code in [
        ("exit 3", "exited", 3),
        ("set -e; false", "exited", 1),
        ("exec true", "exited", 0),
        ("kill -9 $$", "exited", -9),
        ("exec 0<&- 1>&- 2>&- 3>&- 4>&-", "", 0),
        ("exec >log 2>&1 </dev/zero; echo hidden", "", 0),
        ("trap '' INT; while :; do :; done", "killed", -9),
        ("kill -STOP $$", "killed", -9),
        ("ulimit -n 0", "exited", 0),
        ("PS1='echo prompt'; PROMPT_COMMAND='echo x'; trap 'true' DEBUG", "", 0),
        ("cd ..; rm -rf work; mkdir -p deep/er; cd deep/er; rm -rf ../../deep", "", 0),
        ("unset PATH HOME", "", 0),
    ]:
        result = run(command, 0.2 if end == "killed" else 20.0)
        assert (result.end, result.exit_code) == (end, code), command
        run("exit")
        assert run("echo alive; test -e ~/kept").output == "alive\n", command


def test_a_session_that_a_command_kills_is_replaced_and_its_files_are_kept(run: Run, shell: Shell, level: str) -> None:
    run("touch kept; x=1")
    result = run("kill -9 $PPID")
    if level in ("full", "no-landlock") or result.end == "":  # process 1 of a namespace cannot be killed from inside
        assert run("echo $x").output == "1\n"
    else:
        assert (result.end, "variables" in result.text(1)) == ("lost", True)
        assert run("echo [$x]; ls").output == "[]\nkept\n"


def test_a_fork_bomb_ends_with_the_session(run: Run, shell: Shell, limited: None, counted: None) -> None:
    run("bomb() { bomb | bomb & }; bomb", 1.0)
    shell.end()
    assert run("echo alive").output == "alive\n"


def test_a_full_disk_is_an_observation(run: Run, limited: None, level: str) -> None:
    if level in ("none", "no-userns"):
        pytest.skip("without namespaces a sandbox has no file system of its own")
    assert run("for n in 1 2 3; do head -c 3900000 /dev/zero > $n; done").exit_code != 0
    assert "No space left" in run("echo more > more; cp 1 4").output
    run("exit")
    assert run("rm ?; echo alive > file; cat file").output == "alive\n"


def test_endless_output_neither_ends_the_shell_nor_fills_memory(run: Run) -> None:
    result = run("x=1; yes", 5.0)
    assert len(result.output) < 100_000
    assert result.end in ("", "interrupted", "lost")  # E2B's limit ends the session
    assert run("echo alive").output == "alive\n"


def test_commands_are_isolated_as_code_is(run: Run, level: str) -> None:
    if level == "none" or level.startswith("e2b"):
        pytest.skip("nothing is isolated, or another test's business")
    assert run("exec 5<>/dev/tcp/127.0.0.1/22").exit_code != 0
    assert run("echo > /usr/bin/planted").exit_code != 0
    assert run("cat /etc/shadow /root/* 2>/dev/null").output == ""
    if level != "no-landlock":
        assert run("ls / /proc/1/root/ /root /var 2>/dev/null").output == ""
    assert run("unshare -r true 2>/dev/null || mount -t tmpfs none . 2>/dev/null").exit_code != 0


def test_a_tree_is_copied_without_following_links(shell: Shell, run: Run, level: str) -> None:
    tree = FileTree({"a/run": b"echo ran", "b": b"\xff"}, {"a/run": 0o755, "empty": 0o755}, {"a/to-b": "../b"})
    tree.write(shell.sandbox, "work")
    assert run("a/run; cat a/to-b | wc -c; ls -d empty").output.split() == ["ran", "1", "empty"] or level != "full"
    run("ln -s /etc/passwd p; ln -s ../other o; ln -s a/../../other u; mkfifo pipe; mkdir ../other; touch ../other/x")
    run("ln -s ../../.. a/up; ln -s b same; chmod 000 a/run; echo hard > h; ln h i; touch a/same")
    shell.end()
    found = FileTree.of_sandbox(shell.sandbox, "work")
    assert found.links == {"a/to-b": "../b", "same": "b"}
    assert {name: content for name, content in found.files.items() if name != "a/run"} == {
        "b": b"\xff",
        "h": b"hard\n",
        "i": b"hard\n",
        "a/same": b"",
    }
    assert FileTree.of_sandbox(shell.sandbox, "nowhere") == FileTree()
    run("cd ..; mv work real; ln -s real work")
    shell.end()
    assert FileTree.of_sandbox(shell.sandbox, "work") == FileTree()
    with pytest.raises(OSError, match="exceed 0 MB"):
        FileTree.of_sandbox(shell.sandbox, "real", max_bytes=3)


def test_a_shell_in_a_closed_sandbox_is_not_the_models_mistake(shell: Shell) -> None:
    shell.close()
    with pytest.raises((ValueError, SandboxFault)):
        shell.run("true", 1.0)


def test_what_a_shell_leaves_is_graded_alike_everywhere(
    shell: Shell, run: Run, open_sandbox: Callable[..., Sandbox], tmp_path: Path
) -> None:
    script = 'cmp -s "$(dirname "$0")/expected" count && echo 1 > "$(dirname "$0")/../logs/verifier/reward.txt"'
    (tmp_path / "test.sh").write_text(script)
    (tmp_path / "expected").write_text("3\n")
    fresh: list[Sandbox] = []

    def open_fresh(limits: SandboxLimits, mounts: Sequence[Mount]) -> Sandbox:
        fresh.append(open_sandbox(mounts, processes=64))
        return fresh[-1]

    verifier = Verifier(tmp_path, sandbox=open_fresh)
    planted = "mkdir -p ../tests ../logs/verifier; echo 1 > ../logs/verifier/reward.txt; echo 4 | tee ../tests/expected"
    run(f"{planted} > count; while :; do {planted} > count; done & setsid sleep 600 &")
    assert verifier.score(shell).value == 0
    run("echo 3 > count")
    assert verifier.score(shell).value == 1
    for sandbox in fresh:
        with pytest.raises(ValueError, match="closed"):
            sandbox.run("1")
