"""The promises of a hosted sandbox to its client, whatever the code and other clients do."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import e2b_code_interpreter
import httpx
import pytest

from tests.raw_http import answered, connected, exchange, request
from toolrl.sandbox.server import HostSettings, SandboxServer


@pytest.fixture
def remote(sandbox_server: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("E2B_API_KEY", "any")
    sandbox = e2b_code_interpreter.Sandbox.create(timeout=60)
    yield sandbox
    sandbox.kill()


def asked(server: SandboxServer, remote: Any, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """Status and JSON of the answer to a raw request to a sandbox."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = request(method, path, content, E2b_Sandbox_Id=remote.sandbox_id, **headers)
    return answered(exchange(server.url, sent))


TAKEN_OVER = """
import builtins, json, os, shutil, stat, sys
for name in ("shutil", "json", "os", "stat", "datetime", "base64", "encodings", "sitecustomize", "usercustomize", "re"):
    open(name + ".py", "w").write("print('forged'); raise SystemExit('forged')")
def forged(*_, **__): raise RuntimeError("forged")
for name in ("listdir", "lstat", "rename", "makedirs", "unlink", "getcwd", "readlink"): setattr(os, name, forged)
json.dumps = json.loads = shutil.rmtree = builtins.print = forged
sys.modules["shutil"] = None
home = "/elsewhere"
"""


def test_code_cannot_interfere_with_file_requests(remote: Any) -> None:
    assert remote.run_code("open('a', 'w').write('text'); None").error is None
    remote.run_code(TAKEN_OVER)  # which may kill its own session
    files = remote.files
    files.make_dir("d/e")
    files.rename("a", "d/a")
    assert [entry.name for entry in files.list("d")] == ["a", "e"]
    assert files.get_info("d/a").size == 4
    assert files.read("d/a") == "text"
    files.remove("d")
    assert not files.exists("d")
    assert "shutil.py" in [entry.name for entry in files.list("/home/user")]


def test_a_tree_deeper_than_the_stack_is_removed(remote: Any) -> None:
    code = (
        "import os\nfor _ in range(1500): os.mkdir('d'); open('f', 'w').close(); os.chdir('d')\nos.chdir('/home/user')"
    )
    assert remote.run_code(code).error is None
    assert len(remote.files.list("/home/user", depth=50)) == 100
    remote.files.remove("d")
    assert [entry.name for entry in remote.files.list("/home/user")] == ["f"]


def test_links_are_listed_and_not_followed(remote: Any) -> None:
    code = (
        "import os\nos.makedirs('d'); open('d/f', 'w').write('x')\nos.symlink('f', 'd/to_f'); os.symlink('/etc', 'out')"
    )
    assert remote.run_code(code).error is None
    info = remote.files.get_info("d/to_f")
    assert (info.symlink_target, info.type.value) == ("/home/user/d/f", "file")
    assert remote.files.get_info("out").symlink_target == "/etc"
    for path in ("out/passwd", "/etc/passwd", "../../etc/passwd", "/home/user/../x", "/"):
        for ask in (remote.files.list, remote.files.get_info, remote.files.read, remote.files.make_dir):
            with pytest.raises(Exception, match=r"inside it|symbolic link"):
                ask(path)
    remote.files.remove("out")
    assert not remote.files.exists("out")


def test_moving_a_missing_file_creates_no_folders(remote: Any) -> None:
    with pytest.raises(e2b_code_interpreter.FileNotFoundException, match="'nothing' does not exist"):
        remote.files.rename("nothing", "new/place")
    assert not remote.files.exists("new")


def test_a_file_name_that_is_not_utf8_does_not_break_a_listing(remote: Any) -> None:
    assert remote.run_code("for name in (b'\\xff', '\\u00e9'): open(name, 'w').close()").error is None
    assert [entry.name for entry in remote.files.list("/home/user")] == ["\u00e9", "?"]


def test_code_and_files_share_the_home_folder(remote: Any) -> None:
    remote.files.write("/home/user/in.txt", "from outside")
    code = "import os\nopen('/home/user/out.txt', 'w').write(open('in.txt').read())\nos.getcwd(), os.environ['HOME']"
    assert remote.run_code(code).text == "('/home/user', '/home/user')"
    assert remote.files.read("out.txt") == "from outside"


