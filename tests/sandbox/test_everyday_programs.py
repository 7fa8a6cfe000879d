"""Everyday programs work in a sandbox, despite its isolation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from toolrl.sandbox import LocalSandbox
from toolrl.sandbox.local.launcher import Zygote

namespaces = pytest.mark.parametrize("level", ["full", "no-landlock"])
RUN = "import os, subprocess, sys\ndef run(*command):\n"
RUN += "    done = subprocess.run(command, capture_output=True, text=True)\n"
RUN += "    return done.stdout if done.returncode == 0 else f'{done.returncode} {done.stdout} {done.stderr}'\n"
SCRIPT = "#!/usr/bin/env python3\\nimport sys; print(sys.version_info[0])\\n"
POOL = """
open("square.py", "w").write("def square(n): return n * n\\n")
import multiprocessing, square
with multiprocessing.get_context({method!r}).Pool(2) as pool: result = pool.map(square.square, range(4))
result"""


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("run(sys.executable, '-c', 'print(6 * 7)')", "'42\\n'"),
        (f"open('s.py', 'w').write('{SCRIPT}'); run(sys.executable, 's.py')", "'3\\n'"),
        ("open('helper.py', 'w').write('x = 1'); run(sys.executable, '-c', 'import helper; print(helper.x)')",
         "'1\\n'"),
        ("run('bash', '-c', 'for i in 1 2; do echo $i; done | tac | head -1 > /dev/null; cat <(echo a) - < /dev/null')",
         "'a\\n'"),
        ("run('sh', '-c', 'echo out > /dev/stdout; head -c 2 /dev/zero | wc -c; cd ~ && ls')", "'out\\n2\\n'"),
        ("import tempfile\nwith tempfile.NamedTemporaryFile() as file: x = os.path.exists(file.name)\nx", "True"),
        ("import getpass; getpass.getuser()", "'user'"),
        ("os.path.expanduser('~') == os.getcwd()", "True"),
        ("open('f', 'w').write('x'); run('sh', '-c', 'tar czf f.tgz f && rm f && tar xzf f.tgz && cat f')", "'x'"),
        ("open('/dev/urandom', 'rb').read(3) != open('/dev/zero', 'rb').read(3)", "True"),
        ("import socket; socket.socketpair()[0].fileno() > 0", "True"),
        ("import sqlite3\nsqlite3.connect('a.db').execute('pragma journal_mode=wal').fetchone()", "('wal',)"),
    ],
)  # fmt: skip
def test_programs_find_what_they_need(sandbox, code, expected):
    for session in (sandbox, sandbox.new_session()):
        assert session.run(RUN + code).value == expected


def test_git_works_without_the_machines_settings(sandbox):
    needs("git")
    code = """
