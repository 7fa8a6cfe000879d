"""Only public addresses may be visited, however a URL spells them and whatever name servers answer."""

import socket
import threading
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, strategies as st

from toolrl.errors import ConfigError, RetrieverFault
from toolrl.search.base import NotReadable
from toolrl.search.web.addresses import AddressGuard, blocked, is_blocked, why_not_public

LOOPBACK = (ip_network("127.0.0.0/8"),)


class Names:
    """Answers like a name server; an exception among the answers is raised."""

    def __init__(self, **hosts: list[str] | OSError):
        self.hosts = {name.replace("_", "."): answer for name, answer in hosts.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **_: object) -> list[tuple]:
        self.asked.append(host)
        answer = self.hosts.get(host, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
        if isinstance(answer, OSError):
            raise answer
        families = {4: socket.AF_INET, 6: socket.AF_INET6}
        return [
            (families[ip_address(text.partition("%")[0]).version], socket.SOCK_STREAM, 6, "", (text, port))
            for text in answer
        ]


def addresses(url: str, resolve=socket.getaddrinfo, **settings) -> list[str]:
    guard = AddressGuard(resolve=resolve, **settings)
    return [str(address) for address in guard.addresses(guard.parse(url), 10)]


# Addresses

NOT_PUBLIC = (
    "0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.254 169.254.169.254 "
    "169.254.170.2 168.63.129.16 172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 "
    "198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 "
    ":: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:8.8.8.8 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1 "
    "100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:db8::1 2001:10::1 2001:20::1 2002:7f00:1:: "
    "2002:808:808::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1"
)
PUBLIC = (
    "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 172.15.255.255 172.32.0.0 192.0.1.1 193.0.0.1 "
    "223.255.255.255 2606:4700:4700::1111 2a00:1450:4001::200e 2001:4860:4860::8888 2400::1"
)


@pytest.mark.parametrize("text", NOT_PUBLIC.split())
def test_addresses_that_are_not_public_are_refused(text):
    assert why_not_public(ip_address(text)) is not None
    with pytest.raises(NotReadable, match="not public"):
        addresses("http://site.test/", Names(site_test=[text]))


@pytest.mark.parametrize("text", PUBLIC.split())
def test_public_addresses_are_allowed(text):
    assert why_not_public(ip_address(text)) is None
    assert addresses("http://site.test/", Names(site_test=[text])) == [text]


@given(st.ip_addresses())
def test_addresses_that_python_calls_special_are_refused(address):
    if address.is_private or address.is_loopback or address.is_multicast or address.is_link_local:
        assert why_not_public(address) is not None


def test_this_machines_own_addresses_are_refused_even_if_public(monkeypatch):
    # The machine may have no public address, so its own one is made to count as public.
    monkeypatch.setattr("toolrl.search.web.addresses.NOT_PUBLIC_IPV4", [])
    assert why_not_public(ip_address("127.0.0.1")) == "this machine's own"
    assert why_not_public(ip_address("8.8.8.8")) is None


def test_only_the_public_ones_of_several_addresses_are_used():
    names = Names(site_test=["10.0.0.1", "8.8.8.8", "8.8.8.8", "fe80::1%eth0", "2606:4700::1"])
    assert addresses("http://site.test/", names) == ["8.8.8.8", "2606:4700::1"]


def test_only_allowed_networks_are_visited():
    names = Names(a_test=["127.0.0.1"], b_test=["10.0.0.1"], c_test=["::ffff:127.0.0.1"])
    assert addresses("http://a.test/", names, allow_addresses=LOOPBACK) == ["127.0.0.1"]
    for url in ("http://b.test/", "http://c.test/"):
        with pytest.raises(NotReadable):
            addresses(url, names, allow_addresses=LOOPBACK)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "0", "127.0.0.1.", "8.8.8.8", "１２７.0.0.1"),
        *("127。0。0。1", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[fe80::1%25eth0]"),
    ],
)
def test_literal_addresses_are_refused_in_any_notation(host):
    with pytest.raises(NotReadable):
        addresses(f"http://{host}/")


def test_the_systems_resolver_is_asked():
    with pytest.raises(NotReadable, match=r"not public \(loopback\)"):
        addresses("http://localhost/")
    assert addresses("http://localhost/", allow_addresses=(*LOOPBACK, ip_network("::1")))[0] in ("127.0.0.1", "::1")


# URLs


@pytest.mark.parametrize(
    "url",
    [
        "",
        "site.test",
        "//site.test/",
        "ftp://site.test/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://",
        "http:///path",
        "http:site.test",
        "http://user@site.test/",
        "http://user:pass@site.test/",
        "http://good.test\\@site.test/",
        "http://good.test\\.site.test/",
        "http://site .test/",
        "http://site.test\r\nX: y/",
        "http://site.test/\x00",
        "http://si\tte.test/",
        "http://[::1/",
        "http://[zz]/",
        "http://site..test/",
        "http://.test/",
        "http://" + "a" * 300 + ".test/",
        "http://site.test/" + "a" * 5000,
        "http://site.test:99999/",
        "http://site.test:x/",
        "http://site%2etest/",
        "http://site.test:22/",
        "http://site.test:6379/",
        "https://site.test:8443/",
    ],
)
def test_urls_of_anything_but_web_pages_are_refused_without_a_lookup(url):
    names = Names(site_test=["8.8.8.8"])
    with pytest.raises(NotReadable):
        addresses(url, names)
    assert names.asked == []


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("http://site.test", "http://site.test", "/"),
        (" https://Site.TEST./a?b=c#d ", "https://site.test", "/a?b=c"),
        ("http://site.test:80/", "http://site.test", "/"),
        ("https://site.test:80/", "https://site.test:80", "/"),
        ('http://site.test/ä b/%2F?q=ü"<>', "http://site.test", "/%C3%A4%20b/%2F?q=%C3%BC%22%3C%3E"),
        ("http://bücher.test/", "http://xn--bcher-kva.test", "/"),
        ("http://site.test?x=1", "http://site.test", "/?x=1"),
    ],
)
def test_urls_are_parsed_as_browsers_do(url, origin, target):
    parsed = AddressGuard().parse(url)
    assert (parsed.origin, parsed.target) == (origin, target)
    assert parsed.url == origin + target