def test_compressed_uploads_are_unpacked_up_to_a_limit(sandbox_server: SandboxServer, remote: Any) -> None:
    remote.files.write("a", "text" * 100, gzip=True)
    assert remote.files.read("a") == "text" * 100
    ask = lambda body, coding: asked(sandbox_server, remote, "POST", "/files?path=b", body, Content_Encoding=coding)[0]
    assert ask(gzip.compress(bytes(1 << 28)), "gzip") == 413
    assert ask(gzip.compress(b"cut")[:-4], "gzip") == 413
    assert ask(b"no gzip", "gzip") == 400
    assert ask(b"x", "br") == 415
    assert not remote.files.exists("b")


def test_forms_without_a_file_are_refused(sandbox_server: SandboxServer, remote: Any) -> None:
    for kind, body in (
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--"),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\n--c--\r\n--b--",
        ),
        ("multipart/form-data; boundary=" + "b" * 200, b""),
    ):
        assert asked(sandbox_server, remote, "POST", "/files", body, Content_Type=kind)[0] == 400
    assert asked(sandbox_server, remote, "POST", "/files", b"x")[0] == 400
    assert asked(sandbox_server, remote, "GET", "/files")[0] == 400


WRONG = (None, True, [], {}, "text", "1", -1, 1e400, -0.5, "NaN")


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_values_of_the_wrong_type_are_refused_everywhere(
    sandbox_server: SandboxServer, remote: Any, wrong: object
) -> None:
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/sandboxes", {"timeout": wrong}),
        ("/sandboxes", {"metadata": wrong}),
        ("/sandboxes", {"envVars": {"a": wrong}}),
        ("/sandboxes", {"templateID": wrong}),
        (f"/sandboxes/{remote.sandbox_id}/timeout", {"timeout": wrong}),
        (f"/v2/sandboxes/{remote.sandbox_id}/connect", {"timeout": wrong}),
        ("/execute", {"code": wrong}),
        ("/execute", {"code": "1", "context_id": wrong}),
        ("/execute", {"code": "1", "env_vars": {"a": wrong}}),
        ("/contexts", {"cwd": wrong}),
        ("/filesystem.Filesystem/Stat", {"path": wrong}),
        ("/filesystem.Filesystem/ListDir", {"path": ".", "depth": wrong}),
        ("/filesystem.Filesystem/Move", {"source": "a", "destination": wrong}),
    ]
    for path, body in bodies:
        inner = list(body.items())[-1]
        optional = wrong is None and inner[0] not in ("code", "path", "destination", "envVars", "env_vars")
        text = isinstance(wrong, str) and inner[0] not in ("timeout", "metadata", "depth")
        if (optional and not path.endswith("/timeout")) or text or (wrong == {} and inner[0] == "metadata"):
            continue  # valid here
        assert asked(sandbox_server, remote, "POST", path, body)[0] == 400, (path, body)


@pytest.mark.parametrize("seconds", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1", b"9" * 400, b'"5"', b"true"])
def test_invalid_timeouts_are_refused(sandbox_server: SandboxServer, remote: Any, seconds: bytes) -> None:
    body = b'{"timeout": ' + seconds + b"}"
    for path in ("/sandboxes", f"/sandboxes/{remote.sandbox_id}/timeout", f"/sandboxes/{remote.sandbox_id}/connect"):
        assert asked(sandbox_server, remote, "POST", path, body)[0] == 400


def test_a_client_cannot_exceed_the_longest_lifetime(sandbox_server: SandboxServer, remote: Any) -> None:
    remote.set_timeout(10**9)
    left = remote.get_info().end_at.timestamp() - time.time()
    assert 86_000 < left <= 86_400


def test_at_the_limit_every_context_can_be_restarted_and_removed(remote: Any) -> None:
    contexts = remote.list_code_contexts() + [remote.create_code_context() for _ in range(14)]
    with pytest.raises(Exception, match="at most 16 sessions"):
        remote.create_code_context()
    for context in contexts:
        remote.run_code("x = 1", context=context)
        remote.restart_code_context(context)
        assert remote.run_code("x", context=context).error.name == "NameError"
    for context in contexts:
        remote.remove_code_context(context)
    assert remote.list_code_contexts() == []
    with pytest.raises(Exception, match="Context default not found"):
        remote.run_code("1")
    assert remote.run_code("1", context=remote.create_code_context()).text == "1"


def test_connecting_does_not_shorten_a_sandboxs_lifetime(remote: Any) -> None:
    remote.set_timeout(600)
    e2b_code_interpreter.Sandbox.connect(remote.sandbox_id, timeout=10)
    assert remote.get_info().end_at.timestamp() - time.time() > 500
    e2b_code_interpreter.Sandbox.connect(remote.sandbox_id, timeout=900)
    assert remote.get_info().end_at.timestamp() - time.time() > 800


@pytest.mark.parametrize("variables", [{"": "x"}, {"a=b": "x"}, {"a": "\0"}, {"a\0": "x"}])
def test_invalid_environment_variables_are_refused(
    sandbox_server: SandboxServer, remote: Any, variables: dict[str, str]
) -> None:
    assert asked(sandbox_server, remote, "POST", "/sandboxes", {"envVars": variables})[0] == 400
    assert asked(sandbox_server, remote, "POST", "/execute", {"code": "1", "env_vars": variables})[0] == 400


def test_other_languages_are_refused_by_name(remote: Any) -> None:
    with pytest.raises(Exception, match="no kernel for 'bash': only python"):
        remote.run_code("echo", language="bash")
    assert remote.run_code("1", language="Python").text == "1"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("'it'", "it"),
        ("'it\\'s'", "it's"),
        ("['it']", "['it']"),
        ("''", ""),
        ('"\'"', "'"),
        ("b'x'", "b'x'"),
        ("'", None),
    ],
)
def test_a_string_is_shown_without_its_quotes(remote: Any, code: str, text: str | None) -> None:
    assert remote.run_code(code).text == text


