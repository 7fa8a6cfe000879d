"""Web searches with the real code of `ddgs`, against a server that answers like DuckDuckGo."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from urllib.parse import parse_qs

import pytest

from tests.search.servers import Answer, Server, closed_port, running
from tests.search.web import duckduckgo_pages as pages
from toolrl.errors import ConfigError, RetrieverFault
from toolrl.search.base import NotReadable, Retriever
from toolrl.search.web.pages import PageSettings
from toolrl.search.web.retriever import WebRetriever
from toolrl.support.retry import CircuitOpen, RetryPolicy
from toolrl.support.usage import Usage, counting

for package in ("ddgs", "trafilatura", "protego"):
    reason = f"{package} cannot be imported; it comes with the extra `web`"
    pytest.importorskip(package, reason=reason, exc_type=ImportError)

QUICK = RetryPolicy(
    requests_per_second=None, attempts=3, first_delay_seconds=0.001, max_delay_seconds=0.002, failures_to_open=1000
)
FOUND = [
    ("https://docs.python.org/3/library/re.html", "re &#x27;module&#x27;", "Regular <b>expressions</b> &amp; more."),
    ("https://en.wikipedia.org/wiki/AC%2FDC?a=b%26c&amp;d=e%20f", "AC/DC", "A band."),
    ("//duckduckgo.com/l/?uddg=https%3A%2F%2Fexample.org%2Fa%2520b&amp;rut=1", "Redirected", "By the engine."),
]


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Stands in for DuckDuckGo's HTML site."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with running() as server:
        address = server.url("/html/", "127.0.0.1")
        monkeypatch.setattr("ddgs.engines.duckduckgo.Duckduckgo.search_url", address)
        yield server


def answer(server: Server, *answers: Answer) -> None:
    server.answers["/html/"] = list(answers)


def search(query: str = "cats", k: int = 10, **settings) -> list:
    with WebRetriever(retry_policy=QUICK, **settings) as retriever:
        return retriever.search(query, k)


# Results


def test_it_is_a_retriever(server):
    assert isinstance(WebRetriever(), Retriever)


def test_results_come_in_the_order_of_the_engine_with_their_texts(server):
    answer(server, pages.results("cats", FOUND))
    first, second, third = search()
    assert first.id == first.url == "https://docs.python.org/3/library/re.html"
    assert (first.title, first.text) == ("re 'module'", "Regular expressions & more.")
    assert first.score > second.score > third.score > 0
    assert len(server.requests) == 1


def test_urls_stay_unchanged(server):
    answer(server, pages.results("cats", FOUND))
    assert [document.url for document in search()[1:]] == [
        "https://en.wikipedia.org/wiki/AC%2FDC?a=b%26c&d=e%20f",
        "https://example.org/a%20b",
    ]


def test_at_most_k_results_come_back(server):
    answer(server, pages.results("cats", FOUND))
    assert len(search(k=2)) == 2
    with pytest.raises(ConfigError, match="k must be"):
        search(k=0)


def test_a_page_found_twice_is_returned_once_at_its_first_rank(server):
    answer(server, pages.results("cats", [FOUND[0], FOUND[1], ("https://docs.python.org/3/library/re.html", "b", "c")]))
    assert [document.title for document in search()] == ["re 'module'", "AC/DC"]


def test_advertisements_are_not_results(server):
    answer(server, pages.results("cats", FOUND[:1], ads=2))
    assert [document.title for document in search()] == ["re 'module'"]


def test_the_query_and_the_region_reach_the_engine(server):
    answer(server, pages.nothing("x"))
    search("søk & finn", region="no-no")
    assert server.requests[0].method == "POST"
    assert parse_qs(server.requests[0].body.decode()) == {"q": ["søk & finn"], "l": ["no-no"]}


def test_results_in_blocked_domains_are_dropped_with_their_subdomains(server):
    found = [
        ("https://answers.test/1", "1", "x"),
        ("https://www.Answers.test./2", "2", "x"),
        ("https://notanswers.test/3", "3", "x"),
        ("https://web.archive.org/web/2020/https://answers.test/4", "4", "x"),
        ("https://other.test/5", "5", "x"),
    ]
    answer(server, pages.results("cats", found))
    documents = search(blocked_domains=["answers.test"])
    assert [document.title for document in documents] == ["3", "5"]
    assert documents[0].score == 1.0


@pytest.mark.parametrize(
    ("query", "asked"), [("\ud83dcats\0 dogs", "cats dogs"), ("cat " * 9999, ("cat " * 125)), ("\udfff\0", None)]
)
def test_a_query_that_engines_reject_is_not_a_fault(server, query, asked):
    answer(server, pages.nothing("x"))
    assert search(query) == []
    assert [parse_qs(request.body.decode())["q"] for request in server.requests] == ([[asked]] if asked else [])


def test_an_empty_query_sends_no_request(server):
    assert search(" \n") == []
    assert server.requests == []


def test_many_threads_share_a_retriever(server):
    def found(request):
        (query,) = parse_qs(request.body.decode())["q"]
        return pages.results(query, [(f"https://site.test/{query}", query, "text")])

    server.answers["/html/"] = found
    with WebRetriever(retry_policy=QUICK) as retriever, ThreadPoolExecutor(8) as threads:
        found_for = list(threads.map(lambda number: retriever.search(f"q{number}", 3), range(40)))
    assert [[document.title for document in documents] for documents in found_for] == [[f"q{n}"] for n in range(40)]


# Empty results, and no answers


def test_an_engine_that_finds_nothing_is_an_empty_list(server):
    answer(server, pages.nothing("cats"))
    assert search() == []
    assert len(server.requests) == 1


NO_ANSWERS = {
    "the page for bots": (pages.challenge("cats"), "it limits us .HTTP status 202"),
    "the page for bots with the status 200": (pages.challenge("cats", status=200), "takes us for a bot"),
    "too many requests": (Answer(b"", 429), "HTTP status 429"),
    "forbidden": (Answer(b"no", 403), "HTTP status 403"),
    "an error": (Answer(b"oops", 500), "HTTP status 500"),
    "no such page": (pages.results("cats", FOUND), "HTTP status 404"),
    "an empty page": (Answer(b""), "empty page"),
    "white space": (Answer(b" \n "), "empty page"),
    "a comment": (Answer(b"<!-- nothing -->"), "cannot be read"),
    "another site": (Answer(b"<html><body><div class='body'><h2>Log in</h2>to the network</div></body>"), "neither"),
    "another layout": (Answer(b"<html><body><li><a href='https://a.test'>A</a></li></body></html>"), "neither"),
    "binary": (Answer(bytes(range(256)) * 20), "neither|cannot be read"),
    "not HTTP": (Answer(b"SSH-2.0-OpenSSH_9.6\r\n", None), "cannot be reached"),
    "nothing at all": (Answer(b"", None), "cannot be reached"),
    "half of a page": (Answer(b"<html>", 200, {"Content-Length": "100"}), "cannot be reached"),
}  # fmt: skip
NO_ANSWERS["no such page"][0].status = 404


@pytest.mark.parametrize("kind", NO_ANSWERS)
def test_a_response_that_is_not_an_answer_is_a_fault_after_some_attempts(server, kind):
    no_answer, reason = NO_ANSWERS[kind]
    answer(server, no_answer)
    with pytest.raises(RetrieverFault, match=reason):
        search()
    assert len(server.requests) == 3


@pytest.mark.parametrize("kind", NO_ANSWERS)
def test_a_response_that_is_not_an_answer_is_retried(server, kind):
    answer(server, NO_ANSWERS[kind][0], pages.results("cats", FOUND))
    usage = Usage()
    with counting(usage):
        assert len(search()) == 3
    assert usage.amounts() == {"search_retries": 1}


def test_a_limit_and_then_nothing_found_is_nothing_found(server):
    answer(server, pages.challenge("cats"), pages.nothing("cats"))
    assert search() == []
    assert len(server.requests) == 2


@pytest.mark.parametrize("query", ["no results found", 'class="no-results" "'])
def test_words_of_the_query_do_not_make_an_answer(server, query):
    answer(server, Answer(f"<html><body><input value='{query}'> <p>{query}</p></body></html>".encode()))
    with pytest.raises(RetrieverFault, match="neither"):
        search(query)


@pytest.mark.parametrize("query", ["no results were found", "a", "class", "<b>"])
def test_no_query_hides_an_empty_result(server, query):
    answer(server, pages.nothing(query))
    assert search(query) == []


def test_an_engine_that_does_not_answer_in_time_is_a_fault(server):
    server.answers["/html/"] = lambda request: server.done.wait(60) and Answer()
    with pytest.raises(RetrieverFault, match="did not answer in time"):
        search(timeout_seconds=0.2)
    assert len(server.requests) == 3


def test_an_engine_that_refuses_connections_is_a_fault(server, monkeypatch):
    address = f"http://127.0.0.1:{closed_port()}/"
    monkeypatch.setattr("ddgs.engines.duckduckgo.Duckduckgo.search_url", address)
    with pytest.raises(RetrieverFault, match="cannot be reached"):
        search()


def test_an_engine_whose_name_is_unknown_is_a_fault(server, monkeypatch):
    monkeypatch.setattr("ddgs.engines.duckduckgo.Duckduckgo.search_url", "http://nosuchhost.invalid/")
    with pytest.raises(RetrieverFault, match="cannot be reached"):
        search()


def test_a_pause_that_the_engine_asks_for_is_kept(server):
    answer(server, Answer(b"", 429, {"Retry-After": "500"}))
    with pytest.raises(RetrieverFault, match="asked for 500 s"):
        search()
    assert len(server.requests) == 1


def test_an_engine_that_is_down_is_left_alone(server):
    answer(server, Answer(b"", 503))
    settings = RetryPolicy(requests_per_second=None, attempts=2, first_delay_seconds=0, failures_to_open=2)
    with WebRetriever(retry_policy=settings) as retriever:
        with pytest.raises(RetrieverFault):
            retriever.search("cats", 3)
        with pytest.raises(CircuitOpen, match="search engine duckduckgo"):
            retriever.search("cats", 3)
    assert len(server.requests) == 2


# Several engines


@pytest.fixture
def mojeek(server, monkeypatch):
    monkeypatch.setattr("ddgs.engines.mojeek.Mojeek.search_url", server.url("/mojeek", "127.0.0.1"))
    page = (
        b'<ul class="results-standard"><li class="r1"><h2><a class="title" href="https://m.test/">M</a></h2>'
        b'<p class="s">From mojeek.</p></li></ul>'
    )
    server.answers["/mojeek"] = Answer(page)
    return server


def test_the_next_engine_is_asked_if_the_first_limits_us(mojeek):
    answer(mojeek, pages.challenge("cats"))
    (document,) = search(engines=["duckduckgo", "mojeek"])
    assert (document.url, document.text) == ("https://m.test/", "From mojeek.")


def test_the_next_engine_is_not_asked_if_the_first_finds_nothing(mojeek):
    answer(mojeek, pages.nothing("cats"))
    assert search(engines=["duckduckgo", "mojeek"]) == []
    assert mojeek.asked("/mojeek") == []


def test_if_all_engines_fail_the_fault_names_them(mojeek):
    answer(mojeek, pages.challenge("cats"))
    mojeek.answers["/mojeek"] = Answer(b"", 403)
    with pytest.raises(RetrieverFault, match=r"duckduckgo failed .* mojeek failed"):
        search(engines=["duckduckgo", "mojeek"])


def test_all_engines_share_the_deadline(mojeek):
    mojeek.answers["/html/"] = mojeek.answers["/mojeek"] = Answer(b"", 503, {"Retry-After": "6"})
    settings = RetryPolicy(requests_per_second=None, deadline_seconds=10, first_delay_seconds=0)
    retriever = WebRetriever(engines=["duckduckgo", "mojeek"], retry_policy=settings)
    with pytest.raises(RetrieverFault, match="6 s"):
        retriever.search("cats", 3)
    assert len(mojeek.requests) == 2  # a second attempt of either would start too late


@pytest.mark.parametrize("body", [b"<ul></ul>", b"<p>No pages found matching: <strong>cats</strong></p>"])
def test_other_engines_must_also_say_that_there_are_no_results(mojeek, body):
    mojeek.answers["/mojeek"] = Answer(b"<html>" + body)
    if b"No pages" in body:
        assert search(engines=["mojeek"]) == []
    else:
        with pytest.raises(RetrieverFault, match="neither"):
            search(engines=["mojeek"])


@pytest.mark.parametrize(
    ("body", "found"),
    [(b'{"results": []}', True), (b'{"error": "limit"}', False), (b"<html>", False), (b'{"results": null}', False)],
)
def test_engines_with_json_answers_are_checked_as_strictly(server, monkeypatch, body, found):
    monkeypatch.setattr("ddgs.engines.grokipedia.Grokipedia.search_url", server.url("/api", "127.0.0.1"))
    server.answers["/api"] = Answer(body, headers={"Content-Type": "application/json"})
    if found:
        assert search(engines=["grokipedia"]) == []
    else:
        with pytest.raises(RetrieverFault):
            search(engines=["grokipedia"])


# Pages, settings, the end


def test_the_page_of_a_result_can_be_read(server):
    server.answers["/page"] = Answer(
        b"<html><head><title>T</title></head><body><p>Hello, this is text.</p></body></html>"
    )
    with WebRetriever(
        pages=PageSettings(allow_ports=(server.port,)),
        allow_addresses=(ip_network("127.0.0.0/8"),),
        blocked_domains=["answers.test"],
    ) as retriever:
        document = retriever.read(server.url("/page", "127.0.0.1"))
        assert (document.title, document.text) == ("T", "Hello, this is text.")
        assert document.id == document.url == server.url("/page", "127.0.0.1")
        with pytest.raises(NotReadable, match="may not be visited here"):
            retriever.read(server.url("/page", "answers.test"))
        with pytest.raises(NotReadable, match="give the URL"):
            retriever.read("re.sub")


def test_the_identity_has_exactly_the_settings_results_depend_on(server):
    changes = [
        {},
        {"engines": ["mojeek"]},
        {"engines": ["mojeek", "duckduckgo"]},
        {"region": "de-de"},
        {"safesearch": "off"},
        {"blocked_domains": ["a.test"]},
        {"pages": PageSettings(max_bytes=5)},
    ]
    assert len({WebRetriever(**change).identity for change in changes}) == len(changes)
    same = WebRetriever(timeout_seconds=1, retry_policy=QUICK, blocked_domains=["B.test", "a.test"])
    assert same.identity == WebRetriever(blocked_domains=["a.test", "b.test"]).identity


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engines": ["altavista"]}, "altavista.*duckduckgo"),
        ({"engines": []}, "at least one"),
        ({"engines": ["mojeek", "mojeek"]}, "none twice"),
        ({"region": "english"}, "region"),
        ({"safesearch": "yes"}, "safesearch"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"blocked_domains": ["a b"]}, "blocked domain"),
    ],
)
def test_invalid_settings_are_refused(server, change, message):
    with pytest.raises(ConfigError, match=message):
        WebRetriever(**change)


def test_closing_ends_waiting_searches(server):
    answer(server, Answer(b"", 503))
    slow = RetryPolicy(
        requests_per_second=None, first_delay_seconds=1000, max_delay_seconds=1000, deadline_seconds=10000
    )
    retriever = WebRetriever(retry_policy=slow)
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(retriever.search, "cats", 3)
        while not server.requests:
            threading.Event().wait(0.01)
        retriever.close()
        retriever.close()
        with pytest.raises(RetrieverFault, match=r"closed|failed"):
            future.result(timeout=30)


@pytest.mark.parametrize("package", ["ddgs", "trafilatura", "protego"])
def test_a_missing_package_is_named_with_its_install_command(package):
    code = f"""
import sys
sys.modules[{package!r}] = None
from toolrl.errors import MissingExtra
from toolrl.search.web.retriever import WebRetriever
try:
    WebRetriever()
except MissingExtra as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == f"{package} is not installed. Run: pip install 'toolrl[web]'\n"
