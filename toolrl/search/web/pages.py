"""Reads web pages as text, politely and safely."""

from __future__ import annotations

import re
import socket
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urljoin

from toolrl.errors import ConfigError, MissingExtra
from toolrl.search.base import Document, NotReadable
from toolrl.search.web.addresses import AddressGuard, IPNetwork, ParsedURL, Resolve, shown
from toolrl.search.web.http_get import Deadline, PageResponse, get
from toolrl.search.web.page_text import document_of
from toolrl.support.retry import (
    CircuitOpen,
    RetriesExhausted,
    RetryPolicy,
    ServiceCaller,
    TryAgain,
    retry_after_seconds,
)

T = TypeVar("T")

_REDIRECTS = (301, 302, 303, 307, 308)

_ROBOTS_BYTES = 500 * 1024  # RFC 9309, section 2.5
_ROBOTS_SECONDS = 3600.0
_SITES_REMEMBERED = 512
# Each rate is a file; this bounds their number, whatever a model asks for.
_RATES = 4096


@dataclass(frozen=True, slots=True)
class PageSettings:
    """How pages are read.

    Attributes:
        timeout_seconds: Wall-clock limit of all requests for one page, including robots.txt, redirects and retries.
        max_bytes: Maximum size of a page, decompressed.
        max_redirects: Maximum number of redirects for one page.
        user_agent: The User-Agent header; robots.txt is matched against its part before the first "/".
        allow_ports: The ports that URLs may name.
        retry_policy: How one site is asked.
    """

    timeout_seconds: float = 20.0
    max_bytes: int = 2_000_000
    max_redirects: int = 5
    user_agent: str = "toolrl"
    allow_ports: tuple[int, ...] = (80, 443)
    retry_policy: RetryPolicy = field(
        default_factory=lambda: RetryPolicy(requests_per_second=2.0, burst=4, attempts=2, failures_to_open=4)
    )

    def __post_init__(self) -> None:
        """Validate the settings.

        Raises:
            ConfigError: A number is out of range, or the user agent cannot be sent.
        """
        if self.timeout_seconds <= 0 or self.max_bytes < 1 or self.max_redirects < 0:
            raise ConfigError(
                "timeout_seconds and max_bytes must be positive and max_redirects not negative, got "
                f"{self.timeout_seconds}, {self.max_bytes} and {self.max_redirects}"
            )
        if not re.fullmatch(r"[A-Za-z_-]+[ -~]*", self.user_agent):
            raise ConfigError(f"user_agent must begin with a name and be printable ASCII, got {self.user_agent!r}")


