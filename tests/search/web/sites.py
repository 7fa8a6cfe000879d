"""Readers of pages for tests, to which every name is an address of this machine, and a page for them to read."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Any

from tests.search.servers import Server
from toolrl.search.base import Document
from toolrl.search.web.pages import PageReader, PageSettings
from toolrl.support.retry import RetryPolicy

QUICK = RetryPolicy(requests_per_second=None, attempts=2, first_delay_seconds=0, failures_to_open=1000)
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

    def __call__(self, host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        text = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        family = socket.AF_INET6 if ip_address(text).version == 6 else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (text, port))]


def reader(
    server: Server,
    names: Names | None = None,
    *,
    allow: str = "127.0.0.0/8",
    blocked: Sequence[str] = (),
    **settings: Any,
) -> PageReader:
    settings = {"allow_ports": (server.port,), "retry_policy": QUICK, **settings}
    return PageReader(
        PageSettings(**settings),
        blocked_domains=blocked,
        allow_addresses=(ip_network(allow),),
        resolve=Names("127.0.0.1") if names is None else names,
    )


def read(server: Server, path: str = "/page", **settings: Any) -> Document:
    return reader(server, **settings).read(server.url(path))
