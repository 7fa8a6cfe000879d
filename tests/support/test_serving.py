"""The promises of our servers to every client, well-behaved or not, over raw sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.raw_http import BODIES, MALFORMED, answered, connected, exchange, request
from toolrl.errors import ConfigError, RetrieverFault
from toolrl.sandbox.server import HostSettings, SandboxServer
from toolrl.search import Document, RetrievalServer, Retriever
from toolrl.support import serving
from toolrl.support.serving import is_loopback, key_matches


class Echo(Retriever):
    """Finds the query k times, with `size` characters each and after `seconds`."""

    size, seconds = 10, 0.0

    def search(self, query: str, k: int) -> list[Document]:
        time.sleep(self.seconds)
        if query == "bug":
            raise RuntimeError("of ours")
        if query == "down":
            raise RetrieverFault("the engine is down")
        return [Document(str(number), "", query[:1] * self.size) for number in range(k)]


@pytest.fixture(scope="module", params=["search", "sandbox"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    server = RetrievalServer(Echo()) if request.param == "search" else SandboxServer(HostSettings(max_sandboxes=2))
    with server:
        yield server.url


@pytest.fixture(autouse=True)
def quiet(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No client can make a server print anything, such as a traceback."""
    yield
    assert capfd.readouterr().err == ""


def is_well(url: str) -> bool:
    return httpx.get(f"{url}/health", timeout=10).status_code == 200


PATHS = ("/retrieve", "/read", "/sandboxes", "/v2/sandboxes", "/execute", "/files", "/filesystem.Filesystem/Stat", "/x")


@pytest.mark.parametrize("sent", MALFORMED, ids=lambda sent: repr(sent[:60]))
def test_a_malformed_request_gets_an_error_in_json_and_the_server_goes_on(url: str, sent: bytes) -> None:
    for path in PATHS[:4] if b"%s" in sent else ("/",):
        status, content = answered(exchange(url, sent.replace(b"%s", path.encode())))
        assert (status == 200 and len(sent) > 100_000) or (400 <= status < 500 and content["message"])
    assert is_well(url)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:30]))
def test_an_invalid_body_gets_an_error_in_json(url: str, body: bytes) -> None:
    for path in PATHS:
        status, content = answered(exchange(url, request("POST", path, body)))
        if not (path.endswith("sandboxes") and status == 201):  # all fields are optional
            assert status == 502 or 400 <= status < 500, (path, status)
            assert content["message"]
        else:
            assert body in (b"", BODIES[-1])
            httpx.delete(f"{url}/sandboxes/{content['sandboxID']}")
    assert is_well(url)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "BREW"])
def test_any_path_and_method_is_answered(url: str, method: str) -> None:
    for path in ("/%", "/%zz", "/%00", "/..%2f", "//", "/?%=%&&=", "/a?" + "x=1&" * 500, "/;/#", "/\\"):
        assert exchange(url, request(method, path)).startswith((b"HTTP/1.1 404", b"HTTP/1.1 405")), path
    assert is_well(url)


def test_pipelined_requests_are_answered_in_order(url: str) -> None:
    get = b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    received = exchange(url, get % b"/health" + get % b"/nothing" + get % b"/health")
    assert [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]


def test_a_request_in_single_bytes_is_answered(url: str) -> None:
    with connected(url) as connection:
        for byte in request("GET", "/nothing"):
            connection.sendall(bytes([byte]))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 404")


def test_a_client_that_leaves_in_mid_request_is_not_logged(url: str) -> None:
    whole = request("POST", "/retrieve", b'{"queries": ["a"]}') + request("POST", "/sandboxes", b"{" + b" " * 9999)
    for end in range(0, len(whole), 97):
        with connected(url) as connection:
            connection.sendall(whole[:end])
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset
    assert is_well(url)


