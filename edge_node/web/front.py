"""The gateway's HTTP server: the metrics and the page at one address, asked on threads, answered from the daemon's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import TypeVar
from wsgiref.simple_server import WSGIServer

from edge_node import local_http, metrics
from edge_node.config_schema import Gateway
from edge_node.metrics import Family
from edge_node.web.page import Page, Query, Sight
from edge_node.web.site import NotNow, Site
from edge_node.web.view import Live
from models.messages import Response

LOOP_S = 5.0  # for which the loop is waited for

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
        self._server: WSGIServer

    def open(self, gateway: Gateway, loop: asyncio.AbstractEventLoop) -> str:
        """Serves at ``gateway``'s address until :meth:`close`, and returns it. Raises OSError when it cannot be had."""
        self._loop = loop
        refused = Family("http_refused", "HTTP requests that were not let in.", "counter")

        def read() -> list[Family]:
            return [*self._on_loop(self._families), replace(refused, values={(): guard.n_refused})]

        guard = local_http.Guard(metrics.application(read), gateway)
        site = Site(guard, self._look, self._ask, page=gateway.page)
        self._server = local_http.serve(gateway.metrics_host, gateway.metrics_port, site)
        if gateway.page:
            self.page.open()
        host = f"[{gateway.metrics_host}]" if ":" in gateway.metrics_host else gateway.metrics_host
        return f"http://{host}:{self._server.server_port}/" + ("" if gateway.page else "metrics")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

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