def test_lists_and_dicts_come_as_json_too(remote: Any) -> None:
    assert remote.run_code("{'a': [1, 2.5, None, True]}").results[0].json == {"a": [1, 2.5, None, True]}
    assert remote.run_code("[1, {2}]").results[0].json is None
    assert remote.run_code("[float('nan'), 1]").results[0].json == [None, 1]
    execution = remote.run_code("x = []; x.append(x); x")
    assert (execution.error, execution.text) == (None, "[[...]]")


def test_displays_that_are_too_large_are_reported(remote: Any) -> None:
    execution = remote.run_code("display({'text/plain': 'x' * (10 << 20)}, raw=True); display(1)")
    assert [result.text for result in execution.results] == ["1"]
    assert "left out" in execution.logs.stderr[0]


def test_data_frames_and_images_have_e2bs_formats() -> None:
    pytest.importorskip("pandas")
    with SandboxServer(HostSettings(packages=True)) as server:
        options = {"api_url": server.url, "sandbox_url": server.url, "api_key": "any"}
        sandbox = e2b_code_interpreter.Sandbox.create(**options)
        code = "import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': pd.to_datetime(['2026-01-01', None])})"
        (frame,) = sandbox.run_code(code).results
        assert frame.data == {"a": [1, 2], "b": ["2026-01-01T00:00:00", "NaT"]}
        assert "<table" in frame.html
        code = "from PIL import Image\nimage = Image.new('L', (2, 2))\nimage.save('a.png')\nimage.save('b.png')"
        assert [bool(result.png) for result in sandbox.run_code(code).results] == [True, True]
        sandbox.kill()


def test_sandboxes_are_listed_by_metadata_in_pages_newest_first(remote: Any) -> None:
    mine = {"test": str(time.time_ns())}
    made = [e2b_code_interpreter.Sandbox.create(metadata=mine) for _ in range(3)]
    query = e2b_code_interpreter.SandboxQuery(metadata=mine)
    pages = e2b_code_interpreter.Sandbox.list(query=query, limit=2)
    found = [[info.sandbox_id for info in pages.next_items()] for _ in range(2)]
    assert found == [[made[2].sandbox_id, made[1].sandbox_id], [made[0].sandbox_id]]
    assert not pages.has_next
    query = e2b_code_interpreter.SandboxQuery(metadata={**mine, "x": "y"})
    assert e2b_code_interpreter.Sandbox.list(query=query).next_items() == []
    for sandbox in made:
        sandbox.kill()


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "limit=1e9", "nextToken=%00", "nextToken=" + "9" * 30])
def test_invalid_pages_are_refused(sandbox_server: SandboxServer, remote: Any, query: str) -> None:
    assert asked(sandbox_server, remote, "GET", f"/v2/sandboxes?{query}")[0] == 400


def test_creating_a_sandbox_is_idempotent_per_key(sandbox_server: SandboxServer) -> None:
    before = len(sandbox_server.hosting.all())
    ask = lambda _: httpx.post(f"{sandbox_server.url}/sandboxes", json={}, headers={"Idempotency-Key": "once"})
    with ThreadPoolExecutor(8) as pool:
        identifiers = {reply.json()["sandboxID"] for reply in pool.map(ask, range(8))}
    assert len(identifiers) == 1
    assert len(sandbox_server.hosting.all()) == before + 1
    assert sandbox_server.hosting.kill(identifiers.pop())


