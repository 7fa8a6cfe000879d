"""The contract of every backend; add a new one as a parameter of the fixture `level`."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from toolrl.sandbox import ExecResult, LocalSandbox, SandboxLimits


@pytest.fixture(params=["full", "no-landlock", "no-userns", "none", "e2b", "e2b-unreliable"])
def level(request: pytest.FixtureRequest) -> str:
    return request.param


def value(result: ExecResult) -> str | None:
    assert result.error is None, result.error
    return result.value


def test_variables_persist_from_run_to_run(sandbox):
    sandbox.run("import math\nx = 20\ndef double(n): return 2 * n")
    assert value(sandbox.run("double(x) + math.floor(2.5)")) == "42"


def test_reset_forgets_variables_and_files(sandbox):
    sandbox.run("x = 1; open('file', 'w').close()")
    sandbox.reset()
    assert value(sandbox.run("'x' in globals(), __import__('os').listdir()")) == "(False, [])"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1 + 1", "2"),
        ("x = 5\nx", "5"),
        ("'text'", "'text'"),
        ("x = 5", None),
        ("None", None),
        ("", None),
        ("# no", None),
    ],
)
def test_the_last_expression_is_the_value(sandbox, code, expected):
    assert value(sandbox.run(code)) == expected


def test_stdout_and_stderr_are_separate(sandbox):
    result = sandbox.run("import sys\nprint('out')\nprint('err', file=sys.stderr)")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    assert sandbox.run("1").stdout == ""


def test_output_of_subprocesses_and_below_python_is_captured_in_order(sandbox):
    code = "import os, subprocess\nprint('a')\nsubprocess.run(['echo', 'b'])\nos.write(1, b'c\\n')\nprint('d', end='')"
    assert sandbox.run(code).stdout == "a\nb\nc\nd"


def test_output_that_is_not_utf8_is_replaced(sandbox):
    result = sandbox.run("import os; n = os.write(1, b'\\xff ok'); print('\\ud800')\n'\\ud800'")
    assert result.stdout == "� ok\\ud800\n"
    result.stdout.encode()


def test_a_traceback_shows_only_the_lines_of_the_code(sandbox):
    sandbox.run("def inner():\n    return {}['missing']  # the line")
    error = sandbox.run("\ninner()").error
    assert (error.name, error.value) == ("KeyError", "'missing'")
    assert [line.strip() for line in error.traceback.splitlines() if "^" not in line and "~" not in line] == [
        "Traceback (most recent call last):",
        'File "<tool>", line 2, in <module>',
        "inner()",
        'File "<tool>", line 2, in inner',
        "return {}['missing']  # the line",
        "KeyError: 'missing'",
    ]


def test_frames_of_libraries_and_of_causes_are_left_out_too(sandbox):
    code = (
        "import json\ntry:\n    json.loads('{')\nexcept ValueError as error:\n    raise RuntimeError('no') from error"
    )
    traceback = sandbox.run(code).error.traceback
    assert "direct cause" in traceback
    assert traceback.count("File ") == traceback.count('File "<tool>"') == 2


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("a b", "SyntaxError"),
        ("x = (", "SyntaxError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def f(): f()\nf()", "RecursionError"),
        ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "E"),
        ("class R:\n    def __repr__(self): raise OSError('no repr')\nR()", "OSError"),
    ],
)
def test_an_error_is_a_result_and_the_session_continues(sandbox, code, name):
    sandbox.run("kept = 1")
    assert sandbox.run(code).error.name == name
    assert value(sandbox.run("kept")) == "1"


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(3600)",
        "import signal\nfor n in {*range(1, 31)} - {9, 19}: signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "'a' * 30 == __import__('re').match('(a+)+$', 'a' * 40 + 'b')",
    ],
)
def test_code_that_runs_too_long_is_killed_and_says_so(sandbox, code):
    sandbox.run("x = 1; open('file', 'w').close()")
    result = sandbox.run(f"print('before', flush=True)\n{code}", timeout_seconds=0.3)
    assert (result.error.name, result.limits_hit, result.value) == ("TimeoutError", ("seconds",), None)
    assert "0.3 seconds" in result.error.value
    assert "variables are lost" in result.error.value
    assert result.stdout == "before\n"
    assert value(sandbox.run("'x' in globals(), __import__('os').listdir()")) == "(False, ['file'])"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os._exit(0)", "status 0"),
        ("import os; os.abort()", "signal"),
        ("import ctypes; ctypes.string_at(0)", "signal 11"),
        (
            "import os\nfor d in range(3, 50):\n    try: os.write(d, b'\\xff' * 64)\n    except OSError: pass",
            "invalid answer",
        ),
        ("import os; os.closerange(3, 50)", ""),
    ],
)
def test_a_process_that_exits_is_a_result_and_the_next_run_starts_fresh(sandbox, code, reason):
    sandbox.run("x = 1")
    result = sandbox.run(code)
    assert result.error.name == "SandboxDied"
    assert reason in result.error.value
    assert result.error.value.count("variables are lost") == 1
    assert value(sandbox.run("'x' in globals()")) == "False"


def test_a_forked_child_does_not_answer_for_its_parent(sandbox):
    code = "import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\n'parent' if pid else 'child'"
    assert value(sandbox.run(code)) == "'parent'"
    assert value(sandbox.run("1")) == "1"


@pytest.mark.usefixtures("limited")
def test_a_memory_bomb_is_stopped_and_named(open_sandbox):
    sandbox = open_sandbox(memory_mb=128)
    result = sandbox.run("chunks = []\nwhile True: chunks.append(bytearray(1 << 20))")
    assert (result.error.name, result.limits_hit) == ("MemoryError", ("memory",))
    assert value(sandbox.run("len(chunks) < 128")) == "True"


@pytest.mark.usefixtures("counted", "limited")
def test_a_fork_bomb_is_bounded(open_sandbox):
    result = open_sandbox(processes=8).run("import os\nwhile True: os.fork()")
    assert result.error.name in ("BlockingIOError", "TimeoutError")
    code = "import os\nforks = 0\ntry:\n    while os.fork(): forks += 1\n    os._exit(0)\nexcept OSError: pass\nforks"
    assert value(open_sandbox(processes=8).run(code)) == "7"


@pytest.mark.usefixtures("counted", "limited")
def test_threads_count_as_processes(open_sandbox):
    code = "import threading\nwhile True: threading.Thread(target=threading.Event().wait, daemon=True).start()"
    result = open_sandbox(processes=8).run(code)
    assert (result.error.name, result.limits_hit) == ("RuntimeError", ("processes",))


def test_endless_output_is_visibly_truncated(open_sandbox):
    sandbox = open_sandbox(output_characters=1000, file_size_mb=1)
    result = sandbox.run("print('first')\nwhile True: print('x' * 79)")
    assert result.stdout.startswith("first\n")
    assert "[... cut: " in result.stdout
    assert len(result.stdout) < 1200
    assert "output" in result.limits_hit
    assert sandbox.run("print('again')").stdout == "again\n"


def test_a_value_that_was_cut_counts_as_output_at_its_limit(open_sandbox):
    sandbox = open_sandbox(output_characters=1000)
    assert sandbox.run("'x' * 998").limits_hit == ()
    result = sandbox.run("'x' * 999")
    assert "[... cut: " in result.value
    assert result.limits_hit == ("output",)


def test_long_values_and_errors_are_truncated(open_sandbox):
    sandbox = open_sandbox(output_characters=100)
    assert len(value(sandbox.run("'x' * 10**6"))) < 250
    assert len(sandbox.run("raise ValueError('x' * 10**6)").error.traceback) < 250


@pytest.mark.usefixtures("limited")
def test_a_file_cannot_grow_past_its_limit(open_sandbox):
    sandbox = open_sandbox(file_size_mb=1)
    result = sandbox.run("open('big', 'wb').write(b'x' * (2 << 20))")
    assert (result.error.name, result.limits_hit) == ("OSError", ("file_size",))
    assert len(sandbox.read_file("big")) <= 1 << 20


@pytest.mark.parametrize("level", ["full", "no-landlock", "no-userns"])
def test_no_network_not_even_this_machine(sandbox):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = sandbox.run(f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)")
    assert result.error.name in ("OSError", "ConnectionRefusedError", "PermissionError")


@pytest.mark.usefixtures("limited")
def test_the_working_directory_is_empty_and_gone_after_close(sandbox):
    code = "import os\nassert os.listdir() == [] and os.environ['TMPDIR'] == os.getcwd()\nos.getcwd()"
    directory = value(sandbox.run(code)).strip("'")
    sandbox.run("open('file', 'w').close()")
    sandbox.close()
    assert not os.path.exists(directory) or not os.listdir(directory)


@pytest.mark.usefixtures("apart")
def test_sandboxes_do_not_see_each_others_files(open_sandbox):
    first, second = open_sandbox(), open_sandbox()
    path = value(first.run("open('file', 'w').close(); import os; os.path.abspath('file')")).strip("'")
    assert second.run(f"open({path!r})").error.name in ("FileNotFoundError", "PermissionError")


@pytest.mark.usefixtures("apart")
def test_sandboxes_cannot_signal_each_other_or_us(open_sandbox):
    first, second = open_sandbox(), open_sandbox()
    first.run("x = 1")
    second.run("import os; os.kill(-1, 9)")
    second.run(f"import os; os.kill({os.getpid()}, 9)")
    assert value(first.run("x")) == "1"


def test_files_can_be_written_and_read(sandbox):
    sandbox.write_file("data/deep/in.bin", b"\x00\xff")
    assert value(sandbox.run("content = open('data/deep/in.bin', 'rb').read(); content")) == r"b'\x00\xff'"
    sandbox.run("open('data/deep/in.bin', 'wb').write(content * 2); open('data/out', 'w').write('text')")
    assert sandbox.read_file("data/deep/in.bin") == b"\x00\xff" * 2
    assert sandbox.read_file("data/out") == b"text"
    sandbox.write_file("data/out", b"new")
    assert value(sandbox.run("open('data/out').read()")) == "'new'"


def test_a_module_written_as_a_file_can_be_imported(sandbox):
    sandbox.run("1")
    sandbox.write_file("helper.py", b"answer = 42")
    assert value(sandbox.run("import helper; helper.answer")) == "42"


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", ".", "link", "folder/passwd", "a\0b"])
def test_paths_that_leave_the_directory_are_refused(sandbox, path):
    sandbox.run("import os; os.symlink('/etc/passwd', 'link'); os.symlink('/etc', 'folder'); os.mkdir('a')")
    with pytest.raises(ValueError):
        sandbox.read_file(path)
    with pytest.raises(ValueError):
        sandbox.write_file(path, b"")


def test_reading_something_that_is_not_a_file_does_not_hang(sandbox):
    sandbox.run("import os; os.mkfifo('pipe'); os.mkdir('folder')")
    for path in ("pipe", "folder"):
        with pytest.raises(ValueError, match="regular"):
            sandbox.read_file(path)
    with pytest.raises(FileNotFoundError):
        sandbox.read_file("nothing")


LOCKED = """
import os
os.close(os.open("locked", os.O_CREAT | os.O_WRONLY, 0))
os.makedirs("closed/inner")
open("closed/file", "w").close()
os.rename("closed", "moved")
os.mkdir("closed", 0)
open("plain", "w").close()
"""


def test_files_that_the_code_has_locked_are_not_a_fault(sandbox):
    sandbox.run(LOCKED)
    for path in ("locked", "closed/file"):
        with pytest.raises(PermissionError):
            sandbox.read_file(path)
    with pytest.raises(PermissionError):
        sandbox.write_file("closed/file", b"")
    assert sandbox.list_files() == ["locked", "moved/file", "plain"]
    sandbox.write_file("locked", b"replaced")
    assert sandbox.read_file("locked") == b"replaced"


def test_a_file_in_place_of_a_folder_is_not_a_fault(sandbox):
    sandbox.run(LOCKED)
    for use in (sandbox.read_file, lambda path: sandbox.write_file(path, b"")):
        with pytest.raises(NotADirectoryError):
            use("plain/file")
    with pytest.raises(ValueError, match="regular"):
        sandbox.write_file("moved", b"")
    with pytest.raises(ValueError, match="255"):
        sandbox.read_file("x" * 256)
    assert value(sandbox.run("1")) == "1"


@pytest.mark.parametrize("level", ["full", "no-landlock"])  # for an E2B machine see e2b/test_sandbox.py
def test_a_full_disk_is_not_a_fault_and_leaves_no_partial_file(open_sandbox):
    sandbox = open_sandbox(disk_mb=4, file_size_mb=8)
    with pytest.raises(OSError, match="No space left"):
        sandbox.write_file("big", b"x" * (5 << 20))
    assert sandbox.list_files() == []
    sandbox.write_file("small", b"x")


FORGED = """
class Shown:
    def __init__(self, data): self.data = data
    def _repr_mimebundle_(self): return {"image/png": self.data}
