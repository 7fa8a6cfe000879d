"""Pages are read as a careful visitor does, from real servers on this machine."""

import gzip
import itertools
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network

import pytest

from tests.search.servers import Answer, Server, closed_port, running
from toolrl.errors import ConfigError
from toolrl.search.base import Document, NotReadable
from toolrl.search.http_get import _tls_context
from toolrl.search.page_text import decoded
from toolrl.search.pages import PageReader, PageSettings
from toolrl.search.politeness import PolitenessSettings

for package in ("trafilatura", "protego"):
    reason = f"{package} cannot be imported; it comes with the extra `web`"
    pytest.importorskip(package, reason=reason, exc_type=ImportError)

QUICK = PolitenessSettings(requests_per_second=None, attempts=2, first_delay_seconds=0, failures_to_open=1000)
HTML = {"Content-Type": "text/html; charset=utf-8"}
ARTICLE = (
    "<html><head><title>Cats &amp; dogs</title></head><body><nav><a href='/'>Home</a> <a href='/about'>About</a></nav>"
    "<article><h1>Which is cleverer?</h1>"
    + "".join(f"<p>Paragraph {number} tells something about cats, and something about dogs.</p>" for number in range(5))
    + "<table><tr><td>Cats</td><td>7</td></tr></table></article><footer>Copyright nobody</footer></body></html>"
)


class Names:
    """Every host is at these addresses, one lookup after the other; the last one stays."""

    def __init__(self, *answers: str):
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **_: object) -> list[tuple]:
        self.asked.append(host)
        text = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        family = socket.AF_INET6 if ip_address(text).version == 6 else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (text, port))]


@pytest.fixture(autouse=True)
def runtime_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def server():
    with running() as server:
        yield server


def reader(
    server: Server, names: Names | None = None, *, allow: str = "127.0.0.0/8", blocked=(), **settings
) -> PageReader:
    settings = {"allow_ports": (server.port,), "politeness": QUICK, **settings}
    return PageReader(
        PageSettings(**settings),
        blocked_domains=blocked,
        allow_addresses=(ip_network(allow),),
        resolve=Names("127.0.0.1") if names is None else names,
    )


def read(server: Server, path: str = "/page", **settings) -> Document:
    return reader(server, **settings).read(server.url(path))


# What is read


def test_a_page_is_its_article_under_its_title(server):
    server.answers["/page"] = Answer(ARTICLE.encode())
    document = read(server, "/page#top")
    assert document.title == "Cats & dogs"
    assert document.id == document.url == server.url("/page")
    assert "Paragraph 4 tells" in document.text
    assert "7" in document.text
    assert "Home" not in document.text
    assert "Copyright" not in document.text


def test_the_request_says_who_asks_and_for_what(server):
    server.answers["/page"] = Answer(ARTICLE.encode())
    reader(server, user_agent="toolrl/1 (+https://toolrl.test)").read(server.url("/page?q=a b&x=ü"))
    (request,) = server.asked("/page")
    assert request.path == "/page?q=a%20b&x=%C3%BC"
    assert request.headers["User-Agent"] == "toolrl/1 (+https://toolrl.test)"
    assert request.headers["Host"] == f"site.test:{server.port}"
    assert "Cookie" not in request.headers


@pytest.mark.parametrize(
    "kind", ["text/plain", "text/markdown; charset=utf-8", "application/json", "application/ld+json"]
)
def test_text_is_read_as_it_is(server, kind):
    server.answers["/page"] = Answer(b'  {"a": "<b>"}\r\nc\n', headers={"Content-Type": kind})
    assert read(server).text == '{"a": "<b>"}\nc'


def test_xhtml_with_an_xml_declaration_is_read(server):
    body = (
        '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head>'
    )
    body += "<body><p>Grüße aus XHTML, einer alten Sprache.</p></body></html>"
    server.answers["/page"] = Answer(body.encode(), headers={"Content-Type": "application/xhtml+xml"})
    assert read(server).text == "Grüße aus XHTML, einer alten Sprache."


@pytest.mark.parametrize("kind", ["application/pdf", "image/png", "application/octet-stream", "video/mp4"])
def test_what_is_no_text_is_not_readable(server, kind):
    server.answers["/page"] = Answer(b"%PDF-1.7", headers={"Content-Type": kind})
    with pytest.raises(NotReadable, match="only pages of text"):
        read(server)


@pytest.mark.parametrize(
    ("body", "text"),
    [(b"<!DOCTYPE html><p>Hello there.</p>", "Hello there."), (b"text", "text"), (b"%PDF-1.7", None), (b"\0a", None)],
)
def test_content_without_a_type_is_looked_at(server, body, text):
    server.answers["/page"] = Answer(body, headers={})
    if text:
        assert read(server).text == text
    else:
        with pytest.raises(NotReadable, match="only pages of text"):
            read(server)


