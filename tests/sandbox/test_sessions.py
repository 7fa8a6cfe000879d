"""The contract of every backend on sessions, streamed output, interrupts, displays and mounts."""

from __future__ import annotations

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Timer

import pytest

from toolrl.sandbox import Mount
from toolrl.sandbox.base import MAX_SESSIONS


@pytest.fixture(params=["full", "no-landlock", "no-userns", "none", "e2b"])
def level(request: pytest.FixtureRequest) -> str:
    return request.param


def test_another_session_has_its_own_variables_and_the_same_files(sandbox):
    sandbox.run("x = 1; open('file', 'w').write('text')")
    with sandbox.new_session() as session:
        assert session.run("'x' in globals(), open('file').read()").value == "(False, 'text')"
        session.run("y = 2")
        assert sandbox.run("'y' in globals()").value == "False"
        session.run("while True: pass", timeout_seconds=0.3)
        assert sandbox.run("x").value == "1"
        assert session.run("'y' in globals()").value == "False"
    with pytest.raises(ValueError, match="closed"):
        session.run("1")
    assert sandbox.run("x").value == "1"


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_sessions_end_with_their_sandbox(sandbox, ending):
    session = sandbox.new_session()
    getattr(sandbox, ending)()
    with pytest.raises(ValueError, match="closed"):
        session.run("1")
    session.close()


def test_sessions_run_concurrently(sandbox):
    session = sandbox.new_session()
    wait = "import os, time\nopen({!r}, 'w').close()\nwhile not os.path.exists({!r}): time.sleep(0.01)"
    with ThreadPoolExecutor(2) as pool:
        results = [
            pool.submit(sandbox.run, wait.format("a", "b"), timeout_seconds=20),
            pool.submit(session.run, wait.format("b", "a"), timeout_seconds=20),
        ]
        assert [result.result().error for result in results] == [None, None]


@pytest.mark.parametrize("ending", ["session", "sandbox"])
def test_closing_ends_the_current_run(sandbox, ending):
    session = sandbox.new_session()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.run, "while True: pass", timeout_seconds=30)
        time.sleep(0.3)
        {"session": session, "sandbox": sandbox}[ending].close()
        assert running.result(10).error.name == "SandboxDied"
    with pytest.raises(ValueError, match="closed"):
        session.run("1")


def test_the_number_of_open_sessions_is_limited(sandbox):
    sessions = [sandbox.new_session() for _ in range(MAX_SESSIONS - 1)]
    with pytest.raises(ValueError, match="close one"):
        sandbox.new_session()
    sessions[3].close()
    assert sandbox.new_session().run("1").value == "1"


def test_files_are_listed_without_links_and_folders(sandbox):
    assert sandbox.list_files() == []
    sandbox.write_file("b/c/deep.txt", b"")
    sandbox.run("import os; open('a', 'w').close(); os.symlink('/etc', 'link'); os.mkdir('empty')")
    assert sandbox.list_files() == ["a", "b/c/deep.txt"]


def test_environment_variables_apply_to_one_run(sandbox):
    read = "import os; os.environ.get('NAME'), os.environ['PATH']"
    path = sandbox.run("import os; os.environ['PATH']").value
    value = "quote ' and \\ and\nnewline"
    assert eval(sandbox.run(read, environment={"NAME": value, "PATH": "/x"}).value) == (value, "/x")
    assert sandbox.run(read).value == f"(None, {path})"


@pytest.mark.parametrize("environment", [{"": "x"}, {"A=B": "x"}, {"A": "\0"}])
def test_environment_variables_are_checked(sandbox, environment):
    with pytest.raises(ValueError, match="environment variable"):
        sandbox.run("1", environment=environment)


def test_output_is_relayed_while_the_code_runs(sandbox):
    times = {}
    heard = []

    def listen(stream: str, text: str) -> None:
        times.setdefault(stream, time.monotonic())
        heard.append((stream, text))

    code = "import sys, time\nprint('é first')\nprint('err', file=sys.stderr)\ntime.sleep(1)\nprint('last')"
    result = sandbox.run(code, on_output=listen)
    assert time.monotonic() - times["stdout"] > 0.5
    assert "".join(text for stream, text in heard if stream == "stdout") == result.stdout == "é first\nlast\n"
    assert "".join(text for stream, text in heard if stream == "stderr") == result.stderr == "err\n"


def test_relayed_output_is_limited(open_sandbox):
    heard = []
    open_sandbox(output_characters=100).run("print('x' * 10**6)", on_output=lambda stream, text: heard.append(text))
    assert len("".join(heard)) < 200
    assert "no more is shown" in heard[-1]


def test_output_before_a_timeout_is_relayed(sandbox):
    heard = []
    sandbox.run("print('a')\nwhile True: pass", timeout_seconds=0.5, on_output=lambda _, text: heard.append(text))
    assert "".join(heard) == "a\n"


def test_a_listener_that_raises_ends_the_run_and_its_variables(sandbox):
    def fail(stream: str, text: str) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        sandbox.run("x = 1\nprint('a')\nwhile True: pass", on_output=fail, timeout_seconds=60)
    assert sandbox.run("'x' in globals()").value == "False"