def test_a_queued_run_whose_client_leaves_never_starts(
    sandbox_server: SandboxServer, remote: Any, eventually: Callable[..., bool]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(remote.run_code, "import time\ntime.sleep(2)\n'undisturbed'")
        time.sleep(0.5)
        body = json.dumps({"code": "open('begun', 'w').close()"}).encode()
        with connected(sandbox_server.url) as connection:
            connection.sendall(request("POST", "/execute", body, E2b_Sandbox_Id=remote.sandbox_id))
            time.sleep(0.5)
        assert first.result().text == "undisturbed"
    assert remote.run_code("import os; os.path.exists('begun')").text == "False"


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.1, 0.5])
def test_a_run_whose_client_leaves_is_interrupted_however_early(
    sandbox_server: SandboxServer, remote: Any, seconds: float
) -> None:
    body = json.dumps({"code": "import time\ntime.sleep(50)"}).encode()
    with connected(sandbox_server.url) as connection:
        connection.sendall(request("POST", "/execute", body, E2b_Sandbox_Id=remote.sandbox_id))
        time.sleep(seconds)
    started = time.monotonic()
    assert remote.run_code("1", timeout=20).text == "1"
    assert time.monotonic() - started < 10


def test_a_sandbox_killed_during_a_run_does_not_look_restarted(sandbox_server: SandboxServer, remote: Any) -> None:
    body = json.dumps({"code": "print(1)\nimport time\ntime.sleep(50)"}).encode()
    with connected(sandbox_server.url, 20) as connection:
        connection.sendall(request("POST", "/execute", body, E2b_Sandbox_Id=remote.sandbox_id))
        received = connection.recv(1 << 16)
        time.sleep(0.5)
        assert remote.kill()
        while chunk := connection.recv(1 << 16):
            received += chunk
    assert b'"stdout"' in received
    assert b'"error"' not in received
    assert not received.endswith(b"0\r\n\r\n")  # the end of a complete answer


def test_streamed_output_is_complete_and_in_order(remote: Any) -> None:
    came: list[tuple[str, str]] = []
    code = "import sys, time\nfor n in range(5):\n    print(n)\n    time.sleep(0.1)\n"
    code += "sys.stderr.write('é\\U0001f600'); display(1); 2"
    execution = remote.run_code(
        code,
        on_stdout=lambda message: came.append(("out", message.line)),
        on_stderr=lambda message: came.append(("err", message.line)),
        on_result=lambda result: came.append(("result", result.text)),
    )
    assert "".join(text for kind, text in came if kind == "out") == "0\n1\n2\n3\n4\n"
    assert came[-3:] == [("err", "é\U0001f600"), ("result", "1"), ("result", "2")]
    assert len("".join(remote.run_code("print('x' * 500_000)").logs.stdout)) == 500_001
    assert execution.error is None


@pytest.mark.slow
def test_a_silent_run_is_kept_alive(sandbox_server: SandboxServer, remote: Any) -> None:
    body = json.dumps({"code": "import time\ntime.sleep(6)\n3"}).encode()
    sent = request("POST", "/execute", body, E2b_Sandbox_Id=remote.sandbox_id)
    with connected(sandbox_server.url, 20) as connection:
        connection.sendall(sent)
        received = b""
        while chunk := connection.recv(1 << 16):
            received += chunk
    kinds = [json.loads(line)["type"] for line in received.split(b"\r\n") if line.startswith(b"{")]
    assert kinds == ["number_of_executions", "keepalive", "result", "end_of_execution"]


def test_one_busy_sandbox_leaves_room_for_the_others(sandbox_server: SandboxServer, remote: Any) -> None:
    other = e2b_code_interpreter.Sandbox.create()
    other.run_code("for n in range(8_000): open(f'f{n}', 'w').close()")
    over = threading.Event()

    def lists() -> None:
        while not over.is_set():
            other.files.list("/home/user")

    with ThreadPoolExecutor(12) as pool:
        for _ in range(12):
            pool.submit(lists)
        time.sleep(0.5)
        started = time.monotonic()
        remote.files.write("a", "b")
        assert remote.files.read("a") == "b"
        assert time.monotonic() - started < 10
        over.set()
    other.kill()
