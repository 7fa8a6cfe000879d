"""Access control: requests must come from this machine, from our own pages, and carry the token of the address.

It keeps out other users of the machine (the token), other sites in the same browser (the cookie is SameSite=Strict, and
the Origin and Sec-Fetch-Site headers are checked), and DNS rebinding (the Host header is checked).

It does not keep out another server on 127.0.0.1 that the same browser visits: cookies ignore ports, so that server
receives ours. It cannot learn the token from the cookie, but can send requests with it while this server runs.
"""

from __future__ import annotations

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from toolrl.support.serving import cross_site_reason
from toolrl.view.rendering import content_security_policy, render

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Access:
    """Middleware that refuses other requests with 403, and adds security headers to every response."""

    def __init__(self, app: ASGIApp, token: str):
        """Guard an application with a token."""
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # WebSockets are not served
        port = (scope.get("server") or ("", 0))[1]
        headers = Headers(scope=scope)
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        is_new = hmac.compare_digest(given.encode(), self._token.encode())
        refusal = cross_site_reason(headers, _names(port).__contains__, by_link=True)
        if not refusal and not is_new and not self._has_cookie(headers, port):
            refusal = "the address has no valid token; open the one that toolrl view printed"

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                found["Content-Security-Policy"] = content_security_policy(served=True)
                for name, value in _HEADERS.items():
                    found[name] = value
                if is_new and not refusal:
                    cookie = f"{_cookie_name(port)}={self._digest(port)}; Path=/; HttpOnly; SameSite=Strict"
                    found.append("Set-Cookie", cookie)
            await send(message)

        if refusal:
            body = render("refused.html", reason=refusal).encode()
            start = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(body)).encode())]
            await answer({"type": "http.response.start", "status": 403, "headers": start})
            await answer({"type": "http.response.body", "body": body})
        else:
            await self._app(scope, receive, answer)

    def _has_cookie(self, headers: Headers, port: int) -> bool:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(_cookie_name(port))
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._digest(port).encode())

    def _digest(self, port: int) -> str:
        return hmac.new(self._token.encode(), f"cookie for port {port}".encode(), hashlib.sha256).hexdigest()


def _names(port: int) -> set[str]:
    """The Host headers that a browser sends to this server."""
    return {f"127.0.0.1:{port}", f"localhost:{port}", *(("127.0.0.1", "localhost") if port == 80 else ())}


def _cookie_name(port: int) -> str:
    return f"toolrl-view-{port}"