def test_an_interrupt_raises_in_the_code_and_keeps_the_variables(sandbox):
    with ThreadPoolExecutor(1) as pool:
        sandbox.run("x = 1")
        running = pool.submit(sandbox.run, "import time\nprint('on')\ntime.sleep(60)", timeout_seconds=30)
        time.sleep(0.3)
        sandbox.interrupt()
        result = running.result(10)
    assert result.error.name == "KeyboardInterrupt"
    assert result.stdout == "on\n"
    assert "time.sleep(60)" in result.error.traceback
    assert sandbox.run("x").value == "1"


def test_an_interrupt_can_be_caught(sandbox):
    code = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    caught = True\ncaught"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(sandbox.run, code, timeout_seconds=30)
        time.sleep(0.3)
        sandbox.interrupt()
        assert running.result(10).value == "True"


def test_an_interrupt_when_nothing_runs_does_nothing(sandbox):
    sandbox.interrupt()
    sandbox.run("x = 1")
    sandbox.interrupt()
    assert sandbox.run("x").value == "1"


PNG = b"\x89PNG\r\n\x1a\n"
RICH = """
class Rich:
    def __repr__(self): return 'Rich()'
    def _repr_html_(self): return '<b>é</b>'
    def _repr_png_(self): return b'\\x89PNG\\r\\n\\x1a\\n', {'width': 1}
    def _repr_svg_(self): return '<svg/>'
    def _repr_latex_(self): return '$x$'
    def _repr_markdown_(self): return None
    def _repr_json_(self): return {'a': [1]}
    def _repr_jpeg_(self): raise RuntimeError
"""


def test_values_are_shown_in_all_their_representations(sandbox):
    result = sandbox.run(f"{RICH}\ndisplay(Rich(), 1)\nRich()")
    forms = {
        "text/plain": "Rich()",
        "text/html": "<b>é</b>",
        "image/png": base64.b64encode(PNG).decode(),
        "image/svg+xml": "<svg/>",
        "text/latex": "$x$",
        "application/json": json.dumps({"a": [1]}),
    }
    assert [(dict(show.data), show.is_result) for show in result.displays] == [
        (forms, False),
        ({"text/plain": "1"}, False),
        (forms, True),
    ]
    assert result.value == "Rich()"
    assert result.figures == (PNG,) * 2
    assert sandbox.run("1").displays == ()


def test_a_mime_bundle_is_included(sandbox):
    code = "class B:\n    def _repr_mimebundle_(self): return {'text/x-own': 'own', 'text/html': 'html'}\n"
    data = sandbox.run(f"{code}display(B())").displays[0].data
    assert (data["text/x-own"], data["text/html"]) == ("own", "html")


def test_displays_before_an_error_are_kept(sandbox):
    result = sandbox.run("display('shown')\n1 / 0")
    assert (result.error.name, result.displays[0].data) == ("ZeroDivisionError", {"text/plain": "'shown'"})


def test_displays_are_bounded(open_sandbox):
    result = open_sandbox(display_mb=1).run("display('first')\nfor _ in range(50): display('x' * 100_000)")
    assert result.displays[0].data["text/plain"] == "'first'"
    assert sum(len(show.data["text/plain"]) for show in result.displays) < 1 << 20
    assert result.limits_hit == ("displays",)


def test_mounts_are_read_only_and_survive_a_reset(open_sandbox, tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "file").write_text("in a folder")
    (tmp_path / "single").write_text("alone")
    sandbox = open_sandbox([Mount(tmp_path / "folder", "data"), Mount(tmp_path / "single", "one.txt")])
    read = "open('data/inner/file').read(), open('one.txt').read()"
    assert sandbox.run(read).value == "('in a folder', 'alone')"
    assert sandbox.new_session().run(read).value == "('in a folder', 'alone')"
    for change in ("open('data/inner/file', 'w')", "open('data/inner/new', 'w')", "open('one.txt', 'a')"):
        assert sandbox.run(change).error.name in ("OSError", "PermissionError")
    sandbox.write_file("own", b"")
    assert sandbox.list_files() == ["own"]
    for path in ("data", "data/inner/file", "one.txt"):
        with pytest.raises(ValueError, match="mount"):
            sandbox.read_file(path)
        with pytest.raises(ValueError, match="mount"):
            sandbox.write_file(path, b"")
    sandbox.reset()
    assert sandbox.run(read).value == "('in a folder', 'alone')"
    assert (tmp_path / "folder" / "inner" / "file").read_text() == "in a folder"


@pytest.mark.parametrize("target", ["", "/", "a/b", "../a", "..", ".", "a\0"])
def test_a_mount_has_a_plain_name(tmp_path, target):
    with pytest.raises(ValueError, match=r"Mount\.target"):
        Mount(tmp_path, target)


def test_a_mount_must_exist(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        Mount(tmp_path / "nothing", "data")


def test_an_interrupt_at_any_moment_reaches_only_its_own_run(sandbox):
    sandbox.run("kept = 1")
    ends = set()
    for number in range(20):
        timer = Timer(0.002 * number, sandbox.interrupt)
        timer.start()
        error = sandbox.run("for _ in range(200_000): pass", timeout_seconds=30).error
        timer.join()
        ends.add(error and error.name)
        assert sandbox.run("kept").value == "1"
    assert ends <= {None, "KeyboardInterrupt"}
