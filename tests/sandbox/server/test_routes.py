"""Our server, driven by E2B's unmodified SDK."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import e2b_code_interpreter
import pytest
from e2b_code_interpreter import charts

from toolrl.errors import ConfigError
from toolrl.sandbox import LocalSandbox, SandboxLimits
from toolrl.sandbox.local import pool
from toolrl.sandbox.server import HostSettings, SandboxServer


@pytest.fixture
def sdk(sandbox_server: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("E2B_API_KEY", "any")
    return e2b_code_interpreter


@pytest.fixture
def remote(sdk: ModuleType) -> Iterator[Any]:
    sandbox = sdk.Sandbox.create(timeout=60, metadata={"for": "tests"}, envs={"GLOBAL": "everywhere"})
    yield sandbox
    sandbox.kill()


def test_code_runs_and_executions_are_counted(remote):
    first, second = (
        remote.run_code("x = 20\nprint('out')"),
        remote.run_code("import sys; sys.stderr.write('err'); x * 2"),
    )
    assert (first.logs.stdout, first.text, first.execution_count) == (["out\n"], None, 1)
    assert (second.logs.stderr, second.text, second.execution_count) == (["err"], "40", 2)


def test_output_is_streamed_while_the_code_runs(remote):
    came = []
    remote.run_code("import time\nprint(1)\ntime.sleep(1)\nprint(2)", on_stdout=lambda _: came.append(time.monotonic()))
    assert came[1] - came[0] > 0.5


def test_results_have_all_their_representations(remote):
    code = "class R:\n    def _repr_html_(self): return '<b>'\n    def _repr_json_(self): return {'a': 1}\n"
    results = remote.run_code(f"{code}display(R(), 'text')\nR()").results
    assert [(result.html, result.json, result.is_main_result) for result in results] == [
        ("<b>", {"a": 1}, False),
        (None, None, False),
        ("<b>", {"a": 1}, True),
    ]


def test_invalid_json_is_sent_as_text(remote):
    execution = remote.run_code("class R:\n    def _repr_json_(self): return '{'\nR()")
    assert (execution.error, execution.results[0].json) == (None, "{")


RULE = "-" * 75


@pytest.mark.parametrize(
    ("code", "name", "traceback"),
    [
        (
            "def f():\n    return 1 / 0\nf()",
            "ZeroDivisionError",
            [
                RULE,
                "ZeroDivisionError                         Traceback (most recent call last)",
                "Cell In[2], line 3",
                "----> 3 f()",
                "",
                "Cell In[2], line 2, in f()",
                "----> 2     return 1 / 0",
                "",
                "ZeroDivisionError: division by zero",
            ],
        ),
        ("a b", "SyntaxError", ["  Cell In[2], line 1", "    a b", "      ^", "SyntaxError: invalid syntax"]),
        (
            "\nearlier(0)",
            "ZeroDivisionError",
            [
                RULE,
                "ZeroDivisionError                         Traceback (most recent call last)",
                "Cell In[2], line 2",
                "----> 2 earlier(0)",
                "",
                "File <tool>:1, in earlier()",
                "----> 1 def earlier(n): return 1 / n",
                "",
                "ZeroDivisionError: division by zero",
            ],
        ),
        (
            "import json\ntry: json.loads('{')\nexcept ValueError as error: raise KeyError('no') from error",
            "KeyError",
            [
                RULE,
                "JSONDecodeError                           Traceback (most recent call last)",
                "Cell In[2], line 2",
                "----> 2 try: json.loads('{')",
                "",
                "JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
                "",
                "The above exception was the direct cause of the following exception:",
                "",
                "KeyError                                  Traceback (most recent call last)",
                "Cell In[2], line 3",
                "----> 3 except ValueError as error: raise KeyError('no') from error",
                "",
                "KeyError: 'no'",
            ],
        ),
    ],
)
def test_errors_look_like_ipythons(remote, code, name, traceback):
    remote.run_code("def earlier(n): return 1 / n")
    execution = remote.run_code(code)
    assert execution.execution_count == 2
    assert (execution.error.name, execution.error.traceback.splitlines()) == (name, traceback)


FIGURES = """
import matplotlib.pyplot as plt
plt.plot([1, 2, 3], [1, 4, 9], label="squares")
plt.xlabel("n")
plt.title("growth")
plt.show()
plt.bar(["a", "b"], [1, 2])
plt.show()
plt.pie([1, 3], labels=["x", "y"])
plt.show()
"""


def test_charts_are_the_sdks_own_types():
    with SandboxServer(HostSettings(packages=True)) as server:
        options = {"api_url": server.url, "sandbox_url": server.url, "api_key": "any"}
        results = e2b_code_interpreter.Sandbox.create(**options).run_code(FIGURES).results
    line, bar, pie = (result.chart for result in results)
    assert isinstance(line, charts.LineChart)
    assert (line.title, line.x_label, line.elements[0].label) == ("growth", "n", "squares")
    assert line.elements[0].points == [(1, 1), (2, 4), (3, 9)]
    assert isinstance(bar, charts.BarChart)
    assert [(element.label, float(element.value)) for element in bar.elements] == [("a", 1.0), ("b", 2.0)]
    assert isinstance(pie, charts.PieChart)
    assert all(base64.b64decode(result.png).startswith(b"\x89PNG") for result in results)


MANY = 16


def test_many_sandboxes_at_once_each_with_its_own_state(sdk, sandbox_server):
    together, before = Barrier(MANY), set(sandbox_server.hosting.all())

    def use(number: int) -> tuple[Any, ...]:
        sandbox = sdk.Sandbox.create(timeout=60)
        together.wait()
        sandbox.run_code(f"x = {number}")
        sandbox.files.write("file", str(number))
        came: list[str] = []
        execution = sandbox.run_code(
            "print(open('file').read())\nx", on_stdout=lambda message: came.append(message.line)
        )
        return sandbox.kill(), execution.text, came, execution.execution_count

    with ThreadPoolExecutor(MANY) as pool:
        answers = list(pool.map(use, range(MANY)))
    assert answers == [(True, str(number), [f"{number}\n"], 2) for number in range(MANY)]
    assert set(sandbox_server.hosting.all()) <= before


def test_many_sandboxes_at_once_from_the_asynchronous_client(sdk, sandbox_server):
    async def use(number: int, together: asyncio.Barrier) -> tuple[Any, ...]:
        sandbox = await sdk.AsyncSandbox.create(timeout=60)
        await together.wait()
        context = await sandbox.create_code_context(cwd="/home/user/inner")
        await sandbox.run_code(f"x = {number}", context=context)
        await sandbox.files.write("inner/file", str(number))
        execution = await sandbox.run_code("print(open('file').read())\nx", context=context)
        return await sandbox.kill(), execution.text, execution.logs.stdout

    before = set(sandbox_server.hosting.all())

    async def use_all() -> list[tuple[Any, ...]]:
        together = asyncio.Barrier(MANY)
        return await asyncio.gather(*(use(number, together) for number in range(MANY)))

    assert asyncio.run(use_all()) == [(True, str(number), [f"{number}\n"]) for number in range(MANY)]
    assert set(sandbox_server.hosting.all()) <= before


def test_environment_variables_apply_to_the_sandbox_or_to_one_run(remote):
    read = "import os; os.environ.get('GLOBAL'), os.environ.get('ONCE')"
    assert remote.run_code(read, envs={"ONCE": "it's"}).text == "('everywhere', \"it's\")"
    assert remote.run_code(read).text == "('everywhere', None)"


def test_contexts_have_their_own_variables_and_folders(remote):
    context = remote.create_code_context(cwd="/home/user/inner")
    remote.run_code("x = 1")
    assert remote.run_code("'x' in globals()", context=context).text == "False"
    remote.run_code("y = 2; open('file', 'w').write('text')", context=context)
    assert remote.files.read("/home/user/inner/file") == "text"
    assert [one.id for one in remote.list_code_contexts()][1:] == [context.id]
    remote.restart_code_context(context)
    code = "'y' in globals(), __import__('os').listdir()"
    assert remote.run_code(code, context=context).text == "(False, ['file'])"
    remote.remove_code_context(context)
    assert len(remote.list_code_contexts()) == 1
    with pytest.raises(Exception, match="not found"):
        remote.run_code("1", context=context)


def test_a_process_that_exits_is_a_restarted_context(remote):
    assert remote.run_code("import os; os._exit(1)").error.name == "ContextRestarting"
    assert remote.run_code("1").text == "1"


def test_code_is_interrupted_when_its_client_gives_up(remote, sdk):
    remote.run_code("import time; x = 1")
    with pytest.raises(sdk.TimeoutException):
        remote.run_code("try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    x = 2", timeout=0.5)
    assert remote.run_code("x", timeout=10).text == "2"


def test_files_and_folders(remote, sdk):
    files = remote.files
    files.write("a/text", "text")
    content = bytes(range(256)) * 3 + b"\n\r\n--\r\n"
    files.write_files([{"path": "a/bytes", "data": content}, {"path": "/home/user/b", "data": ""}])
    assert files.read("/home/user/a/bytes", format="bytes") == content
    assert [entry.path for entry in files.list("/home/user", depth=2)] == [
        f"/home/user/{path}" for path in ("a", "a/bytes", "a/text", "b")
    ]
    assert files.make_dir("c/d")
    files.rename("a/text", "c/d/text")
    info = files.get_info("c/d/text")
    assert (info.type, info.size, info.name) == (sdk.FileType.FILE, 4, "text")
    remote.run_code("import os; os.symlink('/etc', 'link')")
    assert files.get_info("link").symlink_target == "/etc"
    files.remove("c")
    assert not files.exists("c")
    assert files.exists("a")
    for path in ("nothing", "a/nothing"):
        with pytest.raises(sdk.FileNotFoundException):
            files.read(path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "link/passwd"])
def test_only_files_in_the_working_directory_are_served(remote, path):
    remote.run_code("import os; os.symlink('/etc', 'link')")
    with pytest.raises(Exception, match=r"inside|link"):
        remote.files.read(path)
    with pytest.raises(Exception, match=r"inside|link"):
        remote.files.write(path, "x")


def test_sandboxes_are_listed_found_and_killed(remote, sdk):
    assert remote.sandbox_id in [info.sandbox_id for info in sdk.Sandbox.list().next_items()]
    assert remote.get_info().metadata == {"for": "tests"}
    assert sdk.Sandbox.connect(remote.sandbox_id).run_code("1").text == "1"
    assert remote.is_running()
    assert remote.kill()
    assert not remote.is_running()
    assert not remote.kill()
    with pytest.raises(sdk.TimeoutException, match="not found"):
        remote.run_code("1")


def test_a_sandbox_expires_even_while_code_runs(remote, sdk):
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(remote.run_code, "while True: pass", timeout=30)
        time.sleep(0.3)
        remote.set_timeout(0)
        with pytest.raises(sdk.TimeoutException, match="sandbox was killed while the request was in progress"):
            running.result(10)
    assert not remote.is_running()


def test_the_number_of_sandboxes_is_limited():
    with SandboxServer(HostSettings(max_sandboxes=1)) as server:
        options = {"api_url": server.url, "sandbox_url": server.url, "api_key": "any", "retries": 0}
        first = e2b_code_interpreter.Sandbox.create(**options)
        with pytest.raises(e2b_code_interpreter.RateLimitException, match="1 sandboxes"):
            e2b_code_interpreter.Sandbox.create(**options)
        first.kill()
        assert e2b_code_interpreter.Sandbox.create(**options).run_code("1").text == "1"


def test_a_key_is_required_where_one_is_set():
    with SandboxServer(HostSettings(api_key="right")) as server:
        options = {"api_url": server.url, "sandbox_url": server.url}
        with pytest.raises(e2b_code_interpreter.AuthenticationException):
            e2b_code_interpreter.Sandbox.create(api_key="wrong", **options)
        sandbox = e2b_code_interpreter.Sandbox.create(api_key="right", **options)
        assert sandbox.run_code("1", context=sandbox.create_code_context()).text == "1"
        sandbox.files.write("a", "b")
        for path, headers in (("/sandboxes", {}), ("/contexts", {"E2b-Sandbox-Id": sandbox.sandbox_id})):
            assert ask(server, "GET", path, headers=headers)[0] == 401


def test_with_a_key_other_machines_can_be_served():
    with SandboxServer(HostSettings(api_key="right"), host="0.0.0.0") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        options = {"api_url": url, "sandbox_url": url}
        with pytest.raises(e2b_code_interpreter.AuthenticationException):
            e2b_code_interpreter.Sandbox.create(api_key="any", **options)
        assert e2b_code_interpreter.Sandbox.create(api_key="right", **options).run_code("1").text == "1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
def test_a_key_must_be_set_beyond_loopback(host):
    with pytest.raises(ConfigError, match="API key"):
        SandboxServer(host=host)


def test_a_server_without_enough_isolation_does_not_start(monkeypatch):
    monkeypatch.setenv("TOOLRL_ISOLATION", "some")
    with pytest.raises(ConfigError, match="isolation must be one of"):
        SandboxServer()


def test_files_of_the_server_are_inaccessible(remote, tmp_path):
    (tmp_path / "secret").write_text("do-not-tell")
    code = f"import os\nos.symlink({str(tmp_path)!r}, 'way')\nopen('way/secret').read()"
    assert remote.run_code(code).error.name in ("PermissionError", "FileNotFoundError")
    assert remote.run_code("import socket; socket.socket()").error.name == "PermissionError"


def ask(
    server: SandboxServer, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/health", b"", 200),
        ("GET", "/nothing", b"", 404),
        ("PUT", "/sandboxes", b"", 405),
        ("POST", "/sandboxes", b"no json", 400),
        ("POST", "/sandboxes", b"[]", 400),
        ("POST", "/sandboxes/none/timeout", b"{}", 404),
        ("POST", "/execute", b"{}", 502),
    ],
)
def test_malformed_requests_are_answered_and_the_server_keeps_running(sandbox_server, method, path, body, status):
    assert ask(sandbox_server, method, path, body)[0] == status
    assert ask(sandbox_server, "GET", "/health") == (200, b'"OK"')


def test_a_length_that_is_not_a_number_is_answered(sandbox_server):
    assert ask(sandbox_server, "POST", "/sandboxes", b"{}", {"Content-Length": "some"})[0] == 400
    assert ask(sandbox_server, "GET", "/health") == (200, b'"OK"')


def test_a_sandbox_that_cannot_be_opened_is_a_server_error(sandbox_server, monkeypatch, capfd):
    monkeypatch.setenv("TOOLRL_SANDBOXES", "1")
    monkeypatch.setattr(pool, "_OPEN_SECONDS", 0.1)
    with LocalSandbox():
        status, answer = ask(sandbox_server, "POST", "/sandboxes", b"{}")
    assert status == 500
    assert "1 sandboxes are open" in json.loads(answer)["message"]
    assert "Traceback" not in capfd.readouterr().err


def test_an_abandoned_server_leaves_no_sandbox(capfd):
    with SandboxServer(HostSettings(SandboxLimits())) as server:
        status, answer = ask(server, "POST", "/sandboxes", b"{}")
        hosted = server.hosting.get(json.loads(answer)["sandboxID"])
    assert status == 201
    assert hosted is not None
    with pytest.raises(ValueError, match="closed"):
        hosted.sandbox.run("1")
