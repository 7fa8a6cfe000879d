"""The main text of a page is extracted, whatever its encoding."""

import pytest

from tests.search.servers import Answer
from tests.search.web.sites import ARTICLE, read, reader
from toolrl.search.base import NotReadable
from toolrl.search.web.page_text import decoded

for package in ("trafilatura", "protego"):
    reason = f"{package} cannot be imported; it comes with the extra `web`"
    pytest.importorskip(package, reason=reason, exc_type=ImportError)


def test_a_page_is_its_article_under_its_title(server):
    server.answers["/page"] = Answer(ARTICLE.encode())
    document = read(server, "/page#top")
    assert document.title == "Cats & dogs"
    assert document.id == document.url == server.url("/page")
    assert "Paragraph 4 tells" in document.text
    assert "7" in document.text
    assert "Home" not in document.text
    assert "Copyright" not in document.text


def test_the_request_names_the_client_and_what_it_accepts(server):
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
def test_plain_text_is_read_unchanged(server, kind):
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
def test_content_that_is_not_text_is_not_readable(server, kind):
    server.answers["/page"] = Answer(b"%PDF-1.7", headers={"Content-Type": kind})
    with pytest.raises(NotReadable, match="only pages of text"):
        read(server)


@pytest.mark.parametrize(
    ("body", "text"),
    [(b"<!DOCTYPE html><p>Hello there.</p>", "Hello there."), (b"text", "text"), (b"%PDF-1.7", None), (b"\0a", None)],
)
def test_the_type_of_content_without_one_is_guessed(server, body, text):
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


# Character encodings


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
        (b'<meta charset="utf-8">' + "ü".encode("latin-1"), "latin1", '<meta charset="utf-8">ü'),
        ("ü".encode("utf-8-sig"), "latin-1", "ü"),
        ("ü".encode("utf-16"), "utf-8", "ü"),
        ("ü".encode(), "no-such-charset", "ü"),
        ("ü".encode(), "zip", "ü"),
        ("ü".encode(), "rot13", "ü"),
        ("ü".encode(), "unicode_escape", "ü"),
        ("ü".encode(), "idna", "ü"),
        ("ü".encode(), "x\0y", "ü"),
        (b"a\xffb", "utf-8", "a�b"),
        # Labels mean the supersets that pages actually use.
        ("镕朱¥".encode("gb18030"), "gb2312", "镕朱¥"),
        ("囍喆".encode("gbk"), "GB_2312-80", "囍喆"),
        ("囍".encode("gbk"), "x-gbk", "囍"),
        (b"<meta charset=gb2312>" + "囍".encode("gbk"), None, "<meta charset=gb2312>囍"),
        (b"100\x80", "gbk", "100€"),
        ("①髙".encode("cp932"), "shift_jis", "①髙"),
        ("①髙".encode("cp932"), "x-sjis", "①髙"),
        (b"\xad\xa1", "euc-jp", "①"),
        (b"\x1b$B\x2d\x21\x1b(B", "iso-2022-jp", "①"),
        ("똠방".encode("cp949"), "euc-kr", "똠방"),
        ("똠방".encode("cp949"), "ks_c_5601-1987", "똠방"),
        ("粵嘅".encode("big5hkscs"), "big5", "粵嘅"),
        ("粵嘅".encode("big5hkscs"), "x-x-big5", "粵嘅"),
        ("ภาษา…".encode("cp874"), "tis-620", "ภาษา…"),
        ("ภาษา…".encode("cp874"), "iso-8859-11", "ภาษา…"),
        ("“ğş”".encode("cp1254"), "iso-8859-9", "“ğş”"),
        ("“a”".encode("cp1252"), "us-ascii", "“a”"),
        ("שלום".encode("iso8859-8"), "iso-8859-8-i", "שלום"),
        ("Привет".encode("mac-cyrillic"), "x-mac-cyrillic", "Привет"),
        ("ü".encode("utf-16-le"), "utf-16", "ü"),
        ("ü".encode(), "unicode-1-1-utf-8", "ü"),
        # A lead byte without its second one does not swallow markup.
        (b"\x81<b>", "gbk", "�<b>"),
        (b"\x81<b>", "shift_jis", "�<b>"),
        # Declared in the markup.
        (b"<meta charset=utf-16le>" + "ü".encode(), None, "<meta charset=utf-16le>ü"),
        (b"<!-- <meta charset=koi8-r> --><p>" + "ü".encode(), None, "<!-- <meta charset=koi8-r> --><p>ü"),
        (b"<p>charset=koi8-r " + "ü".encode(), None, "<p>charset=koi8-r ü"),
        (
            b"<meta http-equiv='Content-Type' content='text/html; charset=big5'>" + "中".encode("big5"),
            None,
            "<meta http-equiv='Content-Type' content='text/html; charset=big5'>中",
        ),
        (
            '<?xml version="1.0" encoding="euc-kr"?>한'.encode("euc-kr"),
            None,
            '<?xml version="1.0" encoding="euc-kr"?>한',
        ),
        # Encodings outside of the standard are ignored.
        ("ü".encode(), "utf-7", "ü"),
        ("ü".encode(), "cp500", "ü"),
        ("ü".encode(), "utf-32", "ü"),
        ("ü".encode(), "hex", "ü"),
        ("ü".encode(), "gb２３１２", "ü"),
    ],
)
def test_characters_are_decoded_as_browsers_do(content, declared, text):
    assert decoded(content, declared) == text


def test_plain_text_declares_no_encoding(server):
    body = "Write <meta charset=koi8-r>, not ü".encode()
    server.answers["/page"] = Answer(body, headers={"Content-Type": "text/plain"})
    assert read(server).text == "Write <meta charset=koi8-r>, not ü"
