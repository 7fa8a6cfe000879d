"""What a page says: from the bytes that a server sent to text for a reader."""

from __future__ import annotations

import codecs
import re
from html import unescape

from toolrl.errors import MissingExtra
from toolrl.search.addresses import shown
from toolrl.search.base import Document, NotReadable
from toolrl.search.http_get import Reply

_HTML_TYPES = ("text/html", "application/xhtml+xml")
_TEXT_TYPES = ("application/json", "application/xml")
_NOT_FOR_PAGES = ("idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "utf_7")


def require_trafilatura() -> None:
    """Refuse to go on without it.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        import trafilatura  # noqa: F401
    except ImportError as error:
        raise MissingExtra("trafilatura", "web") from error


def document_of(reply: Reply) -> Document:
    """A page as a document, whose id is its URL.

    Raises:
        NotReadable: It is not text, or has none.
    """
    url = reply.place.url
    kind = reply.headers.get_content_type() if "Content-Type" in reply.headers else _sniffed(reply.body)
    is_html = kind in _HTML_TYPES
    if not (is_html or kind.startswith("text/") or kind in _TEXT_TYPES or kind.endswith(("+xml", "+json"))):
        name = "a PDF" if kind == "application/pdf" else f"of the type {kind}"
        raise NotReadable(f"{shown(url)}: it is {name}; only pages of text can be read")
    content = _printable(decoded(reply.body, reply.headers.get_content_charset()))
    title, text = (_title(content), _readable(content, url)) if is_html else ("", content.strip())
    if not text:
        raise NotReadable(f"{shown(url)}: the page has no text; it may need a browser to show any")
    return Document(url, title or url, text, url)


def decoded(content: bytes, declared: str | None) -> str:
    """Bytes as text: by their byte order mark, else by what is declared outside or inside, else by what fits."""
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if content.startswith(mark):
            return content.decode(encoding, "replace").removeprefix("\ufeff")
    inside = re.search(rb"""(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_:.-]{2,40})""", content[:2048])
    for name in (declared, inside[1].decode("ascii") if inside else None):
        known = _browsers_encoding(name)
        if known is not None:
            return content.decode(known, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _browsers_encoding(name: str | None) -> str | None:
    """The encoding that browsers use under a name (https://encoding.spec.whatwg.org); None if it is not of text."""
    try:
        # Without this check "zip", "rot13" and their like, which are no encodings of text, would be codecs too.
        codec = codecs.lookup(name or "")
        is_text = isinstance(codec.name, str) and isinstance("a".encode(codec.name), bytes)
    except (LookupError, ValueError, TypeError):
        return None
    if not is_text or codec.name.replace("-", "_") in _NOT_FOR_PAGES:
        return None
    return "cp1252" if codec.name in ("ascii", "iso8859-1") else codec.name


def _sniffed(content: bytes) -> str:
    """A type for content that comes without one."""
    start = content[:1024].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")) or b"<html" in start:
        return "text/html"
    if start.startswith(b"%pdf"):
        return "application/pdf"
    return "application/octet-stream" if b"\0" in start else "text/plain"


def _printable(text: str) -> str:
    """A text without control characters, which parsers of HTML refuse, and halves of surrogate pairs."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", " ", text.replace("\r\n", "\n"))


def _title(html: str) -> str:
    found = re.search(r"<title[^>]{0,200}>([^<]{0,2000})</title", html[:200_000], re.IGNORECASE)
    return _printable(" ".join(unescape(found[1]).split())) if found else ""


def _readable(html: str, url: str) -> str:
    """The text of an HTML page without what surrounds it; all of its text if none stands out."""
    import trafilatura
    from lxml.etree import LxmlError

    try:
        text = trafilatura.extract(html, include_comments=False) or trafilatura.html2txt(html)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError, SyntaxError, LxmlError) as error:
        raise NotReadable(f"{shown(url)}: the page cannot be made sense of ({type(error).__name__})") from error
    return (text or "").strip()
