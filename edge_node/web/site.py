"""What is served over HTTP: ``/metrics`` for programs, the page for people, and the little that the page asks for.

Who may come in: where a token is configured, those who know it, people by a form that gives them a session. Where none is,
those who call this computer by a name of its own: so that a page on the internet whose name is made to point here is
not answered. What changes something is a POST of JSON from a page of this very server, by the browser's own word: no other
site's page can send one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit
from wsgiref.types import StartResponse, WSGIEnvironment

import msgspec

from edge_node.requests import MAX_BYTES
from edge_node.web.assets import Asset, load_assets
from edge_node.web.page import MAX_DRAWN, Query
from edge_node.web.view import Live
from models.config_http import is_loopback
from models.local_http import SESSION_S, Guard, cookie_name
from models.messages import Response
from models.requests import RequestName

ANSWER_S = 20.0  # for which the answer to a request is waited for
MAX_QUERY = 16_384
ACTS: frozenset[RequestName] = frozenset({"ack", "label", "accept_as_normal"})  # what the page may ask for
SECURITY = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
_JSON = "application/json"
_WRONG = "<!-- the token was another -->"


class NotNow(Exception):
    """The daemon does not answer: it is busy, or ends."""


class Refused(Exception):
    """A request that is not done; the text says why."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Site:
    """A WSGI application. ``look`` may raise NotNow; ``ask`` as :meth:`edge_node.request_desk.RequestDesk.ask`. ``page``:
    whether there is anything but metrics."""

    def __init__(
        self,
        guard: Guard,
        look: Callable[[Query], Live],
        ask: Callable[[str, bytes], Future[Response]],
        *,
        page: bool = True,
    ) -> None:
        self._guard = guard  # of the metrics
        self._look, self._ask = look, ask
        self._page = page
        self._assets = load_assets()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics" or not self._page:
            if path == "/metrics":
                return self._guard(environ, start_response)
            return _Reply.text(HTTPStatus.NOT_FOUND, "404: there is /metrics").send(environ, start_response)
        try:
            reply = self._answer(path, environ)
        except Refused as error:
            if error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                self._guard.refused(environ, str(error))
            reply = _Reply.json(error.status, json.dumps({"error": str(error)}).encode())
        return reply.send(environ, start_response)

    def _answer(self, path: str, environ: WSGIEnvironment) -> _Reply:
        if not self._guard.wants_token and not is_loopback(_host(environ)):
            raise Refused(
                HTTPStatus.FORBIDDEN,
                f"without [gateway] http_token_file the page is for this computer alone, not for {_host(environ)!r}",
            )
        posts = environ["REQUEST_METHOD"] == "POST"
        if posts:
            _check_origin(environ)
        elif environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "GET or POST")
        if path == "/login":
            return self._log_in(environ) if posts else self._login_page()
        if path == "/logout" and posts:
            return _to("/login", _cookie(environ, "", 0))
        if not posts and path in self._assets and path != "/":
            return _static(self._assets[path], environ)
        if not self._guard.admits(environ):
            if path == "/" and not posts:
                return _to("/login")
            raise Refused(HTTPStatus.UNAUTHORIZED, "log in first, at /login")
        if path == "/" and not posts:
            return _static(self._assets[path], environ)
        if path == "/api/live" and not posts:
            return self._live(environ)
        name = path.removeprefix("/api/request/")
        if posts and name in ACTS:
            return self._request(name, environ)
        raise Refused(HTTPStatus.NOT_FOUND, "there is no such thing here")

    def _live(self, environ: WSGIEnvironment) -> _Reply:
        given = environ.get("QUERY_STRING", "")
        if len(given) > MAX_QUERY:
            raise Refused(HTTPStatus.REQUEST_URI_TOO_LONG, "ask for fewer scores")
        query = parse_qs(given)
        since = {}
        for wanted in query.get("scores", [])[:MAX_DRAWN]:
            second, _, device_id = wanted.partition(" ")
            if not second.isascii() or not second.isdigit() or len(second) > 12:
                raise Refused(HTTPStatus.BAD_REQUEST, "scores: a second, a blank, a device")
            since[device_id] = int(second)
        layout, over = (query.get(key, [""])[0] for key in ("layout", "over"))
        try:
            live = self._look(Query(layout, over, since))
        except NotNow as error:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
        login = [("Linewatch-Login", "1")] if self._guard.wants_token else []
        return _Reply(HTTPStatus.OK, _JSON, msgspec.json.encode(live), *login)

    def _request(self, name: str, environ: WSGIEnvironment) -> _Reply:
        if environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() != _JSON:
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"a request is {_JSON}")
        told = self._ask(name, _body(environ))
        try:
            answer = told.result(ANSWER_S)
        except CancelledError as error:
            text = "too much waits here, or the gateway stops: ask again"
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, text) from error
        except TimeoutError as error:
            text = f"not answered within {ANSWER_S:g} s; what comes of it will be seen here"
            raise Refused(HTTPStatus.GATEWAY_TIMEOUT, text) from error
        return _Reply.json(HTTPStatus.OK, msgspec.json.encode(answer))

    def _login_page(self, *, wrong: bool = False) -> _Reply:
        if not self._guard.wants_token:
            return _to("/")
        html = self._assets["/login.html"].body
        if not wrong:
            return _Reply(HTTPStatus.OK, "text/html; charset=utf-8", html)
        said = b'<p class="wrong" role="alert">That was not the token.</p>'
        html = html.replace(_WRONG.encode(), said).replace(b'id="token"', b'id="token" aria-invalid="true"')
        return _Reply(HTTPStatus.FORBIDDEN, "text/html; charset=utf-8", html)

    def _log_in(self, environ: WSGIEnvironment) -> _Reply:
        form = parse_qs(_body(environ).decode("utf-8", "replace"))
        session = self._guard.session_for(form.get("token", [""])[0].strip())
        if session is None and self._guard.wants_token:
            self._guard.refused(environ, "the page was asked for with another token")
            return self._login_page(wrong=True)
        return _to("/", _cookie(environ, session or "", SESSION_S if session else 0))


