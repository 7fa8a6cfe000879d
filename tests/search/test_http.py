"""The retrieval server and its client, over real connections; and other servers, good and bad."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from toolrl.errors import ConfigError, RetrieverFault
from toolrl.search import (
    BM25Retriever,
    Document,
    HTTPRetriever,
    NotReadable,
    RetrievalServer,
    Retriever,
    python_docs_retriever,
)
from toolrl.support.retry import RetryPolicy
from toolrl.support.usage import Usage, counting

FRUIT = [
    Document("a", "Apple", "A red fruit.", "https://fruit.example/a"),
    Document("b", "", "No title\nbut two lines about bananas."),
    Document("c", "Cherry", "Red, with a stone."),
]
QUICK = RetryPolicy(requests_per_second=None, first_delay_seconds=0.01, attempts=3, failures_to_open=100)


@pytest.fixture(scope="module")
def server() -> Iterator[RetrievalServer]:
    with RetrievalServer(BM25Retriever(FRUIT)) as server:
        yield server


@pytest.fixture
def client(server) -> Iterator[HTTPRetriever]:
    with HTTPRetriever(server.url) as client:
        yield client


def post(server: RetrievalServer, path: str, body: object, **options) -> httpx.Response:
    return httpx.post(server.url + path, content=body if isinstance(body, bytes) else json.dumps(body), **options)


def test_the_client_finds_what_the_served_retriever_finds(client):
    local = BM25Retriever(FRUIT)
    assert client.search("red", 2) == local.search("red", 2)
    assert client.search_batch(["red", "zeppelin", "bananas"], 3) == local.search_batch(
        ["red", "zeppelin", "bananas"], 3
    )
    assert client.search_batch([], 3) == []
    assert client.read("https://fruit.example/a") == FRUIT[0]
    with pytest.raises(NotReadable, match="no document 'z'"):
        client.read("z")
    with pytest.raises(ConfigError, match="k must be"):
        client.search("red", 0)


def test_a_lone_surrogate_does_not_end_the_run(client):
    assert [document.title for document in client.search("\ud83d apple", 1)] == ["Apple"]
    with pytest.raises(NotReadable):
        client.read("\ud83d")


def test_the_protocol_is_that_of_search_r1(server):
    body = {"queries": ["apple"], "topk": 1, "return_scores": True}
    (result,) = post(server, "/retrieve", body).json()["result"]
    assert result[0]["document"]["contents"] == '"Apple"\nA red fruit.'
    assert result[0]["score"] > 0
    (result,) = post(server, "/retrieve", {"queries": ["red"]}).json()["result"]
    assert [document["id"] for document in result] == ["a", "c"]
    assert httpx.get(server.url + "/health").json()["status"] == "ok"


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (b"not JSON", 422, "Invalid JSON"),
        ([1], 422, "the body: Input should be an object"),
        ({"queries": "apple"}, 422, "queries: Input should be a valid array"),
        ({"queries": ["a"], "topk": 0}, 422, "topk: Input should be greater than or equal to 1"),
        ({"queries": ["a"] * 2000}, 422, "at most 1024 items"),
    ],
)
def test_an_invalid_request_is_answered_with_the_reason(body, status, detail, server):
    response = post(server, "/retrieve", body)
    assert response.status_code == status
    assert detail in response.json()["detail"]


def test_other_paths_are_not_found(server):
    assert post(server, "/elsewhere", {}).status_code == 404
    assert httpx.get(server.url + "/retrieve").status_code == 405
    assert post(server, "/read", {"reference": 3}).status_code == 422


def test_an_address_in_use_is_a_user_error(server):
    with pytest.raises(ConfigError, match="cannot listen"):
        RetrievalServer(BM25Retriever(FRUIT), port=int(server.url.rpartition(":")[2]))


def test_a_client_without_the_key_is_refused():
    with RetrievalServer(BM25Retriever(FRUIT), api_key="secret") as server:
        with HTTPRetriever(server.url, api_key="secret") as client:
            assert client.search("apple", 1)
        with HTTPRetriever(server.url) as client, pytest.raises(ConfigError, match="refuses the API key"):
            client.search("apple", 1)


def test_many_clients_at_once_get_their_own_answers():
    names = ["heapq.nlargest", "os.getcwd", "re.sub", "json.dumps"] * 64
    with (
        RetrievalServer(python_docs_retriever()) as server,
        HTTPRetriever(server.url) as client,
        ThreadPoolExecutor(64) as threads,
    ):
        assert [documents[0].id for documents in threads.map(lambda name: client.search(name, 1), names)] == names


class Down(Retriever):
    def search(self, query: str, k: int) -> list[Document]:
        raise RetrieverFault("the engine is down")


def test_a_fault_behind_the_server_is_a_fault_at_the_client():
    with RetrievalServer(Down()) as server, HTTPRetriever(server.url, retry_policy=QUICK) as client:
        with pytest.raises(RetrieverFault, match="status 503"):
            client.search("x", 1)
        with pytest.raises(NotReadable, match="only search results"):
            client.read("x")


@pytest.fixture
def playing() -> Iterator[Callable[..., str]]:
    """Starts a server that sends the replies (status, body, headers) in order, and repeats the last one."""
    servers = []

    def start(*replies: tuple[int, bytes | object, dict[str, str]]) -> str:
        queue = list(replies)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                status, body, headers = queue.pop(0) if len(queue) > 1 else queue[0]
                payload = body if isinstance(body, bytes) else json.dumps(body).encode()
                if status == 0:
                    self.connection.close()
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_):
                pass

        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def answer(*documents: object) -> tuple[int, object, dict[str, str]]:
    return 200, {"result": [list(documents)]}, {}


@pytest.mark.parametrize(
    ("entry", "document"),
    [
        ({"document": {"id": "7", "contents": '"Paris"\nA city.'}, "score": 0.5}, ("7", "Paris", "A city.", 0.5)),
        ({"id": 7, "contents": "one line"}, ("7", "", "one line", 0)),
        ({"document": {"id": "7", "title": "T", "text": "b", "contents": "T\nb"}, "score": 1}, ("7", "T", "b", 1)),
        ({"document": "a plain text", "score": 2}, ("", "", "a plain text", 2)),
    ],
)  # fmt: skip
def test_results_of_other_servers_are_understood(entry, document, playing):
    with HTTPRetriever(playing(answer(entry)) + "/retrieve") as client:
        (found,) = client.search("q", 3)
        assert (found.id, found.title, found.text, found.score) == document


@pytest.mark.parametrize(
    "trouble", [(503, b"", {}), (429, b"", {"Retry-After": "0"}), (0, b"", {}), (200, b"<html>", {})]
)
def test_transient_errors_are_retried(trouble, playing):
    usage = Usage()
    url = playing(trouble, answer({"id": "x", "contents": "t"}))
    with HTTPRetriever(url, retry_policy=QUICK) as client, counting(usage):
        assert client.search("q", 1)[0].id == "x"
    assert usage.amounts() == {"search_retries": 1}


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((503, b"", {}), "failed 3 times, last: status 503"),
        ((0, b"", {}), "failed 3 times"),
        ((200, b"<html>", {}), "not JSON"),
        ((200, {"results": []}, {}), "answered 1 queries with None"),
        ((200, {"result": [[], []]}, {}), "answered 1 queries with"),
        ((200, {"result": [[{"nothing": 1}]]}, {}), "not a document"),
        ((200, {"result": [[3]]}, {}), "not a document"),
        ((422, {"detail": "topk"}, {}), "answered 422"),
    ],
)
def test_permanent_errors_are_faults_that_quote_the_response(reply, message, playing):
    with HTTPRetriever(playing(reply), retry_policy=QUICK) as client, pytest.raises(RetrieverFault, match=message):
        client.search("q", 1)


def test_a_server_that_is_not_there_is_a_fault_and_then_not_asked():
    settings = RetryPolicy(requests_per_second=None, attempts=2, first_delay_seconds=0, failures_to_open=2)
    with HTTPRetriever("http://127.0.0.1:9", retry_policy=settings) as client:
        with pytest.raises(RetrieverFault, match="ConnectError"):
            client.search("q", 1)
        with pytest.raises(RetrieverFault, match="not asked until"):
            client.search("q", 1)


def test_a_server_that_hangs_is_abandoned(server):
    hung = threading.Event()

    class Hanging(Retriever):
        def search(self, query: str, k: int) -> list[Document]:
            hung.wait(30)
            return []

    once = RetryPolicy(requests_per_second=None, attempts=1)
    with (
        RetrievalServer(Hanging()) as slow,
        HTTPRetriever(slow.url, timeout_seconds=0.2, retry_policy=once) as client,
        pytest.raises(RetrieverFault, match="ReadTimeout"),
    ):
        client.search("q", 1)
    hung.set()


def test_an_address_without_a_scheme_is_refused():
    with pytest.raises(ConfigError, match="begins with http"):
        HTTPRetriever("localhost:8000")
