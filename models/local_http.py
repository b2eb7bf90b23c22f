"""HTTP on this computer: served on a thread, and let in by a token where one is configured.

Strategy: WSGI, so that what is served (metrics, a page) and who may see it are pieces of their own: an application is
wrapped in a :class:`Guard` and given to :func:`serve`. The token is read for every request, so that a new one counts at
once.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import structlog

from models.log_limit import LogLimit
from models.secret_values import read_secret

PATIENCE_S = 10.0  # with a client that does not go on
SESSION_S = 12 * 3600
SAME_FAULT_LOG_S = 60.0

log = structlog.get_logger("linewatch.http")


class Guard:
    """``app`` for those who know the token in ``file`` or in the environment's ``variable``; for all, where neither is given.
    From any thread.

    A program shows it as a bearer token; a person is given a session for it (:meth:`session_for`), which a cookie holds: an
    expiry, signed with the token, so that it ends with either and nothing need be remembered.
    """

    def __init__(self, app: WSGIApplication, file: Path | None, variable: str | None) -> None:
        self._app = app
        self._file, self._variable = file, variable
        self._lock = threading.Lock()
        self._log_limit = LogLimit(SAME_FAULT_LOG_S)
        self.n_refused = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self.admits(environ):
            return self._app(environ, start_response)
        self.refused(environ, "a request without the right token is not answered")
        body = b"401: this wants the header Authorization: Bearer, with the token of http_token_file\n"
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("WWW-Authenticate", 'Bearer realm="linewatch"'),
        ]
        start_response("401 Unauthorized", headers)
        return [body]

    @property
    def wants_token(self) -> bool:
        """Whether not everybody is let in."""
        return self._file is not None or self._variable is not None

    def admits(self, environ: WSGIEnvironment) -> bool:
        """Whether who sent this request may pass."""
        if not self.wants_token:
            return True
        token = self._token()
        if token is None:
            return False
        scheme, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() == "bearer" and _same(given.strip(), token):
            return True
        return any(_is_session(value, token) for value in _cookies(environ, cookie_name(environ)))

    def session_for(self, given: str) -> str | None:
        """The value of a cookie for who gave the token; None where it was another."""
        token = self._token()
        if token is None or not _same(given, token):
            return None
        return _session(token, int(time.time()) + SESSION_S)

    def refused(self, environ: WSGIEnvironment, why: str) -> None:
        """Counts a request that is not let in, and logs it now and then."""
        with self._lock:
            self.n_refused += 1
        self._log("refused", f"{environ.get('REMOTE_ADDR')}: {why}")

    def _token(self) -> str | None:
        try:
            return read_secret(self._file, self._variable)
        except ValueError as error:
            self._log("token", f"nobody is let in: http_token_file or http_token_env: {error}")
            return None

    def _log(self, key: str, text: str) -> None:
        with self._lock:
            n_held = self._log_limit.due(key, time.monotonic())
        if n_held is not None:
            log.warning(text + (f" ({n_held} more since it was last logged)" if n_held else ""))


def cookie_name(environ: WSGIEnvironment) -> str:
    """Of this server: a browser sends cookies to all ports of a host."""
    return f"linewatch-{environ.get('SERVER_PORT', '')}"


def _cookies(environ: WSGIEnvironment, name: str) -> Iterator[str]:
    for part in environ.get("HTTP_COOKIE", "").split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            yield value


def _session(token: str, expires_s: int) -> str:
    key = hashlib.sha256(b"linewatch page\0" + token.encode()).digest()
    return f"{expires_s}.{hmac.new(key, str(expires_s).encode(), hashlib.sha256).hexdigest()}"


def _is_session(value: str, token: str) -> bool:
    expires = value.partition(".")[0]
    if not (expires.isascii() and expires.isdigit() and len(expires) <= 12):
        return False
    return _same(value, _session(token, int(expires))) and int(expires) > time.time()


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("latin-1", "replace"), expected.encode())


def serve(host: str, port: int, app: WSGIApplication) -> WSGIServer:
    """Serves ``app`` on a thread of its own until ``shutdown()``; port 0 picks a free one. Raises OSError when it cannot be
    had."""
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    kind: type[_Server] = type("Server", (_Server,), {"address_family": family})
    server = make_server(str(address[0]), port, app, kind, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server


class _Server(ThreadingMixIn, WSGIServer):
    """A thread a request."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or was too slow, is no event."""


class _Quiet(WSGIRequestHandler):
    """Does not log what is asked, and waits for nobody for ever."""

    timeout = PATIENCE_S

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""