def test_idle_connections_shut_nobody_out(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_CONNECTIONS", 20)
    starts = (b"", b"GET /health HT", b"POST /retrieve HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{")
    held = [connected(url) for _ in range(60)]
    for number, connection in enumerate(held):
        try:
            connection.sendall(starts[number % 3])
        except ConnectionError:
            assert number < 40  # evicted
    for _ in range(5):
        assert is_well(url)
    for connection in held:
        connection.close()


@pytest.mark.parametrize(
    ("what", "sent"),
    [
        ("head", b""),
        ("head", b"GET /health HTTP/1.1\r\nHost: "),
        ("head", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /he"),
        ("idle", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
        ("body", b"POST /retrieve HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999\r\n\r\n{"),
    ],
)
def test_a_connection_that_keeps_the_server_waiting_is_closed(
    what: str, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "CHECK_SECONDS", 0.05)
    monkeypatch.setitem(serving.TIMEOUT_SECONDS, what, 0.4)
    with RetrievalServer(Echo()) as server, connected(server.url) as connection:
        connection.sendall(sent)
        started = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - started < 5:
                connection.sendall(sent and b"x" if what != "idle" else b"")  # dripping does not help
                connection.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(1 << 16):
                        break
        assert time.monotonic() - started < 5


def test_a_response_that_nobody_reads_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "CHECK_SECONDS", 0.05)
    monkeypatch.setitem(serving.TIMEOUT_SECONDS, "answer", 0.4)
    echo = Echo()
    echo.size = 30_000
    with RetrievalServer(echo) as server, connected(server.url) as connection:
        connection.sendall(request("POST", "/retrieve", b'{"queries": ["abc"], "topk": 500}'))
        time.sleep(3)
        received = 0
        with contextlib.suppress(ConnectionError):
            while chunk := connection.recv(1 << 20):
                received += len(chunk)
        assert received < 25_000_000  # of 30 million; some were in the kernel's buffers


def test_the_key_is_checked_before_the_body_is_read() -> None:
    endless = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{"
    with RetrievalServer(Echo(), api_key="kéy") as server:
        for path in (b"/retrieve", b"/read"):
            assert answered(exchange(server.url, endless.replace(b"%s", path)))[0] == 401
    with SandboxServer(HostSettings(api_key="kéy")) as server:
        for path in (b"/sandboxes", b"/v2/sandboxes", b"/v2/sandboxes/x/connect", b"/sandboxes/x/timeout"):
            assert answered(exchange(server.url, endless.replace(b"%s", path)))[0] == 401
        right = {"X-API-Key": "kéy".encode()}
        made = httpx.post(f"{server.url}/sandboxes", json={}, headers=right)
        assert made.status_code == 201
        inner = endless.replace(b"\r\n\r\n", f"\r\nE2b-Sandbox-Id: {made.json()['sandboxID']}\r\n\r\n".encode())
        for path in (b"/execute", b"/contexts", b"/files?path=a", b"/filesystem.Filesystem/Stat"):
            assert answered(exchange(server.url, inner.replace(b"%s", path)))[0] == 401


@pytest.mark.parametrize("given", [b"", b"Bearer", b"Bearer k\xe9y", b"\xff\xfe", b"Basic key", b"key"])
def test_any_other_key_is_refused_and_none_breaks_the_server(given: bytes) -> None:
    with RetrievalServer(Echo(), api_key="key") as server:
        reply = httpx.post(f"{server.url}/retrieve", json={"queries": []}, headers={"Authorization": given})
        assert reply.status_code == 401


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_is_refused_without_being_kept(url: str, announced: bool) -> None:
    head = b"POST /v2/sandboxes HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if announced:
        sent = head + b"Content-Length: 9999999999\r\n\r\n{"
    else:
        sent = head + b"Transfer-Encoding: chunked\r\n\r\n" + (b"100000\r\n" + b" " * (1 << 20) + b"\r\n") * 17
    assert answered(exchange(url, sent))[0] in (404, 413)
    sent = sent.replace(b"/v2/sandboxes", b"/retrieve")
    assert answered(exchange(url, sent))[0] in (404, 413)


PAGES = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Host": "evil.example"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "localhost.evil.example:80"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
]


@pytest.mark.parametrize("headers", PAGES)
def test_without_a_key_no_web_page_is_answered(url: str, headers: dict[str, str]) -> None:
    for path, body in (("/sandboxes", b"{}"), ("/retrieve", b'{"queries": ["a"]}'), ("/read", b'{"reference": "a"}')):
        assert answered(exchange(url, request("POST", path, body, **headers)))[0] == 403
    for path in ("/health", "/sandboxes"):
        assert answered(exchange(url, request("GET", path, **headers)))[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:80", "127.3.2.1"])
def test_without_a_key_this_machine_is_answered_under_any_of_its_names(url: str, host: str) -> None:
    assert answered(exchange(url, request("GET", "/health", Host=host)))[0] == 200


def test_with_a_key_the_key_is_enough() -> None:
    with RetrievalServer(Echo(), api_key="key", host="0.0.0.0") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        headers = {"Origin": "https://a.example", "Host": "server.example", "Authorization": "Bearer key"}
        body = b'{"queries": ["a"], "topk": 1}'
        assert answered(exchange(url, request("POST", "/retrieve", body, **headers)))[0] == 200


def test_names_of_this_machine_are_told_from_others() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "localhost", "::1", "[::1]", "[::1]:80", "localhost:80", "127.0.0.9:1"]))
    others = [
        "",
        "0.0.0.0",
        "::",
        "evil",
        "localhost.evil",
        "127.0.0.1.evil",
        "10.0.0.1",
        "localhost:80:80",
        "1",
        "[::]",
    ]
    assert not any(map(is_loopback, others))
    assert key_matches("key", "key")
    assert not any(key_matches(given, "key") for given in ("", "ke", "keyy", "KEY", "\u20ac"))