@pytest.mark.parametrize("body", [b"", b"<html><body><div id='root'></div><script>show()</script></body></html>"])
def test_a_page_without_text_is_not_readable(server, body):
    server.answers["/page"] = Answer(body)
    with pytest.raises(NotReadable, match="no text"):
        read(server)


def test_a_page_of_links_alone_is_all_of_its_text(server):
    server.answers["/page"] = Answer(
        b"<html><body><ul><li><a href='/a'>Apples</a></li><li><a href='/b'>Pears</a></li></ul>"
    )
    assert {"Apples", "Pears"} <= set(read(server).text.replace("-", " ").split())


@pytest.mark.parametrize(
    "body",
    [
        b"<div>" * 20_000 + b"deep",
        b"<table><tr><td>" * 3000,
        b"<html><p>nul\0l \x01 \xff\xfe text that is long enough</p>",
        b"<" * 50_000,
        b"&#x110000; &#xD800; &bogus; text",
        b"<title>" + b"x" * 100_000,
        bytes(range(256)) * 50,
        b"<!--" * 10_000,
    ],
)
def test_no_page_breaks_the_reader(server, body):
    server.answers["/page"] = Answer(body)
    try:
        document = read(server)
    except NotReadable:
        return
    assert "\0" not in document.text
    document.text.encode()


# How characters are coded


@pytest.mark.parametrize(
    ("content", "declared", "text"),
    [
        ("Grüße".encode(), "utf-8", "Grüße"),
        ("Grüße".encode("latin-1"), "iso-8859-1", "Grüße"),
        ("“Grüße”".encode("cp1252"), "iso-8859-1", "“Grüße”"),
        ("“Grüße”".encode("cp1252"), None, "“Grüße”"),
        ("Grüße".encode(), None, "Grüße"),
        ("Привет".encode("koi8-r"), "KOI8-R", "Привет"),
        (b"<meta charset='shift_jis'>" + "日本".encode("shift_jis"), None, "<meta charset='shift_jis'>日本"),
        (b'<meta charset="utf-8">' + "ü".encode("latin-1"), "latin-1", '<meta charset="utf-8">ü'),
        ("ü".encode("utf-8-sig"), "latin-1", "ü"),
        ("ü".encode("utf-16"), "utf-8", "ü"),
        ("ü".encode(), "no-such-charset", "ü"),
        ("ü".encode(), "zip", "ü"),
        ("ü".encode(), "rot13", "ü"),
        ("ü".encode(), "unicode_escape", "ü"),
        ("ü".encode(), "idna", "ü"),
        ("ü".encode(), "x\0y", "ü"),
        (b"a\xffb", "utf-8", "a�b"),
    ],
)
def test_characters_are_decoded_as_browsers_do(content, declared, text):
    assert decoded(content, declared) == text


# What a site answers


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
def test_a_page_that_is_not_shown_is_not_readable_and_not_asked_for_again(server, status, message):
    server.answers["/page"] = Answer(b"", status)
    with pytest.raises(NotReadable, match=message):
        read(server)
    assert len(server.asked("/page")) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_site_that_does_well_the_second_time_is_read(server, status):
    server.answers["/page"] = [Answer(b"", status), Answer(ARTICLE.encode())]
    assert "Paragraph 1" in read(server).text


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_site_that_keeps_failing_is_the_models_problem(server, status):
    server.answers["/page"] = Answer(b"", status)
    with pytest.raises(NotReadable, match=f"cannot be read now: .*{status}"):
        read(server)
    assert len(server.asked("/page")) == 2


def test_a_site_that_wants_to_be_left_alone_is(server):
    server.answers["/page"] = Answer(b"", 429, {"Retry-After": "900"})
    pages = reader(server, politeness=PolitenessSettings(requests_per_second=1000, burst=10))
    for _ in range(2):
        with pytest.raises(NotReadable, match="cannot be read now"):
            pages.read(server.url("/page"))
    assert len(server.asked("/page")) == 1


def test_one_sites_failures_are_not_anothers(server):
    server.answers["/down"] = Answer(b"", 500)
    server.answers["/page"] = Answer(ARTICLE.encode())
    pages = reader(server, politeness=PolitenessSettings(requests_per_second=None, attempts=1, failures_to_open=1))
    for message in ("500", "not answered lately"):
        with pytest.raises(NotReadable, match=message):
            pages.read(server.url("/down", "a.test"))
    assert "Paragraph" in pages.read(server.url("/page", "b.test")).text


