"""No server can delay a reader, fill its memory or lead it to a forbidden address."""

import gzip
import itertools
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import tracemalloc
import zlib
from ipaddress import ip_network

import pytest

from tests.search.servers import Answer, closed_port, running
from tests.search.web.sites import ARTICLE, HTML, QUICK, Names, read, reader
from toolrl.search.base import NotReadable
from toolrl.search.web.http_get import _tls_context
from toolrl.search.web.pages import PageReader, PageSettings

for package in ("trafilatura", "protego"):
    reason = f"{package} cannot be imported; it comes with the extra `web`"
    pytest.importorskip(package, reason=reason, exc_type=ImportError)

# Malformed responses


def test_a_site_that_refuses_connections_is_the_models_problem():
    port = closed_port()
    pages = PageReader(
        PageSettings(allow_ports=(port,), retry_policy=QUICK),
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
        Answer(ARTICLE.encode(), 200, {**HTML, "Content-Length": "100000"}),
        Answer(b"not gzip", 200, {**HTML, "Content-Encoding": "gzip"}),
        Answer(gzip.compress(ARTICLE.encode())[:-20], 200, {**HTML, "Content-Encoding": "gzip"}),
        Answer(b"x", 200, {**HTML, "Content-Encoding": "br"}),
    ],
)
def test_malformed_responses_are_not_readable(server, answer):
    server.answers["/page"] = answer
    with pytest.raises(NotReadable, match=r"cannot be read now|packed in an unknown way"):
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
def test_compressed_pages_are_decompressed_up_to_the_limit(server, packing, pack):
    headers = {**HTML, "Content-Encoding": packing}
    server.answers["/page"] = Answer(pack(ARTICLE.encode()), headers=headers)
    assert "Paragraph 4" in read(server, max_bytes=len(ARTICLE)).text
    with pytest.raises(NotReadable, match="larger than"):
        read(server, max_bytes=len(ARTICLE) - 1)
    server.answers["/page"] = Answer(pack(bytes(20_000_000)), headers=headers)
    tracemalloc.start()
    try:
        with pytest.raises(NotReadable, match="larger than 100000 bytes"):
            read(server, max_bytes=100_000)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000  # it was never decompressed as a whole
    finally:
        tracemalloc.stop()


def test_a_page_without_an_end_is_too_large(server):
    server.answers["/page"] = Answer(itertools.repeat(b"word " * 1000), headers=HTML)
    with pytest.raises(NotReadable, match="larger than"):
        read(server, max_bytes=100_000)


@pytest.mark.parametrize("status", [200, None])
def test_a_page_that_arrives_too_slowly_is_abandoned(server, status):
    """Single bytes keep each read within its time limit; only the whole takes too long."""

    def drip(_):
        start = b"HTTP/1.1 200 OK\r\nX: " if status is None else b""
        return Answer(itertools.chain([start], iter(lambda: server.done.wait(0.05) or b"x", True)), status, HTML)

    server.answers["/page"] = drip
    with pytest.raises(NotReadable, match="did not answer in time"):
        read(server, timeout_seconds=1.0)


def test_a_site_that_does_not_answer_is_abandoned(server):
    server.answers["/robots.txt"] = lambda request: server.done.wait(60) and Answer()
    with pytest.raises(NotReadable, match="did not answer in time"):
        read(server, timeout_seconds=0.3)


# Addresses


def test_a_name_that_is_rebound_to_a_private_address_is_not_followed():
    with running("127.0.0.1") as public, running("127.0.0.2", public.port) as private:
        for server in (public, private):
            server.answers["/page"] = Answer(ARTICLE.encode())
        # The name resolves to the first address for robots.txt, and to the second from then on.
        names = Names("127.0.0.1", "127.0.0.2")
        with pytest.raises(NotReadable, match="not public"):
            reader(public, names, allow="127.0.0.1/32").read(public.url("/page"))
        assert private.requests == []
        assert public.asked("/page") == []


def test_a_name_is_looked_up_once_for_each_connection():
    with running("127.0.0.1") as public, running("127.0.0.2", public.port) as private:
        for server in (public, private):
            server.answers["/page"] = Answer(ARTICLE.encode())
        # If it were looked up again for connecting, it would lead to the other server.
        names = Names("127.0.0.1", "127.0.0.1", "127.0.0.2")
        reader(public, names, allow="127.0.0.1/32").read(public.url("/page"))
        assert names.asked == ["site.test"] * 2  # for robots.txt and for the page
        assert len(public.asked("/page")) == 1
        assert private.requests == []


def test_the_next_address_is_tried_if_the_first_refuses_connections(server):
    def resolve(host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port)) for text in ("127.0.0.9", "127.0.0.1")]

    server.answers["/page"] = Answer(ARTICLE.encode())
    assert "Paragraph" in read(server, names=resolve).text


def test_this_machine_is_not_visited_by_default(server):
    server.answers["/page"] = Answer(ARTICLE.encode())
    with pytest.raises(NotReadable, match=r"not public \(loopback\)"):
        PageReader(PageSettings(allow_ports=(server.port,))).read(server.url("/page", "localhost"))
    assert server.requests == []


WITHOUT_NETWORK = """
import socket
from ipaddress import ip_network
from toolrl.search.web.pages import PageReader, PageSettings

def at(family, address):
    return lambda host, port, **_: [(family, socket.SOCK_STREAM, 6, "", (address, port))]

allow = (ip_network("127.0.0.0/8"), ip_network("::1"))
for resolve in (at(socket.AF_INET, "127.0.0.1"), at(socket.AF_INET6, "::1"), socket.getaddrinfo):
    try:
        PageReader(allow_addresses=allow, resolve=resolve).read("http://site.test/")
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_a_network_that_is_down_here_is_a_fault():
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


def test_a_certificate_must_match_the_name(certificate):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    with running(tls=tls) as server:
        server.answers["/page"] = Answer(ARTICLE.encode())
        pages = reader(server)
        assert "Paragraph" in pages.read(server.url("/page").replace("http:", "https:")).text
        with pytest.raises(NotReadable, match="certificate is not valid"):
            pages.read(server.url("/page", "other.test").replace("http:", "https:"))
        assert len(server.asked("/page")) == 1
