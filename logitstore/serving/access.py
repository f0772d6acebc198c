"""Who is let in, and what every answer says of itself: a token, the host's name, safe headers.

A program sends the token as `Authorization: Bearer TOKEN`. A browser gives it once, by `?token=` or
the page that asks for it, and gets a cookie that no script can read; it holds no token, and means
nothing to the next server that is started. Both are compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from logitstore.store.remote.calls import is_loopback
from logitstore.viewing.page import page

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard"]

_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
_POLICY = "default-src 'none'; frame-ancestors 'none'"  # of what is no page
_LOGIN = "/login"
_MOST_FORM = 4096  # bytes
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}
_REFUSED = "this needs the token of the server"


class Guard:
    """What stands before the application: it answers itself whom it does not let in.

    app: the application.
    token: without which nothing is given; None for none.
    host: that is listened to. Where it is this machine's own, requests must call it by such a name,
        so that no page of another site can have its name lead here.
    port: of the server; cookies of one machine are common to all its ports.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, host: str, port: int) -> None:
        self._app = app
        self._token = None if token is None else _digest(token)
        self._session = secrets.token_urlsafe(32)
        self._cookie = f"logitstore-{port}"
        self._names = {*_LOOPBACK_NAMES, host.lower()} if is_loopback(host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have the application answer it."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        answer = self._refused(request)
        if answer is None and request.method == "POST":
            answer = await self._logged_in(request)
        if answer is None:
            answer = self._without_token(request)
        await (answer or self._app)(scope, receive, _with_headers(send))

    def _refused(self, request: Request) -> Response | None:
        """The answer to what nobody may ask."""
        if request.method not in ("GET", "HEAD") and (
            request.method != "POST" or request.url.path != _LOGIN or self._token is None
        ):
            return Response("this is read only\n", status_code=405, headers={"allow": "GET, HEAD"})
        if self._names is not None and _host_of(request.headers.get("host", "")) not in self._names:
            return Response("another host is meant\n", status_code=421)
        return None

    async def _logged_in(self, request: Request) -> Response:
        """The answer to the form of the page that asks for the token."""
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _MOST_FORM:
                return Response("too much\n", status_code=413)
        given = parse_qs(body.decode("latin-1")).get("token", [""])[0].strip()
        return self._welcome("/") if self._is_token(given) else _login_page(wrong=True)

    def _without_token(self, request: Request) -> Response | None:
        """The answer to whom the token is missing; None where all is well."""
        if self._token is None:
            return None
        given = request.query_params.get("token")
        if given is not None:
            if not self._is_token(given):
                return _login_page(wrong=True)
            rest = [
                (key, value) for key, value in request.query_params.multi_items() if key != "token"
            ]
            return self._welcome(_local(request.url.path) + (f"?{urlencode(rest)}" if rest else ""))
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(bearer.strip()):
            return None
        session = request.cookies.get(self._cookie, "")
        if hmac.compare_digest(_digest(session), _digest(self._session)):
            return None
        if "text/html" in request.headers.get("accept", ""):
            return _login_page(wrong=False)
        return JSONResponse(
            {"error": _REFUSED}, status_code=401, headers={"www-authenticate": "Bearer"}
        )

    def _is_token(self, given: str) -> bool:
        return self._token is not None and hmac.compare_digest(_digest(given), self._token)

    def _welcome(self, path: str) -> Response:
        """On to a page, with the cookie of a browser that gave the token."""
        answer = RedirectResponse(path, status_code=303)
        answer.set_cookie(self._cookie, self._session, httponly=True, samesite="strict", path="/")
        return answer


def _host_of(netloc: str) -> str:
    """The name in a Host header, without its port."""
    name = netloc.rsplit(":", 1)[0] if not netloc.endswith("]") else netloc
    return name.strip("[]").lower()


def _local(path: str) -> str:
    """A path of this server: `//host` would be another."""
    return "/" + path.lstrip("/\\")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="replace")).digest()


def _login_page(*, wrong: bool) -> Response:
    made = page("login", title="logitstore", data={"wrong": wrong})
    body = made.html.replace("<!--wrong-->", "This is not the token." if wrong else "")
    headers = {"content-security-policy": made.policy, "www-authenticate": "Bearer"}
    return HTMLResponse(body, status_code=401, headers=headers)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            headers.setdefault("content-security-policy", _POLICY)
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return sending
