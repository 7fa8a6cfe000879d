"""Shared by tests of the local page: an authorised client, and a parser of pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

from starlette.testclient import TestClient

from toolrl.view.server import make_app

TOKEN = "the-token-of-this-test"


@contextmanager
def client_of(*runs: Path) -> Iterator[TestClient]:
    """An authorised client of a page that serves some runs."""
    with TestClient(make_app(runs, TOKEN), base_url="http://127.0.0.1:8000") as client:
        assert client.get(f"/?token={TOKEN}").status_code == 200
        yield client


class Page(HTMLParser):
    """The contents of a page, as a browser would parse it."""

    def __init__(self, html: str):
        """Parse a page."""
        super().__init__()
        self.tags: set[str] = set()
        self.handlers: list[str] = []
        self.links: list[str] = []
        self.relations: dict[str, str] = {}
        self.blocks: list[str] = []
        self.scripts = 0
        self.version = self.more = ""
        self._text: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.text = "".join(self._text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.handlers += [name for name in given if name.startswith("on")]
        self.links += [given[name] for name in ("href", "src", "action") if name in given]
        self.scripts += tag == "script"
        self.version = given.get("data-version", self.version)
        if "rel" in given and tag == "a":
            self.relations[given["rel"]] = given["href"]
        if given.get("class") == "more":
            self.more = given["href"]
        if tag == "pre":
            self.blocks.append("")
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("script", "style"):
            return
        self._text.append(data)
        if "pre" in self._open:
            first = not self.blocks[-1]
            self.blocks[-1] += data.removeprefix("\n") if first else data