class PageReader:
    """Reads pages by their URLs. Thread-safe.

    Any problem with the URL or its site is `NotReadable`, for the model, which chose the URL; so is a site that refuses
    us for a while. Only an error that shows the network here to be down is a `RetrieverFault`.
    """

    def __init__(
        self,
        settings: PageSettings | None = None,
        *,
        blocked_domains: Iterable[str] = (),
        allow_addresses: Sequence[IPNetwork] = (),
        resolve: Resolve = socket.getaddrinfo,
    ):
        """Prepare to read pages.

        Args:
            settings: How pages are read.
            blocked_domains: See `AddressGuard`; redirects are checked too.
            allow_addresses: See `AddressGuard`.
            resolve: See `AddressGuard`.

        Raises:
            MissingExtra: trafilatura or protego is not installed.
            ConfigError: A blocked domain is not a domain.
        """
        try:
            import protego
            import trafilatura  # noqa: F401
        except ImportError as error:
            raise MissingExtra(error.name or "trafilatura", "web") from error
        self._protego = protego.Protego
        self.settings = PageSettings() if settings is None else settings
        self.guard = AddressGuard(
            blocked_domains=blocked_domains,
            allow_addresses=allow_addresses,
            allow_ports=self.settings.allow_ports,
            resolve=resolve,
        )
        self._sites: OrderedDict[str, ServiceCaller] = OrderedDict()
        self._robots: OrderedDict[str, tuple[float, Any]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def identity(self) -> str:
        """The settings that the text of a page depends on."""
        settings = self.settings
        return (
            f"PageReader(max_bytes={settings.max_bytes}, max_redirects={settings.max_redirects}, "
            f"user_agent={settings.user_agent!r}, ports={','.join(map(str, sorted(settings.allow_ports)))}, "
            f"blocked={','.join(sorted(self.guard.blocked_domains))})"
        )

    def read(self, url: str) -> Document:
        """Return a page's text; its id is the URL after all redirects.

        Raises:
            NotReadable: The page does not exist or may not be read; the message is for the model.
            RetrieverFault: The network here is down, or too many pages of the site are being read.
        """
        deadline = Deadline(self.settings.timeout_seconds)
        response = self._follow(self.guard.parse(url), deadline, self.settings.max_bytes, obey_robots=True)
        if response.status != 200:
            raise NotReadable(f"{shown(response.requested.url)}: {_explained(response.status)}")
        if response.too_large:
            raise NotReadable(
                f"{shown(response.requested.url)}: the page is larger than {self.settings.max_bytes} bytes"
            )
        return document_of(response)

    def close(self) -> None:
        """End waiting requests; may be called twice."""
        with self._lock:
            for caller in self._sites.values():
                caller.close()

    def _follow(self, parsed: ParsedURL, deadline: Deadline, max_bytes: int, *, obey_robots: bool) -> PageResponse:
        """Request a URL and follow its redirects; each of them is checked like the first URL."""
        for _ in range(self.settings.max_redirects + 1):
            if obey_robots:
                self._check_robots(parsed, deadline)
            response = self._ask(parsed, deadline, max_bytes)
            location = response.headers.get("Location") if response.status in _REDIRECTS else None
            if location is None:
                return response
            try:
                target = urljoin(parsed.url, _header_text(location))
            except ValueError:
                raise NotReadable(f"{shown(parsed.url)}: it leads to something that is not a URL") from None
            parsed = self.guard.parse(target)
        raise NotReadable(f"{shown(parsed.url)}: there were more than {self.settings.max_redirects} redirects")

    def _ask(self, parsed: ParsedURL, deadline: Deadline, max_bytes: int) -> PageResponse:
        def attempt() -> PageResponse:
            response = get(parsed, self.guard, deadline, max_bytes=max_bytes, user_agent=self.settings.user_agent)
            if response.status in (408, 425, 429) or response.status >= 500:
                raise TryAgain(_explained(response.status), retry_after_seconds(response.headers.get("Retry-After")))
            return response

        try:
            seconds = deadline.remaining()
            return self._site(parsed).call(shown(parsed.url), attempt, within_seconds=seconds)
        except RetriesExhausted as failure:
            raise NotReadable(f"{shown(parsed.url)} cannot be read now: {failure.reason}") from failure
        except CircuitOpen as failure:
            raise NotReadable(f"{shown(parsed.url)} cannot be read now: the site has not answered lately") from failure
        except TimeoutError:
            raise NotReadable(f"{shown(parsed.url)} cannot be read now: it took too long to get there") from None

    def _site(self, parsed: ParsedURL) -> ServiceCaller:
        name = f"pages of site {zlib.crc32(parsed.origin.encode()) % _RATES}"
        with self._lock:
            caller = self._sites.get(name) or ServiceCaller(name, self.settings.retry_policy)
            _remember(self._sites, name, caller)
        return caller

    def _check_robots(self, parsed: ParsedURL, deadline: Deadline) -> None:
        now = time.monotonic()
        with self._lock:
            expires, rules = self._robots.get(parsed.origin, (0.0, None))
        if expires < now:
            rules = self._read_robots(parsed, deadline)
            with self._lock:
                _remember(self._robots, parsed.origin, (now + _ROBOTS_SECONDS, rules))
        if rules is not None and not rules.can_fetch(parsed.url, self.settings.user_agent.partition("/")[0]):
            raise NotReadable(f"{shown(parsed.url)}: the site's robots.txt does not let programs read this page")

    def _read_robots(self, parsed: ParsedURL, deadline: Deadline) -> Any:
        """Return the site's rules; None if it has none (RFC 9309, section 2.3.1.3: any status from 400 to 499).

        Raises:
            NotReadable: The site does not answer; its pages may not be read then.
        """
        robots = self.guard.parse(f"{parsed.origin}/robots.txt")
        response = self._follow(robots, deadline, _ROBOTS_BYTES, obey_robots=False)
        return self._protego.parse(response.body.decode("utf-8-sig", "replace")) if response.status == 200 else None


def _remember(cache: OrderedDict[str, T], site: str, value: T) -> None:
    """Store a value as the newest one; the oldest is dropped when there are too many."""
    cache[site] = value
    cache.move_to_end(site)
    if len(cache) > _SITES_REMEMBERED:
        cache.popitem(last=False)


def _header_text(value: str) -> str:
    """A header as UTF-8 where it is valid; `http.client` decodes all headers as Latin-1."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def _explained(status: int) -> str:
    meanings = {
        401: "it needs a login",
        403: "the site refuses to show it",
        404: "there is no such page",
        410: "the page is gone",
        429: "the site gets too many requests",
        451: "it may not be shown, for legal reasons",
    }
    meaning = meanings.get(status) or ("the site has an error" if status >= 500 else "the site did not show it")
    return f"{meaning} (HTTP status {status})"
