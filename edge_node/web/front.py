"""The gateway's HTTP server: the metrics and the page at one address, asked on threads, answered from the daemon's loop.

Invariant: an address that cannot be had (another program has the port) keeps no gateway from watching: it is tried again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import TypeVar
from wsgiref.simple_server import WSGIServer

import structlog

from edge_node.config_schema import Gateway
from edge_node.web.page import Page, Query, Sight
from edge_node.web.site import NotNow, Site
from edge_node.web.view import Live
from models import local_http, metrics
from models.messages import Response
from models.metrics import Family

LOOP_S = 5.0  # for which the loop is waited for
RETRY_S = 10.0

log = structlog.get_logger("linewatch.web")

T = TypeVar("T")


class Front:
    """``families`` and ``sight`` are read on the loop; ``ask`` is called on any thread, as
    :meth:`edge_node.request_desk.RequestDesk.ask`. :attr:`page` is the daemon's to keep up to date."""

    def __init__(
        self,
        families: Callable[[], list[Family]],
        sight: Callable[[], Sight],
        ask: Callable[[str, bytes], Future[Response]],
        now_ns: Callable[[], int],
    ) -> None:
        self.page = Page()
        self._families, self._sight, self._ask, self._now_ns = families, sight, ask, now_ns
        self._loop: asyncio.AbstractEventLoop
        self._gateway: Gateway | None = None
        self._server: WSGIServer | None = None
        self._next_s = 0.0
        self.error: str | None = None  # why it does not serve, though it should

    def open(self, gateway: Gateway, loop: asyncio.AbstractEventLoop) -> str | None:
        """Serves at ``gateway``'s address until :meth:`close`, as soon as that can be had; the address, if that is at once."""
        self._loop, self._gateway = loop, gateway
        return self._try(gateway)

    def step(self) -> None:
        """Tries again what did not succeed, when it is due."""
        if self._gateway is not None and self.error is not None and time.monotonic() >= self._next_s:
            address = self._try(self._gateway)
            if address is not None:
                log.info("the page and the metrics are served now", http=address)

    def close(self) -> None:
        self._gateway = None
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def families(self) -> list[Family]:
        failed = float(self.error is not None)
        return [
            Family(
                "http_failed", "1 while the page and the metrics cannot be served.", "gauge", (), {(): failed}
            )
        ]

    def _try(self, gateway: Gateway) -> str | None:
        refused = Family("http_refused", "HTTP requests that were not let in.", "counter")

        def read() -> list[Family]:
            return [*self._on_loop(self._families), replace(refused, values={(): guard.n_refused})]

        guard = local_http.Guard(metrics.application(read), gateway.http_token_file, gateway.http_token_env)
        site = Site(guard, self._look, self._ask, page=gateway.page)
        try:
            self._server = local_http.serve(gateway.metrics_host, gateway.metrics_port, site)
        except OSError as error:
            text = (
                f"the page and the metrics cannot be served on {gateway.metrics_host}:{gateway.metrics_port}: "
                f"{error.strerror}. Give the port free, or set [gateway] metrics_port to a free one, or to 0 for none, and "
                "restart"
            )
            if self.error is None:
                log.error(f"{text}; tried again every {RETRY_S:g} s")
            self.error, self._next_s = text, time.monotonic() + RETRY_S
            return None
        self.error = None
        if gateway.page:
            self.page.open()
        host = f"[{gateway.metrics_host}]" if ":" in gateway.metrics_host else gateway.metrics_host
        return f"http://{host}:{self._server.server_port}/" + ("" if gateway.page else "metrics")

    def _look(self, query: Query) -> Live:
        return self._on_loop(lambda: self.page.look(query, self._sight(), self._now_ns()))

    def _on_loop(self, read: Callable[[], T]) -> T:
        """What ``read`` gives on the loop, so that it is of one instant. Raises NotNow."""

        async def gather() -> T:
            return read()

        coroutine = gather()
        try:
            asked = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError as error:
            coroutine.close()
            raise NotNow("the gateway has ended") from error
        try:
            return asked.result(timeout=LOOP_S)
        except (TimeoutError, CancelledError) as error:
            raise NotNow("the gateway is busy, or ends") from error