def test_other_ports_can_be_allowed():
    assert AddressGuard(allow_ports=[8080]).parse("http://site.test:8080/").port == 8080
    with pytest.raises(NotReadable, match="port 80 "):
        AddressGuard(allow_ports=[8080]).parse("http://site.test/")


# Names


def test_a_name_that_does_not_exist_is_the_models_mistake():
    names = Names(example_com=["8.8.8.8"])
    with pytest.raises(NotReadable, match=r"no host 'nosuch\.test'"):
        addresses("http://nosuch.test/", names)


def test_a_name_whose_name_servers_are_broken_is_the_models_mistake():
    names = Names(site_test=socket.gaierror(socket.EAI_AGAIN, "again"), example_com=["8.8.8.8"])
    with pytest.raises(NotReadable, match=r"name servers of 'site\.test'"):
        addresses("http://site.test/", names)


@pytest.mark.parametrize("code", [socket.EAI_AGAIN, socket.EAI_NONAME, socket.EAI_FAIL])
def test_a_resolver_that_is_down_is_a_fault(code):
    error = socket.gaierror(code, "no name servers")
    with pytest.raises(RetrieverFault, match="names cannot be looked up"):
        addresses("http://site.test/", Names(site_test=error, example_com=error))


def test_the_resolver_is_not_checked_for_every_wrong_name():
    names = Names(example_com=["8.8.8.8"])
    guard = AddressGuard(resolve=names)
    for number in range(5):
        with pytest.raises(NotReadable):
            guard.addresses(guard.parse(f"http://nosuch{number}.test/"), 10)
    assert names.asked.count("example.com") == 1


def test_a_resolver_that_hangs_is_abandoned():
    done = threading.Event()

    def hang(*_: object, **__: object) -> list:
        done.wait(60)
        return []

    guard = AddressGuard(resolve=hang)
    with pytest.raises(RetrieverFault, match="no answer in time"):
        guard.addresses(guard.parse("http://site.test/"), 0.05)
    done.set()


# Blocked domains


@pytest.mark.parametrize(
    "url",
    [
        "http://answers.test/",
        "https://www.answers.test/page",
        "http://ANSWERS.test./",
        "http://a.b.answers.test:80/",
        "https://web.archive.org/web/2024/https://answers.test/q",
        "https://archive.test/web/http:/answers.test",
        "https://proxy.test/?url=https%3A%2F%2Fanswers.test%2Fq",
        "https://proxy.test/?url=https%253A%252F%252Fwww.answers.test%252Fq",
        "https://proxy.test/answers.test",
        "https://proxy.test/#answers.test",
        "https://www-answers-test.translate.goog/q",
        "http://ａnswers.test/",
        "http://user@answers.test/",
    ],
)
def test_blocked_domains_are_refused_also_through_archives_and_proxies(url):
    assert is_blocked(url, blocked(["answers.test"]))
    with pytest.raises(NotReadable):
        AddressGuard(blocked_domains=["answers.test"]).parse(url)


@pytest.mark.parametrize(
    "url",
    ["http://notanswers.test/", "http://answers.test.org/", "http://answers/", "http://test/", "http://other.test/answers"],
)  # fmt: skip
def test_domains_that_resemble_a_blocked_one_are_allowed(url):
    assert not is_blocked(url, blocked(["answers.test"]))


def test_domains_with_other_letters_are_compared_in_ascii():
    domains = blocked(["*.Bücher.test"])
    assert domains == {"xn--bcher-kva.test"}
    assert is_blocked("http://www.xn--bcher-kva.test/", domains)
    assert is_blocked("http://www.bücher.test/", domains)
    assert is_blocked("http://proxy.test/?u=www.b%C3%BCcher.test", domains)


@pytest.mark.parametrize("domain", ["", "com", "https://a.test/", "a b.test", "a.test/path"])
def test_a_blocked_domain_that_is_not_a_domain_is_refused(domain):
    with pytest.raises(ConfigError, match="is not a domain"):
        blocked([domain])


@given(st.text(max_size=60))
def test_no_text_breaks_the_guard(text):
    domains = blocked(["answers.test"])
    for url in (text, f"http://{text}", f"http://site.test/{text}", f"http://{text}:80/"):
        is_blocked(url, domains)
        try:
            parsed = AddressGuard(blocked_domains=["answers.test"]).parse(url)
        except NotReadable:
            continue
        assert parsed.url.isascii()
        assert not set(parsed.url) & set(' \r\n\t\\"<>')