class _Reply:
    """An answer, with the headers that all have."""

    def __init__(
        self, status: HTTPStatus, kind: str, body: bytes, *headers: tuple[str, str], cache: str = "no-store"
    ) -> None:
        self._status, self._body = status, body
        self._headers = [
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", cache),
            *SECURITY,
            *headers,
        ]

    @classmethod
    def json(cls, status: HTTPStatus, body: bytes) -> _Reply:
        return cls(status, _JSON, body)

    @classmethod
    def text(cls, status: HTTPStatus, text: str) -> _Reply:
        return cls(status, "text/plain; charset=utf-8", f"{text}\n".encode())

    def send(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(f"{self._status.value} {self._status.phrase}", self._headers)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else self._body]


def _static(asset: Asset, environ: WSGIEnvironment) -> _Reply:
    headers = ("ETag", asset.etag)
    if asset.etag in environ.get("HTTP_IF_NONE_MATCH", ""):
        return _Reply(HTTPStatus.NOT_MODIFIED, asset.kind, b"", headers, cache="no-cache")
    return _Reply(HTTPStatus.OK, asset.kind, asset.body, headers, cache="no-cache")


def _to(path: str, *headers: tuple[str, str]) -> _Reply:
    return _Reply(
        HTTPStatus.SEE_OTHER, "text/plain; charset=utf-8", f"{path}\n".encode(), ("Location", path), *headers
    )


def _cookie(environ: WSGIEnvironment, value: str, max_age_s: int) -> tuple[str, str]:
    secure = "; Secure" if environ.get("HTTP_ORIGIN", "").startswith("https:") else ""
    return (
        "Set-Cookie",
        f"{cookie_name(environ)}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}",
    )


def _host(environ: WSGIEnvironment) -> str:
    """The name by which this computer was called."""
    try:
        return urlsplit(f"//{environ.get('HTTP_HOST', '')}").hostname or ""
    except ValueError:
        return ""


def _check_origin(environ: WSGIEnvironment) -> None:
    """Raises Refused unless the browser says that a page of this server sent this."""
    site, origin = environ.get("HTTP_SEC_FETCH_SITE"), environ.get("HTTP_ORIGIN", "")
    # Browsers say the former where they trust the address, behind a proxy too; else the latter tells.
    ours = site == "same-origin" if site is not None else _is_of(origin, environ.get("HTTP_HOST", ""))
    if not ours:
        raise Refused(HTTPStatus.FORBIDDEN, "only this server's own page may ask for that")


def _is_of(origin: str, host: str) -> bool:
    scheme, _, place = origin.partition("://")
    return scheme in ("http", "https") and bool(place) and place.lower() == host.lower()


def _body(environ: WSGIEnvironment) -> bytes:
    length = environ.get("CONTENT_LENGTH") or "-"
    if not (length.isascii() and length.isdigit()):
        raise Refused(HTTPStatus.LENGTH_REQUIRED, "how long is it?")
    if int(length) > MAX_BYTES:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BYTES} bytes")
    try:
        body: bytes = environ["wsgi.input"].read(int(length))
    except TimeoutError as error:
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, "it did not come") from error
    return body