def test_a_site_that_takes_no_connections_is_the_models_problem():
    port = closed_port()
    pages = PageReader(
        PageSettings(allow_ports=(port,), politeness=QUICK),
        allow_addresses=(ip_network("127.0.0.0/8"),),
        resolve=Names("127.0.0.1"),
    )
    with pytest.raises(NotReadable, match=r"takes no connections \(Connection refused"):
        pages.read(f"http://site.test:{port}/")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"", None),
        Answer(b"SSH-2.0-OpenSSH\r\n", None),
        Answer(b"HTTP/1.1 abc\r\n\r\n", None),
        Answer(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n", None),
        Answer(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, None),
        Answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", None),
        Answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", None),
        Answer(b"half", 200, {**HTML, "Content-Length": "1000"}),
        Answer(b"not gzip", 200, {**HTML, "Content-Encoding": "gzip"}),
        Answer(gzip.compress(ARTICLE.encode())[:-20], 200, {**HTML, "Content-Encoding": "gzip"}),
        Answer(b"x", 200, {**HTML, "Content-Encoding": "br"}),
    ],
)
def test_answers_that_are_none_are_not_readable(server, answer):
    server.answers["/page"] = answer
    with pytest.raises(NotReadable):
        read(server)


# Limits


@pytest.mark.parametrize(
    ("packing", "pack"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda content: zlib.compress(content)[2:-4]),
        ("identity", bytes),
    ],
)
def test_packed_pages_are_unpacked_up_to_the_limit(server, packing, pack):
    headers = {**HTML, "Content-Encoding": packing}
    server.answers["/page"] = Answer(pack(ARTICLE.encode()), headers=headers)
    assert "Paragraph 4" in read(server, max_bytes=len(ARTICLE)).text
    with pytest.raises(NotReadable, match="larger than"):
        read(server, max_bytes=len(ARTICLE) - 1)
    server.answers["/page"] = Answer(pack(bytes(20_000_000)), headers=headers)
    with pytest.raises(NotReadable, match="larger than 100000 bytes"):
        read(server, max_bytes=100_000)


def test_a_page_without_an_end_is_too_large(server):
    server.answers["/page"] = Answer(itertools.repeat(b"word " * 1000), headers=HTML)
    with pytest.raises(NotReadable, match="larger than"):
        read(server, max_bytes=100_000)


@pytest.mark.parametrize("status", [200, None])
def test_a_page_that_comes_too_slowly_is_given_up(server, status):
    """A byte now and then keeps every single read within its time; only the whole takes too long."""

    def drip(_):
        start = b"HTTP/1.1 200 OK\r\nX: " if status is None else b""
        return Answer(itertools.chain([start], iter(lambda: server.done.wait(0.05) or b"x", True)), status, HTML)

    server.answers["/page"] = drip
    with pytest.raises(NotReadable, match="did not answer in time"):
        read(server, timeout_seconds=1.0)


def test_a_site_that_does_not_answer_is_given_up(server):
    server.answers["/robots.txt"] = lambda request: server.done.wait(60) and Answer()
    with pytest.raises(NotReadable, match="did not answer in time"):
        read(server, timeout_seconds=0.3)


# Redirects


def moved(location: str, status: int = 302) -> Answer:
    return Answer(b"", status, {"Location": location})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("text", ["é", "é".encode().decode("latin-1"), "%C3%A9"])
def test_redirects_are_followed_to_the_url_that_the_page_is_under(server, status, text):
    server.answers["/page"] = moved("../new?x=" + text, status)
    server.answers["/new"] = Answer(ARTICLE.encode())
    assert read(server).url == server.url("/new?x=%C3%A9")


def test_redirects_are_followed_so_often_and_not_more_often(server):
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
def test_where_redirects_lead_is_checked_as_the_first_url_is(server, location, message):
    server.answers["/page"] = moved(location.replace("PORT", str(server.port)))
    server.answers["/"] = Answer(ARTICLE.encode())
    with pytest.raises(NotReadable, match=message):
        read(server, blocked=["answers.test"], allow_ports=(server.port, 443))
    assert server.asked("/") == []


# Addresses


def test_a_name_that_comes_to_mean_a_private_address_is_not_followed_there():
    with running("127.0.0.1") as public, running("127.0.0.2", public.port) as private:
        for server in (public, private):
            server.answers["/page"] = Answer(ARTICLE.encode())
        # For robots.txt the name is at the first address, and from then on at the second.
        names = Names("127.0.0.1", "127.0.0.2")
        with pytest.raises(NotReadable, match="not public"):
            reader(public, names, allow="127.0.0.1/32").read(public.url("/page"))
        assert private.requests == []
        assert public.asked("/page") == []