open("a.txt", "w").write("a")
name = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "gc.auto=0"]
steps = [run("git", "init", "-q", "."), run("git", "add", "a.txt"), run("git", *name, "commit", "-qm", "first")]
steps += [run("git", "clone", "-q", ".", "copy"), run("git", "-C", "copy", "log", "--format=%s")]
steps, run("git", "status", "-s"), open("copy/a.txt").read()"""
    expected = "(['', '', '', '', 'first\\n'], '?? copy/\\n', 'a')"
    assert sandbox.run(RUN + code, timeout_seconds=20).value == expected


def test_make_works(sandbox):
    needs("make")
    code = "open('Makefile', 'w').write('all:\\n\\t@echo made > out; cat out\\n'); run('make')"
    assert sandbox.run(RUN + code).value == "'made\\n'"


@namespaces
def test_there_is_a_private_folder_for_temporary_files(sandbox, open_sandbox):
    assert sandbox.run("open('/tmp/file', 'w').write('mine')").error is None
    assert sandbox.new_session().run("open('/tmp/file').read()").value == "'mine'"
    sandbox.run("import os; os._exit(0)")
    assert sandbox.run("import os; open('/tmp/file').read(), os.listdir()").value == "('mine', [])"
    assert open_sandbox().run("open('/tmp/file')").error.name == "FileNotFoundError"
    sandbox.reset()
    assert sandbox.run("open('/tmp/file')").error.name == "FileNotFoundError"


@namespaces
def test_temporary_files_count_towards_the_limits(open_sandbox):
    sandbox = open_sandbox(disk_mb=4, files=50)
    code = "for number in range(10):\n    open(f'/tmp/{number}', 'wb').write(bytes(1 << 20))"
    assert sandbox.run(code).limits_hit == ("disk",)
    assert sandbox.run("open('big', 'wb').write(bytes(1 << 20))").limits_hit == ("disk",)
    code = "import os\nfor number in range(3): os.remove(f'/tmp/{number}')\n"
    code += "for number in range(100): open(f'/tmp/x{number}', 'w').close()"
    assert sandbox.run(code).limits_hit == ("disk",)


@pytest.mark.parametrize("level", ["full", "no-landlock", "none"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pools_of_processes_work(sandbox, method):
    if method == "spawn" and sandbox.run("import sys; sys.executable").value != repr(sys.executable):
        pytest.skip("without namespaces another user cannot start a Python in root's folder")
    result = sandbox.run(POOL.format(method=method), timeout_seconds=30)
    assert (result.value, result.stderr) == ("[0, 1, 4, 9]", "")


@pytest.mark.parametrize("level", ["full", "no-landlock", "none"])
def test_executors_and_shared_memory_work(sandbox):
    code = "from concurrent.futures import ProcessPoolExecutor\nwith ProcessPoolExecutor(2) as pool:\n"
    code += "    result = list(pool.map(abs, [-1, -2]))\nfrom multiprocessing.shared_memory import SharedMemory\n"
    code += "memory = SharedMemory(create=True, size=8); memory.buf[0] = 7; seen = memory.buf[0]\n"
    code += "memory.close(); memory.unlink()\nresult, seen"
    assert sandbox.run(code, timeout_seconds=30).value == "([1, 2], 7)"


@namespaces
def test_the_user_has_a_name(sandbox):
    code = (
        f"{RUN}import pwd\nentry = pwd.getpwuid(os.getuid())\nentry.pw_name, entry.pw_dir == os.getcwd(), run('whoami')"
    )
    assert sandbox.run(code).value == "('user', True, 'user\\n')"


def test_a_python_subprocess_has_the_same_packages():
    zygote = Zygote(packages=True)
    if not zygote.active.holds["namespaces"]:
        zygote.close()
        pytest.skip("root's Python is inaccessible to other users")
    with LocalSandbox(isolation="none", zygote=lambda: zygote) as sandbox:
        code = "run(sys.executable, '-c', 'import numpy; print(int(numpy.arange(4).sum()))')"
        assert sandbox.run(RUN + code, timeout_seconds=30).value == "'6\\n'"
        assert sandbox.run("sys.executable").value == repr(sys.executable)
    zygote.close()


def lines(traceback: str) -> list[str]:
    return [line.strip() for line in traceback.splitlines() if line.strip().strip("~^")]


def test_a_traceback_shows_modules_that_the_code_wrote(sandbox):
    code = (
        "import os\nos.mkdir('package')\nopen('package/helper.py', 'w').write('def divide(n):\\n    return n / 0\\n')\n"
    )
    assert lines(sandbox.run(f"{code}from package import helper\nhelper.divide(1)").error.traceback) == [
        "Traceback (most recent call last):",
        'File "<tool>", line 5, in <module>',
        "helper.divide(1)",
        'File "package/helper.py", line 2, in divide',
        "return n / 0",
        "ZeroDivisionError: division by zero",
    ]


def test_a_traceback_shows_source_given_to_exec(sandbox):
    code = "source = 'def f():\\n    return 1 / 0\\nf()'\n"
    assert lines(sandbox.run(f"{code}exec(source)").error.traceback)[3:] == [
        'File "<string>", line 3, in <module>',
        'File "<string>", line 2, in f',
        "ZeroDivisionError: division by zero",
    ]
    traceback = sandbox.run(f"{code}exec(compile(source, 'made.py', 'exec'))").error.traceback
    assert lines(traceback)[-2] == 'File "made.py", line 2, in f'


def test_a_traceback_shows_no_library_even_below_the_codes_own_module(sandbox):
    code = "open('reader.py', 'w').write('import json\\ndef read(text): return json.loads(text)\\n')\nimport reader\n"
    traceback = sandbox.run(f"{code}reader.read('oops')").error.traceback
    assert [line for line in lines(traceback) if line.startswith("File")] == [
        'File "<tool>", line 3, in <module>',
        'File "reader.py", line 2, in read',
    ]


def test_an_error_in_a_written_modules_syntax_names_it(sandbox):
    traceback = sandbox.run("open('broken.py', 'w').write('def f(:\\n')\nimport broken").error.traceback
    assert 'File "broken.py", line 1' in traceback


def test_a_python_installed_in_tmp_can_run_sandboxes() -> None:
    """A virtual environment in /tmp has files (`pyvenv.cfg`) and folders that a sandbox's private /tmp must show."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", f"{folder}/venv"], check=True)
        program = (
            "from toolrl.sandbox import LocalSandbox\n"
            "with LocalSandbox() as sandbox:\n"
            '    print(sandbox.run(\'import subprocess, sys; open("/tmp/x", "w").close();\'\n'
            '        \'subprocess.run([sys.executable, "-c", "print(42)"], capture_output=True).stdout\').value)'
        )
        path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
        done = subprocess.run(
            [f"{folder}/venv/bin/python", "-c", program],
            env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout == "b'42\\n'\n", done.stderr
