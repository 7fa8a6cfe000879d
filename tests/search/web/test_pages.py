"""Pages are read politely and safely, from real servers on this machine."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.search.servers import Answer
from tests.search.web.sites import ARTICLE, read, reader
from toolrl.errors import ConfigError
from toolrl.search.base import NotReadable
from toolrl.search.web.pages import PageReader, PageSettings
from toolrl.support.retry import RetryPolicy

for package in ("trafilatura", "protego"):
    reason = f"{package} cannot be imported; it comes with the extra `web`"
    pytest.importorskip(package, reason=reason, exc_type=ImportError)

# Responses of a site


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "400"),
        (401, "login"),
        (403, "refuses"),
        (404, "no such page"),
        (410, "gone"),
        (451, "legal"),
        (204, "204"),
    ],
)
def test_a_page_that_the_site_refuses_is_not_readable_and_not_retried(server, status, message):
    server.answers["/page"] = Answer(b"", status)
    with pytest.raises(NotReadable, match=message):
        read(server)
    assert len(server.asked("/page")) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_site_that_recovers_is_read(server, status):
    server.answers["/page"] = [Answer(b"", status), Answer(ARTICLE.encode())]
    assert "Paragraph 1" in read(server).text


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_site_that_keeps_failing_is_the_models_problem(server, status):
    server.answers["/page"] = Answer(b"", status)
    with pytest.raises(NotReadable, match=f"cannot be read now: .*{status}"):
        read(server)
    assert len(server.asked("/page")) == 2


def test_a_site_that_asks_for_a_pause_gets_it(server):
    server.answers["/page"] = Answer(b"", 429, {"Retry-After": "900"})
    pages = reader(server, retry_policy=RetryPolicy(requests_per_second=1000, burst=10))
    for _ in range(2):
        with pytest.raises(NotReadable, match="cannot be read now"):
            pages.read(server.url("/page"))
    assert len(server.asked("/page")) == 1


def test_failures_of_one_site_do_not_affect_another(server):
    server.answers["/down"] = Answer(b"", 500)
    server.answers["/page"] = Answer(ARTICLE.encode())
    pages = reader(server, retry_policy=RetryPolicy(requests_per_second=None, attempts=1, failures_to_open=1))
    for message in ("500", "not answered lately"):
        with pytest.raises(NotReadable, match=message):
            pages.read(server.url("/down", "a.test"))
    assert "Paragraph" in pages.read(server.url("/page", "b.test")).text


# Redirects


def moved(location: str, status: int = 302) -> Answer:
    return Answer(b"", status, {"Location": location})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("text", ["é", "é".encode().decode("latin-1"), "%C3%A9"])
def test_redirects_are_followed_to_the_final_url(server, status, text):
    server.answers["/page"] = moved("../new?x=" + text, status)
    server.answers["/new"] = Answer(ARTICLE.encode())
    assert read(server).url == server.url("/new?x=%C3%A9")


def test_the_number_of_redirects_is_bounded(server):
    for number in range(9):
        server.answers[f"/{number}"] = moved(f"/{number + 1}")
    server.answers["/5"] = Answer(ARTICLE.encode())
    assert read(server, "/0").url == server.url("/5")
    server.answers["/5"] = moved("/6")
    with pytest.raises(NotReadable, match="more than 5 redirects"):
        read(server, "/0")
    assert len(server.asked("/6")) == 0


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://answers.test:PORT/", "may not be visited here"),
        ("http://www.answers.test:PORT/", "may not be visited here"),
        ("https://proxy.test/?u=http%3A%2F%2Fanswers.test", "may not be visited here"),
        ("http://site.test:1/", "port 1 "),
        ("http://127.0.0.1:1/", "port 1 "),
        ("http://10.0.0.1:PORT/", "not an IP address"),
        ("file:///etc/passwd", "not the URL of a web page"),
        ("http://user:password@site.test:PORT/", "not the URL of a web page"),
        ("http://[", "not a URL"),
        ("//site.test\\@x", "not the URL|not a URL"),
    ],
)
def test_redirects_are_checked_like_the_first_url(server, location, message):
    server.answers["/page"] = moved(location.replace("PORT", str(server.port)))
    server.answers["/"] = Answer(ARTICLE.encode())
    with pytest.raises(NotReadable, match=message):
        read(server, blocked=["answers.test"], allow_ports=(server.port, 443))
    assert server.asked("/") == []


# robots.txt


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ("User-agent: *\nDisallow: /", False),
        ("User-agent: *\nDisallow: /page", False),
        ("User-agent: *\nDisallow: /other", True),
        ("User-agent: *\nDisallow:", True),
        ("User-agent: *\nDisallow: /\nAllow: /page", True),
        ("User-agent: *\nDisallow: /*?x=", False),
        ("User-agent: *\nDisallow: /page$", True),
        ("User-agent: toolrl\nDisallow: /\n\nUser-agent: *\nDisallow:", False),
        ("User-agent: *\nDisallow: /\n\nUser-agent: toolrl\nDisallow:", True),
        ("User-agent: GPTBot\nDisallow: /", True),
        ("\ufeffUser-agent: *\r\nDisallow: /\r\n", False),
        ("<html>not robots</html>", True),
    ],
)
def test_robots_txt_is_obeyed(server, rules, allowed):
    server.answers["/robots.txt"] = Answer(rules.encode(), headers={"Content-Type": "text/plain"})
    server.answers["/page"] = Answer(ARTICLE.encode())
    pages = reader(server, user_agent="toolrl/1.0")
    if allowed:
        assert pages.read(server.url("/page?x=1")).text
    else:
        with pytest.raises(NotReadable, match=r"robots\.txt does not let"):
            pages.read(server.url("/page?x=1"))
    assert len(server.asked("/page")) == allowed


def test_robots_txt_is_requested_once_per_site(server):
    server.answers["/page"] = Answer(ARTICLE.encode())
    pages = reader(server)
    for host in ("a.test", "a.test", "b.test", "a.test"):
        pages.read(server.url("/page", host))
    assert len(server.asked("/robots.txt")) == 2


def test_robots_txt_of_a_redirects_target_is_obeyed(server):
    def robots(request):
        return Answer(b"User-agent: *\nDisallow: /" if request.headers["Host"].startswith("b.") else b"")

    server.answers["/robots.txt"] = robots
    server.answers["/page"] = moved(server.url("/new", "b.test"))
    server.answers["/new"] = Answer(ARTICLE.encode())
    with pytest.raises(NotReadable, match=r"robots\.txt"):
        reader(server).read(server.url("/page", "a.test"))
    assert server.asked("/new") == []


def test_a_site_whose_robots_txt_fails_is_not_read(server):
    server.answers["/robots.txt"] = Answer(b"", 500)
    server.answers["/page"] = Answer(ARTICLE.encode())
    with pytest.raises(NotReadable, match=r"robots\.txt.* cannot be read now"):
        read(server)
    assert server.asked("/page") == []


# ServiceCaller


def test_many_threads_share_a_reader(server):
    server.answers["/page"] = Answer(ARTICLE.encode())
    pages = reader(server)
    with ThreadPoolExecutor(8) as threads:
        documents = list(threads.map(lambda _: pages.read(server.url("/page")), range(24)))
    assert len(set(documents)) == 1


@pytest.mark.parametrize(
    "change",
    [{"timeout_seconds": 0}, {"max_bytes": 0}, {"max_redirects": -1}, {"user_agent": "a\r\nb"}, {"user_agent": ""}],
)
def test_invalid_settings_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        PageSettings(**change)


def test_the_identity_has_exactly_the_settings_the_text_depends_on():
    changes = [{}, {"max_bytes": 5}, {"max_redirects": 1}, {"user_agent": "other"}, {"allow_ports": (80,)}]
    identities = [PageReader(PageSettings(**change)).identity for change in changes]
    identities.append(PageReader(blocked_domains=["a.test"]).identity)
    assert len(set(identities)) == len(identities)
    same = PageSettings(timeout_seconds=1, retry_policy=RetryPolicy(attempts=1), allow_ports=(443, 80))
    assert PageReader(same).identity == identities[0]
