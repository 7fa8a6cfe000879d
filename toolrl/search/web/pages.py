"""Reading a page of the web as text, as a careful visitor does."""

from __future__ import annotations

import re
import socket
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from urllib.parse import urljoin

from toolrl.errors import ConfigError, MissingExtra
from toolrl.search.base import Document, NotReadable
from toolrl.search.web.addresses import AddressGuard, IPNetwork, Place, Resolve, shown
from toolrl.search.web.http_get import Deadline, Reply, get
from toolrl.search.web.page_text import document_of, require_trafilatura
from toolrl.support.retry import (
    CircuitOpen,
    RetriesExhausted,
    RetryPolicy,
    ServiceCaller,
    TryAgain,
    retry_after_seconds,
)

_REDIRECTS = (301, 302, 303, 307, 308)

_ROBOTS_BYTES = 500 * 1024  # RFC 9309, section 2.5
_ROBOTS_SECONDS = 3600.0
_SITES_REMEMBERED = 512
# Rates are files; so many of them at most, whatever a model asks for.
_RATES = 4096


@dataclass(frozen=True, slots=True)
class PageSettings:
    """How pages are read.

    Attributes:
        timeout_seconds: Wall-clock limit of everything that goes over the network for one page: robots.txt, redirects
            and further attempts included.
        max_bytes: Of a page, unpacked.
        max_redirects: Followed for one page.
        user_agent: Who asks; robots.txt is read for its part before the first "/".
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
        """Refuse what makes no sense.

        Raises:
            ConfigError: A number is too small, or the user agent cannot be sent.
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

    Whatever is wrong with the URL or its site is `NotReadable`, for the model: it chose the URL. A site that refuses us
    for a while is so too. Only what says that the network here is down is a `RetrieverFault`.
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
            settings: How.
            blocked_domains: See `AddressGuard`; they hold for redirects too.
            allow_addresses: See `AddressGuard`.
            resolve: See `AddressGuard`.

        Raises:
            MissingExtra: trafilatura or protego is not installed.
            ConfigError: A domain is not one.
        """
        self._protego = _protego()
        require_trafilatura()
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
        """Those settings that what is read depends on."""
        settings = self.settings
        return (
            f"PageReader(max_bytes={settings.max_bytes}, max_redirects={settings.max_redirects}, "
            f"user_agent={settings.user_agent!r}, ports={','.join(map(str, sorted(settings.allow_ports)))}, "
            f"blocked={','.join(sorted(self.guard.blocked_domains))})"
        )

    def read(self, url: str) -> Document:
        """Return a page's text under the URL that it was found at in the end.

        Raises:
            NotReadable: There is no such page, or it may not be read; the message is for the model.
            RetrieverFault: The network here is down, or too many pages of the site are being read.
        """
        deadline = Deadline(self.settings.timeout_seconds)
        reply = self._follow(self.guard.place(url), deadline, self.settings.max_bytes, obey_robots=True)
        if reply.status != 200:
            raise NotReadable(f"{shown(reply.place.url)}: {_explained(reply.status)}")
        if reply.too_large:
            raise NotReadable(f"{shown(reply.place.url)}: the page is larger than {self.settings.max_bytes} bytes")
        return document_of(reply)

    def close(self) -> None:
        """End what waits for its turn; may be called twice."""
        with self._lock:
            for caller in self._sites.values():
                caller.close()

    def _follow(self, place: Place, deadline: Deadline, max_bytes: int, *, obey_robots: bool) -> Reply:
        """Ask for a place, and for where its redirects lead to; each of them is checked as the first is."""
        for _ in range(self.settings.max_redirects + 1):
            if obey_robots:
                self._check_robots(place, deadline)
            reply = self._ask(place, deadline, max_bytes)
            location = reply.headers.get("Location") if reply.status in _REDIRECTS else None
            if location is None:
                return reply
            try:
                target = urljoin(place.url, _header_text(location))
            except ValueError:
                raise NotReadable(f"{shown(place.url)}: it leads to something that is not a URL") from None
            place = self.guard.place(target)
        raise NotReadable(f"{shown(place.url)}: there were more than {self.settings.max_redirects} redirects")

    def _ask(self, place: Place, deadline: Deadline, max_bytes: int) -> Reply:
        def attempt() -> Reply:
            reply = get(place, self.guard, deadline, max_bytes=max_bytes, user_agent=self.settings.user_agent)
            if reply.status in (408, 425, 429) or reply.status >= 500:
                raise TryAgain(_explained(reply.status), retry_after_seconds(reply.headers.get("Retry-After")))
            return reply

        try:
            seconds = deadline.remaining()
            return self._site(place).call(shown(place.url), attempt, within_seconds=seconds)
        except RetriesExhausted as failure:
            raise NotReadable(f"{shown(place.url)} cannot be read now: {failure.reason}") from failure
        except CircuitOpen as failure:
            raise NotReadable(f"{shown(place.url)} cannot be read now: the site has not answered lately") from failure
        except TimeoutError:
            raise NotReadable(f"{shown(place.url)} cannot be read now: it took too long to get there") from None

    def _site(self, place: Place) -> ServiceCaller:
        name = f"pages of site {zlib.crc32(place.origin.encode()) % _RATES}"
        with self._lock:
            caller = self._sites.pop(name, None)
            if caller is None:
                caller = ServiceCaller(name, self.settings.retry_policy)
            self._sites[name] = caller
            if len(self._sites) > _SITES_REMEMBERED:
                self._sites.popitem(last=False)
        return caller

    def _check_robots(self, place: Place, deadline: Deadline) -> None:
        now = time.monotonic()
        with self._lock:
            expires, rules = self._robots.get(place.origin, (0.0, None))
        if expires < now:
            rules = self._read_robots(place, deadline)
            with self._lock:
                self._robots.pop(place.origin, None)
                self._robots[place.origin] = now + _ROBOTS_SECONDS, rules
                if len(self._robots) > _SITES_REMEMBERED:
                    self._robots.popitem(last=False)
        if rules is not None and not rules.can_fetch(place.url, self.settings.user_agent.partition("/")[0]):
            raise NotReadable(f"{shown(place.url)}: the site's robots.txt does not let programs read this page")

    def _read_robots(self, place: Place, deadline: Deadline) -> Any:
        """The site's rules; None if it has none (RFC 9309, section 2.3.1.3: any status of 400 to 499).

        Raises:
            NotReadable: The site does not answer; then its pages may not be read either.
        """
        robots = self.guard.place(f"{place.origin}/robots.txt")
        reply = self._follow(robots, deadline, _ROBOTS_BYTES, obey_robots=False)
        return self._protego.Protego.parse(reply.body.decode("utf-8-sig", "replace")) if reply.status == 200 else None


def _header_text(value: str) -> str:
    """A header, whose bytes `http.client` takes for Latin-1, as UTF-8 if it is that."""
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


def _protego() -> ModuleType:
    try:
        import protego
    except ImportError as error:
        raise MissingExtra("protego", "web") from error
    return protego