@pytest.mark.parametrize("host", ["256.1.1.1", "no.such.name.invalid", "203.0.113.7"])
def test_an_address_that_is_not_ours_is_a_user_error(host: str) -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        RetrievalServer(Echo(), host=host)


def test_the_response_to_one_request_is_bounded() -> None:
    echo = Echo()
    echo.size = 100_000
    with RetrievalServer(echo) as server:
        large = {"queries": ["a"] * 1024, "topk": 1000}
        reply = httpx.post(f"{server.url}/retrieve", json=large, timeout=60)
        assert reply.status_code == 422
        assert "64 MB" in reply.json()["detail"]
        assert len(httpx.post(f"{server.url}/retrieve", json={"queries": ["a"], "topk": 200}).content) > 20_000_000


def test_small_queries_do_not_wait_behind_large_ones() -> None:
    echo = Echo()
    echo.seconds = 0.05
    with RetrievalServer(echo) as server, ThreadPoolExecutor(20) as pool:
        large = {"queries": ["a"] * 400, "topk": 1}
        running = [pool.submit(httpx.post, f"{server.url}/retrieve", json=large, timeout=60) for _ in range(20)]
        time.sleep(0.3)
        started = time.monotonic()
        assert httpx.post(f"{server.url}/retrieve", json={"queries": ["b"]}).json()["result"][0][0]["text"] == "b" * 10
        assert time.monotonic() - started < 3
        assert not any(one.done() for one in running)
        server.close()  # waits at most for one batch of each


def test_results_of_batches_come_in_the_order_of_the_queries() -> None:
    with RetrievalServer(Echo()) as server:
        queries = [chr(ord("a") + number % 26) for number in range(300)]
        result = httpx.post(f"{server.url}/retrieve", json={"queries": queries, "topk": 2}).json()["result"]
        assert [documents[1]["text"] for documents in result] == [query * 10 for query in queries]
        assert httpx.post(f"{server.url}/retrieve", json={"queries": []}).json() == {"result": []}


def test_a_bug_is_answered_in_json_and_printed_by_the_server(capfd: pytest.CaptureFixture[str]) -> None:
    with RetrievalServer(Echo()) as server:
        reply = httpx.post(f"{server.url}/retrieve", json={"queries": ["bug"]})
        assert (reply.status_code, "bug" in reply.json()["detail"]) == (500, True)
        assert httpx.post(f"{server.url}/retrieve", json={"queries": ["down"]}).status_code == 503
    assert "RuntimeError: of ours" in capfd.readouterr().err


def test_a_request_beyond_the_limit_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_REQUESTS", 3)
    echo = Echo()
    echo.seconds = 1.5
    with RetrievalServer(echo) as server, ThreadPoolExecutor(3) as pool:
        running = [pool.submit(httpx.post, f"{server.url}/retrieve", json={"queries": ["a"]}) for _ in range(3)]
        time.sleep(0.5)
        reply = httpx.get(f"{server.url}/health")
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
        assert [one.result().status_code for one in running] == [200] * 3
        assert is_well(server.url)


def test_a_server_that_is_closed_leaves_no_thread_and_frees_its_port() -> None:
    before = set(threading.enumerate())
    with RetrievalServer(Echo()) as server:
        port = int(server.url.rpartition(":")[2])
        httpx.post(f"{server.url}/retrieve", json={"queries": ["a"]})
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(5 if thread.name == "toolrl-call" else 0)  # waits a moment for another call
    assert {thread.name for thread in left if thread.is_alive()} == set()
    with RetrievalServer(Echo(), port=port):
        pass
