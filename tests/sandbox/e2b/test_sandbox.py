"""The E2B backend beyond the contract, against our server and one that misbehaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Timer
from typing import Any

import pytest

from toolrl import Task, ToolCall, ToolEnv, call
from toolrl.errors import ConfigError, MissingExtra, SandboxFault
from toolrl.sandbox.e2b import E2BFleet, E2BSandbox, E2BSettings, shared_fleet
from toolrl.sandbox.server import HostSettings, SandboxServer
from toolrl.support.event_loop import run_sync
from toolrl.tools import Toolbox, python_tool
from toolrl.tools.resources import ResourceScope


@pytest.fixture
def open_fleet(sandbox_server) -> Iterator[Callable[..., E2BFleet]]:
    """Opens fleets on our server."""
    fleets = []

    def open_one(**settings: Any) -> E2BFleet:
        fleets.append(E2BFleet(E2BSettings(**{"api_key": "any", "starts_per_second": 1000.0, **settings})))
        return fleets[-1]

    yield open_one
    for fleet in fleets:
        fleet.close()


def test_without_the_sdk_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "e2b_code_interpreter", None)
    with pytest.raises(MissingExtra, match=r"toolrl\[e2b\]"):
        E2BSandbox(settings=E2BSettings(api_key="any"))


@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf")])
def test_a_price_must_be_finite_and_not_negative(price):
    with pytest.raises(ValueError, match="dollars_per_hour"):
        E2BSettings(dollars_per_hour=price)


def test_without_a_key_the_error_names_the_alternatives(monkeypatch):
    monkeypatch.delenv("E2B_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"E2B_API_KEY.*toolrl sandbox serve"):
        E2BSandbox()


def test_the_repr_of_settings_hides_the_key():
    assert "secret" not in repr(E2BSettings(api_key="secret"))


def test_a_reused_machine_shows_nothing_of_the_previous_episode(open_fleet):
    fleet = open_fleet(max_concurrent=1)
    with E2BSandbox(fleet=fleet) as first:
        first.run("x = 1; open('file', 'w').close()")
        remote = first.workspace.machine
        first.new_session().run("import os; os.makedirs('a/b'); os.chmod('a', 0)")
    with E2BSandbox(fleet=fleet) as second:
        assert second.workspace.machine is remote
        assert second.run("'x' in globals(), __import__('os').listdir()").value == "(False, [])"
        assert len(remote.sdk.list_code_contexts()) == 2
    assert (fleet.usage.started, fleet.usage.reused, fleet.usage.lost) == (1, 1, 0)


def test_a_machine_serves_once_if_reuse_is_off(open_fleet, sandbox_server):
    fleet = open_fleet(reuse=False)
    with E2BSandbox(fleet=fleet) as sandbox:
        identifier = sandbox.workspace.machine.sdk.sandbox_id
    assert sandbox_server.hosting.get(identifier) is None


def test_usage_and_costs_are_counted(open_fleet):
    fleet = open_fleet(dollars_per_hour=3600.0)
    with E2BSandbox(fleet=fleet):
        time.sleep(0.2)
    assert fleet.usage.sandbox_seconds >= 0.2
    assert fleet.usage.dollars == pytest.approx(fleet.usage.sandbox_seconds, abs=0.5)


def test_usage_is_charged_to_the_sandbox_that_caused_it(open_fleet, sandbox_server):
    fleet = open_fleet(dollars_per_hour=36.0, max_concurrent=1)
    with E2BSandbox(fleet=fleet) as first:
        assert first.usage == {}
    time.sleep(0.2)
    with E2BSandbox(fleet=fleet) as second:
        sandbox_server.hosting.kill(second.workspace.machine.sdk.sandbox_id)
        with pytest.raises(SandboxFault):
            second.run("1")
        second.reset()
    assert (first.usage["sandboxes_started"], first.usage["sandbox_faults"]) == (1, 0)
    assert (second.usage["sandboxes_started"], second.usage["sandbox_faults"]) == (1, 1)
    assert second.usage["sandbox_seconds"] >= 0.2  # idle time too
    charged = [sandbox.usage[name] for sandbox in (first, second) for name in ("sandbox_seconds", "sandbox_dollars")]
    fleet.close()
    assert charged[0] + charged[2] <= fleet.usage.sandbox_seconds
    assert charged[1] + charged[3] == pytest.approx((charged[0] + charged[2]) / 100)


def test_an_episode_reports_the_usage_of_its_sandbox(open_fleet):
    fleet = open_fleet()
    tools = [python_tool(sandbox=lambda limits: E2BSandbox(limits, fleet=fleet), session="call")]
    env = ToolEnv(tasks=[Task("t", "?", "42")], tools=tools, reward=lambda task, episode: 1.0)
    session = env.open_episode(env.tasks[0])
    for _ in range(2):
        run_sync(session.advance(call("python", code="6 * 7")))
    run_sync(session.close())
    assert [result.content for result in session.results] == ["42", "42"]
    assert session.usage["sandboxes_started"] == 1
    assert 0 < session.usage["sandbox_seconds"] <= fleet.usage.sandbox_seconds


def test_concurrency_is_limited_and_waiting_is_bounded(open_fleet):
    fleet = open_fleet(max_concurrent=1, wait_seconds=0.3)
    with E2BSandbox(fleet=fleet), pytest.raises(SandboxFault, match="all 1 are in use"):
        E2BSandbox(fleet=fleet)
    E2BSandbox(fleet=fleet).close()


def test_sandboxes_start_no_faster_than_allowed(open_fleet):
    fleet = open_fleet(starts_per_second=2.0)
    began = time.monotonic()
    opened = [E2BSandbox(fleet=fleet) for _ in range(3)]
    assert time.monotonic() - began >= 1.0
    for sandbox in opened:
        sandbox.close()


def test_closing_the_fleet_ends_leased_machines(open_fleet, sandbox_server):
    fleet = open_fleet()
    sandbox = E2BSandbox(fleet=fleet)
    identifier = sandbox.workspace.machine.sdk.sandbox_id
    fleet.close()
    assert sandbox_server.hosting.get(identifier) is None
    with pytest.raises(SandboxFault, match="closed"):
        E2BSandbox(fleet=fleet)


def test_a_machine_that_vanished_is_a_fault_until_reset(open_fleet, sandbox_server):
    fleet = open_fleet()
    with E2BSandbox(fleet=fleet) as sandbox:
        sandbox.run("x = 1")
        sandbox_server.hosting.kill(sandbox.workspace.machine.sdk.sandbox_id)
        for _ in range(2):
            with pytest.raises(SandboxFault):
                sandbox.run("x")
        with pytest.raises(SandboxFault):
            sandbox.list_files()
        sandbox.reset()
        assert sandbox.run("'x' in globals()").value == "False"
    assert fleet.usage.lost == 1


def test_a_machine_that_vanishes_during_a_run_is_a_fault(open_fleet, sandbox_server):
    fleet = open_fleet()
    with E2BSandbox(fleet=fleet) as sandbox:
        sandbox.run("1")
        end = Timer(0.3, lambda: sandbox_server.hosting.kill(sandbox.workspace.machine.sdk.sandbox_id))
        end.start()
        with pytest.raises(SandboxFault):
            sandbox.run("while True: pass", timeout_seconds=20)
        sandbox.reset()
        assert sandbox.run("import os; os._exit(1)").error.name == "SandboxDied"
    assert fleet.usage.lost == 1


def test_late_keepalives_are_waited_for(misbehaving, retrying_fleet):
    sandbox = E2BSandbox(fleet=retrying_fleet)
    misbehaving.faults["POST /execute"] = [("pause", *READY)]
    with pytest.raises(SandboxFault, match="the stream ended before the code did"):  # not for the pause
        sandbox.run("1", timeout_seconds=1)
    sandbox.close()


def test_contexts_whose_creation_was_never_answered_are_removed(open_fleet):
    fleet = open_fleet()
    with E2BSandbox(fleet=fleet) as sandbox:
        sdk = sandbox.workspace.machine.sdk
        sdk.create_code_context()
    assert len(sdk.list_code_contexts()) == 1


def test_a_full_disk_is_not_a_fault_and_the_machine_keeps_serving(monkeypatch):
    limits = replace(HostSettings().limits, disk_mb=4)
    with SandboxServer(HostSettings(limits)) as server:
        for name in ("E2B_API_URL", "E2B_SANDBOX_URL"):
            monkeypatch.setenv(name, server.url)
        fleet = E2BFleet(E2BSettings(api_key="any"))
        with E2BSandbox(fleet=fleet) as sandbox:
            with pytest.raises(OSError, match="No space left"):
                sandbox.write_file("big", b"x" * (5 << 20))
            filled = sandbox.run("with open('big', 'wb', 0) as file:\n    while file.write(b'x' * 4096): pass")
            assert filled.limits_hit == ("disk",)
            sandbox.interrupt()
            assert sandbox.run("1").value == "1"
        with E2BSandbox(fleet=fleet) as sandbox:
            assert sandbox.list_files() == []
        assert (fleet.usage.started, fleet.usage.lost) == (1, 0)
        fleet.close()


SCRIPT = """
import os
from toolrl.sandbox.e2b import E2BSandbox
sandbox = E2BSandbox()
print(sandbox.workspace.machine.sdk.sandbox_id, flush=True)
if {killed}:
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("killed", [False, True])
def test_leftovers_of_a_killed_process_are_ended_by_the_next_one(open_fleet, sandbox_server, killed):
    environment = {**os.environ, "E2B_API_KEY": "any"}
    script = SCRIPT.format(killed=killed)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    identifier = done.stdout.strip()
    assert (sandbox_server.hosting.get(identifier) is not None) == killed
    with E2BSandbox(fleet=open_fleet()) as mine:
        open_fleet()
        assert sandbox_server.hosting.get(identifier) is None
        assert mine.run("1").value == "1"


