"""Pages in the 2026 layout of https://html.duckduckgo.com/html/, with our own texts."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from tests.search.servers import Answer

_FRAME = """<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-\
transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml">
<head><meta http-equiv="content-type" content="text/html; charset=UTF-8" /><title>{query} at DuckDuckGo</title></head>
<body class="body--html">
<form id="search_form_homepage" class="header__form" action="/html/" method="post">
<input name="q" class="search__input" value="{query}" /></form>
<div><div class="serp__results"><div id="links" class="results">
{content}
</div></div></div>
</body></html>"""

_RESULT = """<div class="result results_links results_links_deep {kind}">
<div class="links_main links_deep result__body">
<h2 class="result__title"><a rel="nofollow" class="result__a" href="{href}">{title}</a></h2>
<div class="result__extras"><div class="result__extras__url"><span class="result__icon">\
<a rel="nofollow" href="{href}">\
<img class="result__icon__img" width="16" height="16" alt="" src="//external-content.duckduckgo.com/ip3/x.ico" /></a>\
</span><a class="result__url" href="{href}">{href}</a></div></div>
<a class="result__snippet" href="{href}">{snippet}</a>
<div class="clear"></div>
</div></div>"""

_AD = "https://duckduckgo.com/y.js?ad_domain=shop.example&amp;ad_provider=bingv7aa&amp;u3=x"

_NO_RESULT = """<div class="result results_links results_links_deep result--no-result">
<div class="links_main links_deep result__body"><div class="no-results">No results found for <b>{query}</b>.</div></div>
</div>"""

_CHALLENGE = """<form id="challenge-form" action="//duckduckgo.com/anomaly.js?sv=html&cc=botnet" method="POST">
<div class="anomaly-modal__mask"><div class="anomaly-modal__modal" data-testid="anomaly-modal">
<div class="anomaly-modal__title">Unfortunately, bots use DuckDuckGo too.</div>
<div class="anomaly-modal__description">Please complete the following challenge to confirm this search was made by a \
human.</div><div class="anomaly-modal__instructions">Select all squares containing a duck:</div>
</div></div></form>"""


def results(query: str, found: Iterable[tuple[str, str, str]], *, ads: int = 0) -> Answer:
    """A page of results, given their URLs, titles and snippets as HTML."""
    blocks = [_RESULT.format(kind="result--ad", href=_AD, title="Buy it", snippet="Cheap")] * ads
    blocks += [
        _RESULT.format(kind="web-result ", href=href, title=title, snippet=snippet) for href, title, snippet in found
    ]
    return Answer(_FRAME.format(query=escape(query), content="\n".join(blocks)).encode())


def nothing(query: str) -> Answer:
    """The page that says there are no results."""
    return Answer(_FRAME.format(query=escape(query), content=_NO_RESULT.format(query=escape(query))).encode())


def challenge(query: str, *, status: int = 202) -> Answer:
    """The challenge for suspected bots."""
    return Answer(_FRAME.format(query=escape(query), content=_CHALLENGE).encode(), status)
