"""Turns the bytes of a web page into readable text."""

from __future__ import annotations

import codecs
import re
from html import unescape

from toolrl.search.base import Document, NotReadable
from toolrl.search.web.addresses import shown
from toolrl.search.web.http_get import PageResponse

_HTML_TYPES = ("text/html", "application/xhtml+xml")
_TEXT_TYPES = ("application/json", "application/xml")
_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16le", codecs.BOM_UTF16_BE: "utf-16be"}
_COMMENT = re.compile(rb"<!--.*?(?:-->|$)", re.DOTALL)
_META_CHARSET = re.compile(rb"""<meta(?=[\s/])[^>]*?[\s/"';]charset\s*=\s*["']?\s*([\w.:-]{2,40})""", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"""<\?xml(?=\s)[^>]*?\sencoding\s*=\s*["']\s*([\w.:-]{2,40})""")
_NOT_AS_DECLARED_INSIDE = {"x-user-defined": "windows-1252"}


def document_of(response: PageResponse) -> Document:
    """Make a document of a page; its id is its URL.

    Raises:
        NotReadable: The page is not text, or has none.
    """
    url = response.requested.url
    kind = response.headers.get_content_type() if "Content-Type" in response.headers else _sniffed(response.body)
    is_html = kind in _HTML_TYPES
    if not (is_html or kind.startswith("text/") or kind in _TEXT_TYPES or kind.endswith(("+xml", "+json"))):
        name = "a PDF" if kind == "application/pdf" else f"of the type {kind}"
        raise NotReadable(f"{shown(url)}: it is {name}; only pages of text can be read")
    markup = is_html or "xml" in kind
    content = _printable(decoded(response.body, response.headers.get_content_charset(), markup=markup))
    title, text = (_title(content), _readable(content, url)) if is_html else ("", content.strip())
    if not text:
        raise NotReadable(f"{shown(url)}: the page has no text; it may need a browser to show any")
    return Document(url, title or url, text, url)


def decoded(content: bytes, declared: str | None, *, markup: bool = True) -> str:
    """Decode a page as a browser does.

    The encoding is that of the byte order mark, of the response's header, or of a declaration in the markup, in this
    order; otherwise UTF-8 if the bytes are valid, and windows-1252 if not. Labels and decoders are the Encoding
    Standard's (https://encoding.spec.whatwg.org); the search for a declaration is close to HTML's section 13.2.3.2.
    """
    import webencodings

    for mark, label in _MARKS.items():
        if content.startswith(mark):
            return content[len(mark) :].decode(label, "replace")
    encoding = webencodings.lookup(declared) if declared and declared.isascii() else None
    if encoding is None and markup and (inside := _declared_inside(content)):
        encoding = webencodings.lookup(_NOT_AS_DECLARED_INSIDE.get(inside, inside))
        if encoding is not None and encoding.name.startswith("utf-16"):
            encoding = webencodings.lookup("utf-8")  # the declaration itself was readable as ASCII
    if encoding is None:
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            encoding = webencodings.lookup("windows-1252")
    # The standard decodes GBK as its superset GB18030.
    codec = codecs.lookup("gb18030") if encoding.name == "gbk" else encoding.codec_info
    return str(codec.decode(content, "toolrl-as-browsers")[0])


def _declared_inside(content: bytes) -> str | None:
    """The encoding label in a `meta` element or an XML declaration near the start."""
    start = _COMMENT.sub(b"", content[:4096])
    found = _META_CHARSET.search(start) or _XML_ENCODING.match(start.lstrip())
    return found[1].decode("ascii").lower() if found else None


def _as_browsers(error: UnicodeError) -> tuple[str, int]:
    """Decode bytes that the standard's decoders accept and Python's codecs reject; U+FFFD for others."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    codec, pair = error.encoding.replace("-", "_"), error.object[error.start : error.start + 2]
    if codec == "gb18030" and pair[:1] == b"\x80":
        return "€", error.start + 1
    if codec in ("euc_jp", "iso2022_jp") and len(pair) == 2:  # NEC's row 13 and its kin
        try:
            return bytes(byte | 0x80 for byte in pair).decode("euc_jisx0213"), error.start + 2
        except UnicodeDecodeError:
            pass
    return "\ufffd", error.end


codecs.register_error("toolrl-as-browsers", _as_browsers)


def _sniffed(content: bytes) -> str:
    """Guess the type of content sent without one."""
    start = content[:1024].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")) or b"<html" in start:
        return "text/html"
    if start.startswith(b"%pdf"):
        return "application/pdf"
    return "application/octet-stream" if b"\0" in start else "text/plain"


def _printable(text: str) -> str:
    """Replace control characters, which HTML parsers reject, and lone surrogates."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", " ", text.replace("\r\n", "\n"))


def _title(html: str) -> str:
    found = re.search(r"<title[^>]{0,200}>([^<]{0,2000})</title", html[:200_000], re.IGNORECASE)
    return _printable(" ".join(unescape(found[1]).split())) if found else ""


def _readable(html: str, url: str) -> str:
    """Extract the main text of an HTML page; all of its text if no part stands out."""
    import trafilatura
    from lxml.etree import LxmlError

    try:
        text = trafilatura.extract(html, include_comments=False) or trafilatura.html2txt(html)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError, SyntaxError, LxmlError) as error:
        raise NotReadable(f"{shown(url)}: the page cannot be made sense of ({type(error).__name__})") from error
    return (text or "").strip()