def test_the_python_tool_takes_the_backend_by_name(sandbox_server, monkeypatch):
    monkeypatch.setenv("E2B_API_KEY", "any")
    toolbox, scope = Toolbox([python_tool(sandbox="e2b")]), ResourceScope()
    try:
        assert run_sync(toolbox.call(ToolCall("python", {"code": "6 * 7"}), scope)).content == "42"
    finally:
        scope.close()
        shared_fleet().close()


class Misbehaving(BaseHTTPRequestHandler):
    """Speaks the protocol; `server.faults` maps "METHOD /path" to the faults of successive requests."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?")[0]
        key = f"{self.command} {path}"
        self.server.seen.append(key)
        faults = self.server.faults.get(key, [])
        fault = faults.pop(0) if faults else None
        if isinstance(fault, int):
            self.answer(fault, {"code": fault, "message": "The sandbox was not found" if fault == 502 else "no"})
        elif fault is not None:
            self.stream(*fault)
        elif key == "GET /v2/sandboxes":
            self.answer(200, [])
        elif path == "/v2/sandboxes":
            self.answer(201, {"templateID": "t", "sandboxID": "s", "clientID": "c", "envdVersion": "0.6.0"})
        elif key == "GET /contexts":
            self.answer(200, [])
        elif path == "/contexts":
            self.answer(200, {"id": "c", "language": "python", "cwd": "/"})
        elif path == "/execute":
            self.stream('{"type": "end_of_execution"}')
        elif path.startswith("/filesystem"):
            entry = {"name": "x", "type": "FILE_TYPE_DIRECTORY", "path": "/x"}
            self.answer(200, {"entry": entry})
        else:
            self.answer(200, {})

    do_GET = do_DELETE = do_POST

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, *lines: str) -> None:
        """Send lines as chunks; "pause" waits a second, "cut" drops the connection."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            if line == "cut":
                self.close_connection = True
                return
            if line == "pause":
                time.sleep(1)
                line = '{"type": "keepalive"}'
            self.wfile.write(f"{len(line) + 1:x}\r\n{line}\n\r\n".encode())
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@pytest.fixture
def misbehaving(monkeypatch) -> Iterator[Any]:
    server: Any = Quiet(("127.0.0.1", 0), Misbehaving)
    server.faults, server.seen = {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("E2B_API_URL", "E2B_SANDBOX_URL"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_address[1]}")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def retrying_fleet(misbehaving) -> Iterator[E2BFleet]:
    pace = {"starts_per_second": 1000.0, "wait_seconds": 1.0, "request_seconds": 2.0, "backoff_seconds": 0.01}
    fleet = E2BFleet(E2BSettings(api_key="any", max_concurrent=1, attempts=3, reuse=False, **pace))
    yield fleet
    fleet.close()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_failed_start_is_retried(misbehaving, retrying_fleet, status):
    misbehaving.faults["POST /v2/sandboxes"] = [status, status]
    sandbox = E2BSandbox(fleet=retrying_fleet)
    sandbox.close()
    assert misbehaving.seen.count("POST /v2/sandboxes") == 3
    assert (sandbox.usage["sandbox_retries"], retrying_fleet.usage.retries) == (2, 2)


def test_a_start_that_keeps_failing_is_a_fault_and_frees_its_place(misbehaving, retrying_fleet):
    misbehaving.faults["POST /v2/sandboxes"] = [429] * 3
    with pytest.raises(SandboxFault, match="429"):
        E2BSandbox(fleet=retrying_fleet)
    E2BSandbox(fleet=retrying_fleet).close()


def test_a_refused_key_is_not_retried(misbehaving, retrying_fleet):
    misbehaving.faults["POST /v2/sandboxes"] = [401]
    with pytest.raises(ConfigError, match="E2B_API_KEY"):
        E2BSandbox(fleet=retrying_fleet)
    assert misbehaving.seen.count("POST /v2/sandboxes") == 1


READY = ('{"type": "end_of_execution"}',)
SILENT = ("pause",) * 4


@pytest.mark.parametrize(
    "run",
    [
        502,
        500,
        ('{"type": "stdout", "text": "a", "timestamp": "now"}', "cut"),
        ('{"type": "stdo', "cut"),
        READY,
        ('{"type": "error", "name": "UnexpectedEndOfExecution", "value": "v", "traceback": ""}',),
        SILENT,
    ],
)
def test_a_failure_not_caused_by_the_code_is_a_fault(misbehaving, retrying_fleet, run):
    sandbox = E2BSandbox(fleet=retrying_fleet)
    misbehaving.faults["POST /execute"] = [READY, run]
    with pytest.raises(SandboxFault):
        sandbox.run("1", timeout_seconds=1)
    sandbox.close()
    assert "DELETE /sandboxes/s" in misbehaving.seen
    assert retrying_fleet.usage.lost == 1


def test_a_sandbox_that_cannot_be_ended_is_left_to_its_lifetime(misbehaving, retrying_fleet):
    sandbox = E2BSandbox(fleet=retrying_fleet)
    misbehaving.faults["DELETE /sandboxes/s"] = [500] * 3
    sandbox.close()
    assert misbehaving.seen.count("DELETE /sandboxes/s") == 3


def test_failed_file_requests_are_retried(misbehaving, retrying_fleet):
    sandbox = E2BSandbox(fleet=retrying_fleet)
    misbehaving.faults["POST /filesystem.Filesystem/ListDir"] = [500, 429]
    assert sandbox.list_files() == []
    sandbox.close()
