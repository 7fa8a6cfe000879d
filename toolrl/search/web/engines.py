"""`ddgs` engines that distinguish an answer without results from no answer.

`ddgs` (9.16) treats every status but 200 as an empty page, and a page it cannot parse as one without results; it says
"No results found." in both cases. Here each response is checked, and `TryAgain` is raised for those that are not an
answer. Its engines also unescape the URLs of results, which changes some of them; here they stay as they are.
"""

from __future__ import annotations

import json
import re
from functools import cache
from html import escape
from typing import Any, ClassVar
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

from ddgs.engines import ENGINES
from ddgs.exceptions import DDGSException, TimeoutException
from ddgs.results import TextResult
from lxml.etree import LxmlError

from toolrl.errors import ConfigError
from toolrl.support.retry import TryAgain, retry_after_seconds

# How engines say that there are no results. One that says it in another way is assumed to be failing.
_NOTHING_FOUND = re.compile(
    r"""class=["'][^"']*\b(?:no-results|result--no-result)\b"""
    r"|no results (?:were )?found|did not find (?:any )?results for|no pages found|not many great matches"
    r"|did not match any documents|no results for your search",
    re.IGNORECASE,
)
# DuckDuckGo's challenge for suspected bots; mostly with status 202, sometimes with 200.
_CHALLENGE = re.compile(
    r"""(?:class|id)=["'][^"']*(?:anomaly-modal|challenge-form)|/anomaly\.js|bots use DuckDuckGo too""", re.IGNORECASE
)
_PARSING_ERRORS = (ValueError, LookupError, TypeError, AttributeError, StopIteration, SyntaxError, LxmlError)


class _Result(TextResult):
    """A result whose URL is not unescaped."""

    _normalizers: ClassVar[dict[str, Any]] = {
        name: function for name, function in TextResult._normalizers.items() if name != "href"
    }


class WatchedEngine:
    """A mixin for `ddgs` engines, which checks their responses. Not thread-safe, like the engines."""

    name: ClassVar[str]
    http_client: Any

    _query = ""

    @property
    def result_type(self) -> type[TextResult]:
        """The class of results."""
        return _Result

    def search(self, query: str, **settings: Any) -> list[Any]:
        """Ask the engine.

        Raises:
            TryAgain: It did not answer, or the answer cannot be parsed.
        """
        self._query = query
        try:
            results = super().search(query, **settings)  # type: ignore[misc]
        except _PARSING_ERRORS as error:
            raise TryAgain(f"it answered with something that cannot be read ({type(error).__name__})") from error
        except DDGSException as error:
            raise _failure(error) from error
        usable = []
        for result in results or []:
            result.href = _target(result.href)
            if result.title and result.href.startswith(("http://", "https://")):
                usable.append(result)
        return usable

    def request(self, *arguments: Any, **options: Any) -> str:
        """Send a request, and reject a response that is not an answer; see `ddgs.base.BaseSearchEngine.request`."""
        response = self.http_client.request(*arguments, **options)
        status = response.status_code
        if status != 200:
            headers = getattr(getattr(response, "_resp", None), "headers", None) or {}
            limits = status in (202, 403, 418, 429)
            reason = f"it limits us (HTTP status {status})" if limits else f"HTTP status {status}"
            raise TryAgain(reason, retry_after_seconds(headers.get("retry-after")))
        text: str = response.text
        if not text.strip():
            raise TryAgain("it answered with an empty page")
        return text

    def extract_results(self, html_text: str) -> list[Any]:
        """Parse a result page; reject one that neither has results nor says that there are none."""
        results: list[Any] = super().extract_results(html_text)  # type: ignore[misc]
        if not any(result.title and result.href for result in results):
            if _CHALLENGE.search(html_text):
                raise TryAgain("it takes us for a bot and wants a puzzle solved")
            if not self._says_nothing_found(html_text):
                raise TryAgain("its page has neither results nor says that there are none")
        return results

    def _says_nothing_found(self, text: str) -> bool:
        if self.name in ("wikipedia", "grokipedia"):  # these answer with JSON
            answer = json.loads(text)
            if self.name == "grokipedia":
                return isinstance(answer["results"], list)
            return isinstance(answer, list) and len(answer) == 4 and isinstance(answer[1], list)
        if _NOTHING_FOUND.search(self._query):  # the page repeats the query
            for echo in {self._query, escape(self._query), quote(self._query), quote_plus(self._query)}:
                text = text.replace(echo, " ")
        return _NOTHING_FOUND.search(text) is not None


@cache
def watched(name: str) -> type[Any]:
    """The engine of a given name, with its responses checked.

    Raises:
        ConfigError: `ddgs` has no such engine.
    """
    engine = ENGINES["text"].get(name)
    if engine is None:
        raise ConfigError(f"there is no search engine {name!r}; ddgs has {', '.join(sorted(ENGINES['text']))}")
    return type(f"Watched{engine.__name__}", (WatchedEngine, engine), {})


def _failure(error: DDGSException) -> TryAgain:
    if isinstance(error, TimeoutException):
        return TryAgain("it did not answer in time")
    return TryAgain(f"it cannot be reached ({str(error)[:300]})")


def _target(href: str) -> str:
    """The URL of a result, without DuckDuckGo's redirect."""
    href = f"https:{href}" if href.startswith("//") else href
    try:
        parts = urlsplit(href)
    except ValueError:
        return ""
    if (parts.hostname or "").endswith("duckduckgo.com") and parts.path == "/l/":
        return next(iter(parse_qs(parts.query).get("uddg", [])), "")
    return href.replace(" ", "%20")