for data in ("no base64", "\u00e9", "aGVsbG8=", ""): display(Shown(data))
"""


def test_figures_that_are_not_png_are_left_out(sandbox):
    result = sandbox.run(FORGED)
    assert (result.error, len(result.displays), result.figures) == (None, 4, ())


def test_invalid_json_is_shown_and_not_a_fault(sandbox):
    result = sandbox.run("class R:\n    def _repr_json_(self): return '{'\ndisplay(R())\n7")
    assert (value(result), result.displays[0].data["application/json"]) == ("7", "{")


def test_many_threads_get_their_own_answers(open_sandbox, level):
    count = 16 if level.startswith("e2b") else 48
    barrier = Barrier(count)

    def session(number: int) -> list[str | None]:
        barrier.wait()
        sandbox = open_sandbox()
        sandbox.run(f"number = {number}", timeout_seconds=60)
        return [sandbox.run(f"print(number); number * {k}", timeout_seconds=60).value for k in range(3)]

    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(session, range(count)))
    assert answers == [[str(number * k) for k in range(3)] for number in range(count)]


def test_equal_code_gives_equal_output_in_every_session(open_sandbox):
    code = "import random; random.random(), hash('text'), list({'a', 'b', 'c'})"
    assert value(open_sandbox().run(code)) == value(open_sandbox().run(code))


def test_a_closed_sandbox_says_so(open_sandbox):
    with open_sandbox() as sandbox:
        pass
    sandbox.close()
    for use in (lambda: sandbox.run("1"), sandbox.reset, lambda: sandbox.read_file("x")):
        with pytest.raises(ValueError, match="closed"):
            use()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_timeout_must_be_positive_and_finite(sandbox, seconds):
    with pytest.raises(ValueError, match="timeout_seconds"):
        sandbox.run("1", timeout_seconds=seconds)


@pytest.mark.parametrize(
    "limits", [{"seconds": 0}, {"memory_mb": 1}, {"processes": 0}, {"files": 0}, {"output_characters": 1.5}]
)
def test_limits_are_checked(limits):
    with pytest.raises(ValueError, match=f"SandboxLimits.{next(iter(limits))}"):
        LocalSandbox(SandboxLimits(**limits))