def test_a_name_is_looked_up_once_for_each_connection():
    with running("127.0.0.1") as public, running("127.0.0.2", public.port) as private:
        for server in (public, private):
            server.answers["/page"] = Answer(ARTICLE.encode())
        # Were it looked up again for connecting, the second lookup would lead to the other server.
        names = Names("127.0.0.1", "127.0.0.1", "127.0.0.2")
        reader(public, names, allow="127.0.0.1/32").read(public.url("/page"))
        assert names.asked == ["site.test"] * 2  # for robots.txt and for the page
        assert len(public.asked("/page")) == 1
        assert private.requests == []


def test_the_next_address_is_tried_if_the_first_takes_no_connections(server):
    def resolve(host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port)) for text in ("127.0.0.9", "127.0.0.1")]

    server.answers["/page"] = Answer(ARTICLE.encode())
    assert "Paragraph" in read(server, names=resolve).text


def test_without_leave_this_machine_is_not_visited(server):
    server.answers["/page"] = Answer(ARTICLE.encode())
    with pytest.raises(NotReadable, match=r"not public \(loopback\)"):
        PageReader(PageSettings(allow_ports=(server.port,))).read(server.url("/page", "localhost"))
    assert server.requests == []


WITHOUT_NETWORK = """
import socket
from ipaddress import ip_network
from toolrl.search.pages import PageReader, PageSettings

def at(family, address):
    return lambda host, port, **_: [(family, socket.SOCK_STREAM, 6, "", (address, port))]

allow = (ip_network("127.0.0.0/8"), ip_network("::1"))
for resolve in (at(socket.AF_INET, "127.0.0.1"), at(socket.AF_INET6, "::1"), socket.getaddrinfo):
    try:
        PageReader(allow_addresses=allow, resolve=resolve).read("http://site.test/")
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_that_the_network_here_is_down_is_a_fault():
    unshare = shutil.which("unshare")
    command = [unshare or "unshare", "--user", "--map-root-user", "--net"]
    if unshare is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let us make a network namespace, in which the network is down")
    result = subprocess.run(
        [*command, sys.executable, "-c", WITHOUT_NETWORK], capture_output=True, text=True, check=True
    )
    no_network, no_ipv6, no_names = result.stdout.splitlines()
    assert no_network.startswith("RetrieverFault the network cannot be used here")
    assert no_ipv6.startswith("NotReadable 'http://site.test/robots.txt': it has IPv6 addresses only")
    assert no_names.startswith("RetrieverFault names cannot be looked up")


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


def test_robots_txt_is_asked_for_once_for_a_site(server):
    server.answers["/page"] = Answer(ARTICLE.encode())
    pages = reader(server)
    for host in ("a.test", "a.test", "b.test", "a.test"):
        pages.read(server.url("/page", host))
    assert len(server.asked("/robots.txt")) == 2


def test_robots_txt_of_where_a_redirect_leads_is_obeyed(server):
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


# The whole


def test_many_threads_share_a_reader(server):
    server.answers["/page"] = Answer(ARTICLE.encode())
    pages = reader(server)
    with ThreadPoolExecutor(8) as threads:
        documents = list(threads.map(lambda _: pages.read(server.url("/page")), range(24)))
    assert len(set(documents)) == 1


def test_a_reader_leaves_no_connection_open(server):
    server.answers["/page"] = Answer(ARTICLE.encode())
    server.answers["/half"] = Answer(b"half", 200, {**HTML, "Content-Length": "1000"})
    pages = reader(server)
    pages.read(server.url("/page"))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NotReadable):
        pages.read(server.url("/half"))
    for _ in range(5):
        pages.read(server.url("/page"))
    while len(os.listdir("/proc/self/fd")) > before:  # the server's side closes on its own thread
        threading.Event().wait(0.01)


@pytest.mark.parametrize(
    "change",
    [{"timeout_seconds": 0}, {"max_bytes": 0}, {"max_redirects": -1}, {"user_agent": "a\r\nb"}, {"user_agent": ""}],
)
def test_settings_that_make_no_sense_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        PageSettings(**change)


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    """A certificate for site.test that is trusted, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, which makes the certificate")
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=site.test"]
    command += ["-addext", "subjectAltName=DNS:site.test", "-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(files[0]))
    _tls_context.cache_clear()
    yield files
    _tls_context.cache_clear()


def test_https_is_for_the_name_in_the_certificate_only(certificate):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    with running(tls=tls) as server:
        server.answers["/page"] = Answer(ARTICLE.encode())
        pages = reader(server)
        assert "Paragraph" in pages.read(server.url("/page").replace("http:", "https:")).text
        with pytest.raises(NotReadable, match="certificate is not valid"):
            pages.read(server.url("/page", "other.test").replace("http:", "https:"))
        assert len(server.asked("/page")) == 1
