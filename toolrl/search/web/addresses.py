"""Decides which URLs may be visited: those at public addresses, outside of blocked domains.

Names are resolved here, and the connection must go to the address that was checked: resolving the name again could
give another one.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from toolrl.errors import ConfigError, RetrieverFault
from toolrl.search.base import NotReadable
from toolrl.support.waiting import ends_within

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[..., Sequence[tuple[Any, ...]]]

# https://www.iana.org/assignments/iana-ipv4-special-registry, multicast, and the address of Azure's host services.
# Python's own `is_global` has changed between releases.
_RANGES_IPV4: dict[str, tuple[str, ...]] = {
    "loopback": ("127.0.0.0/8",),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
    "carrier-grade NAT": ("100.64.0.0/10",),
    "link-local": ("169.254.0.0/16",),
    "cloud metadata": ("168.63.129.16/32",),
    "multicast": ("224.0.0.0/4",),
    "reserved": (
        *("0.0.0.0/8", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4"),
    ),
}
NOT_PUBLIC_IPV4 = [(kind, ipaddress.IPv4Network(text)) for kind, texts in _RANGES_IPV4.items() for text in texts]
# All public addresses are in one block (https://www.iana.org/assignments/ipv6-address-space), which excludes
# IPv4-mapped ones and NAT64. Not public within it: protocol assignments with Teredo, documentation, 6to4.
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))

# Reserved, of the time for a lookup, for checking whether any name can be looked up.
_CONTROL_SECONDS = 3.0
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class ParsedURL:
    """The parts of a URL that a request needs.

    Attributes:
        scheme: "http" or "https".
        host: The name, in ASCII.
        port: The port.
        target: Path and query, escaped as in the request.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def origin(self) -> str:
        """Scheme, host and port, as a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    @property
    def url(self) -> str:
        """The URL, without its fragment."""
        return self.origin + self.target


class AddressGuard:
    """Decides which URLs and addresses may be visited. Thread-safe."""

    def __init__(
        self,
        *,
        blocked_domains: Iterable[str] = (),
        allow_addresses: Sequence[IPNetwork] = (),
        allow_ports: Iterable[int] = (80, 443),
        control_host: str = "example.com",
        resolve: Resolve = socket.getaddrinfo,
    ):
        """Make a guard.

        Args:
            blocked_domains: Domains to refuse, with their subdomains; such as those with a benchmark's answers.
            allow_addresses: Networks that may be visited although they are not public: for tests, and for an intranet
                whose pages the model may read.
            allow_ports: The ports that URLs may name.
            control_host: Looked up when another name fails: if this one fails too, the resolver is at fault.
            resolve: As `socket.getaddrinfo`.

        Raises:
            ConfigError: A blocked domain is not a domain.
        """
        self.blocked_domains = blocked(blocked_domains)
        self.allow_addresses = tuple(allow_addresses)
        self.allow_ports = frozenset(allow_ports)
        self._control_host = control_host
        self._resolve = resolve
        self._names_work_until = 0.0

    def parse(self, url: str) -> ParsedURL:
        """Parse a URL.

        Raises:
            NotReadable: It is not the URL of a web page, or may not be visited.
        """
        parts, host = _parts(url)
        port = parts.port if parts.port is not None else _DEFAULT_PORTS[parts.scheme]
        if port not in self.allow_ports:
            raise NotReadable(f"{shown(url)}: port {port} may not be visited")
        if is_blocked(url, self.blocked_domains):
            raise NotReadable(f"{shown(url)}: this site may not be visited here")
        literal = _literal(host)
        if literal is not None and not self._is_allowed(literal):
            raise NotReadable(f"{shown(url)}: give the name of a site, not an IP address")
        target = _escaped(parts.path or "/") + (f"?{_escaped(parts.query)}" if parts.query else "")
        return ParsedURL(parts.scheme, host, port, target)

    def addresses(self, parsed: ParsedURL, timeout_seconds: float) -> list[IPAddress]:
        """Look up the addresses of a host that may be visited: at least one.

        Raises:
            NotReadable: The host does not exist, or has no public address.
            RetrieverFault: The name servers cannot be reached.
        """
        found = self._look_up(parsed, timeout_seconds)
        public = [address for address in found if self._is_allowed(address) or why_not_public(address) is None]
        if not public:
            reason = why_not_public(found[0]) if found else "missing"
            raise NotReadable(f"{shown(parsed.url)}: its address is not public ({reason})")
        return public

    def _look_up(self, parsed: ParsedURL, timeout_seconds: float) -> list[IPAddress]:
        control_seconds = min(_CONTROL_SECONDS, timeout_seconds / 2)
        seconds = timeout_seconds - control_seconds
        answer = _within(seconds, lambda: self._resolve(parsed.host, parsed.port, type=socket.SOCK_STREAM))
        if isinstance(answer, (list, tuple)):
            texts = dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in answer)
            return [ipaddress.ip_address(text) for text in texts]
        # The model chose the name: a wrong one, or one with broken name servers, is its mistake. A resolver that is
        # down is not, and the resolver's errors do not always tell the two apart.
        if not self._names_can_be_looked_up(control_seconds):
            raise RetrieverFault(f"names cannot be looked up: {parsed.host}: {answer or 'no answer in time'}")
        if answer is None or (isinstance(answer, socket.gaierror) and answer.errno == socket.EAI_AGAIN):
            raise NotReadable(f"{shown(parsed.url)}: the name servers of {parsed.host!r} do not answer")
        raise NotReadable(f"{shown(parsed.url)}: there is no host {parsed.host!r}")

    def _names_can_be_looked_up(self, timeout_seconds: float) -> bool:
        if time.monotonic() < self._names_work_until:
            return True
        answer = _within(timeout_seconds, lambda: self._resolve(self._control_host, 443, type=socket.SOCK_STREAM))
        if not isinstance(answer, (list, tuple)):
            return False
        self._names_work_until = time.monotonic() + 30.0
        return True

    def _is_allowed(self, address: IPAddress) -> bool:
        return any(address in network for network in self.allow_addresses)


def why_not_public(address: IPAddress) -> str | None:
    """Say why an address is not on the public internet; None if it is."""
    if isinstance(address, ipaddress.IPv4Address):
        kind = next((kind for kind, network in NOT_PUBLIC_IPV4 if address in network), None)
    elif address in _PUBLIC_6 and not any(address in network for network in _NOT_PUBLIC_6):
        kind = None
    else:
        kind = "reserved, or another address in disguise"
    return kind or ("this machine's own" if _is_own(address) else None)


def blocked(domains: Iterable[str]) -> frozenset[str]:
    """Normalise domains for comparison: in ASCII, lower case.

    Raises:
        ConfigError: One of them is not a domain.
    """
    names = set()
    for domain in domains:
        name = _ascii_host(domain.strip().removeprefix("*."))
        if name is None or "." not in name:
            raise ConfigError(f"blocked domain {domain!r} is not a domain; write it as example.com")
        names.add(name)
    return frozenset(names)


def is_blocked(url: str, domains: frozenset[str]) -> bool:
    """Whether a URL leads to one of the domains (see `blocked`), or contains its name.

    The URL of an archive or a proxy has the address of the page it shows in its path or query.
    """
    if not domains:
        return False
    text = url
    for _ in range(3):  # a URL within a URL within a URL
        text = unquote(text)
    try:
        host = _ascii_host(urlsplit(url).hostname or "") or ""
    except ValueError:
        host = ""
    if host.endswith(".translate.goog"):  # "a-b.com" is "a--b-com" there
        text += " " + re.sub(r"--|-", lambda found: "-" if found[0] == "--" else ".", host.split(".")[0])
    named = [host, *(_ascii_host(name) or "" for name in re.findall(r"[^\s/?#&=:@,;|\\'\"<>()\[\]{}]+", text))]
    return any(not domains.isdisjoint(_with_parents(name)) for name in named)


def _with_parents(name: str) -> Iterator[str]:
    """A host name and the domains it belongs to."""
    while name:
        yield name
        name = name.partition(".")[2]


def shown(url: str) -> str:
    """A URL as messages show it."""
    return repr(url if len(url) <= 200 else url[:200] + "...")


def _parts(url: str) -> tuple[SplitResult, str]:
    """Split the URL of a web page; its host in ASCII."""
    url = url.strip()
    if any(ord(character) < 33 or ord(character) == 127 for character in url.replace(" ", "")) or len(url) > 2000:
        raise NotReadable(f"{shown(url)} is not a URL: it has control characters, or is too long")
    try:
        parts = urlsplit(url)
        has_user, name = "@" in parts.netloc, parts.hostname or ""
        _ = parts.port
    except ValueError as error:
        raise NotReadable(f"{shown(url)} is not a URL: {error}") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise NotReadable(f"{shown(url)} is not the URL of a web page: it must begin with http:// or https://")
    host = _ascii_host(name)
    if has_user or host is None or "\\" in parts.netloc:
        raise NotReadable(f"{shown(url)} is not the URL of a web page: its host cannot be used")
    return parts, host


def _ascii_host(name: str) -> str | None:
    """A host name in ASCII and lower case, without a final dot; None if it is not a valid name."""
    name = name.strip().removesuffix(".")
    try:
        name = str(ipaddress.ip_address(name)) if ":" in name else name.encode("idna").decode("ascii").lower()
    except (ValueError, UnicodeError):
        return None
    return name if re.fullmatch(r"[a-z0-9_.:-]+", name) and len(name) <= 253 else None


def _literal(host: str) -> IPAddress | None:
    """The address a host spells out, in any notation of the system's resolver ("0x7f.1"); None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _escaped(text: str) -> str:
    """A path or query in ASCII; existing escapes stay."""
    return re.sub(
        r"[^A-Za-z0-9\-._~!$&'()*+,;=:@/?%\[\]]",
        lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "replace")),
        text,
    )


def _is_own(address: IPAddress) -> bool:
    """Whether an address belongs to this machine; no packet is sent."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]) == address
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise RetrieverFault(f"addresses cannot be checked: {error}") from error
        return False  # no route


def _within(seconds: float, function: Callable[[], Any]) -> Any:
    """Return a function's result, or the OSError or UnicodeError it raises; None if it takes too long.

    The system's resolver cannot be interrupted: its thread is abandoned.
    """
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(function())
        except (OSError, UnicodeError) as error:
            answers.append(error)

    ends_within(max(0.0, seconds), ask)
    return answers[0] if answers else None
