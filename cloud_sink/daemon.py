"""The sink as it runs: what gateways publish into the stores, until it is told to stop. The only wiring."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import structlog

from cloud_sink import alert_retention, figures
from cloud_sink.bundle import BundleError
from cloud_sink.config import Config
from cloud_sink.events import EventStore, EventsUnavailable
from cloud_sink.features_store import FeatureStore, StoreError
from cloud_sink.influx_queue import PointQueue, QueueError
from cloud_sink.influx_writer import Writer
from cloud_sink.intake import Intake, client_id_of
from cloud_sink.leading import Leader
from cloud_sink.retraining_runs import Retrainer
from cloud_sink.scoring import Scoring
from cloud_sink.scoring_model import ModelUnusable, ScoringModel
from cloud_sink.stores import Stores
from models import local_http, metrics
from models.metrics import Family

TURN_S = 0.5
TAKEN_OVER_S = 5.0  # nothing came for so long: the other sink's messages are all here
DAY_NS = 86_400 * 10**9

log = structlog.get_logger("linewatch.sink")


class SinkFailed(Exception):
    """The sink cannot start, or a part of it failed; the text says why and what to do."""


class Daemon:
    """For one configuration; :meth:`run` it once. ``takeover``: names of sinks that are gone for good, whose messages, which the
    broker still keeps for them, are taken first."""

    def __init__(
        self, config: Config, *, takeover: Iterable[str] = (), now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """Opens both stores. Raises SinkFailed."""
        self._config = config
        self._now_ns = now_ns
        self._stopping = threading.Event()
        try:
            self._features = FeatureStore(config.store.features, config.sink.name)
            self._events = EventStore(config.store.events)
            self._events.create()
            self._points = self._writer = None
            if config.influx.url is not None:
                self._points = PointQueue(Path(config.influx.queue), config.influx.queue_bytes)
                self._writer = Writer(config.influx, self._points)
            self._retrainer = Retrainer(config, self._events, self._points, now_ns=now_ns)
        except (StoreError, EventsUnavailable, QueueError, BundleError) as error:
            raise SinkFailed(str(error)) from error
        stores = Stores(self._events, self._features, self._points)
        self._leader = Leader(
            config,
            self._events,
            self._features,
            retrainer=self._retrainer,
            every_s=config.rollout.every_s,
            now_ns=now_ns,
        )
        self._own = Intake(config, stores, client_id=client_id_of(config.sink.name), now_ns=now_ns)
        self._others = [
            Intake(
                config,
                stores,
                client_id=client_id_of(name),
                label=f"takeover of {name}",
                takes_over=True,
                now_ns=now_ns,
            )
            for name in takeover
        ]
        self._scoring: Scoring | None = None
        if config.scoring.models:
            try:
                models = {name: ScoringModel(folder) for name, folder in config.scoring.models.items()}
            except ModelUnusable as error:
                raise SinkFailed(f"[scoring] models: {error}") from error
            self._scoring = Scoring(config, models)
        self._compacts_s = time.monotonic() + config.store.compact_s
        self._removed: Counter[tuple[str, str]] = Counter()  # of the event database, by table and reason

    def stop(self) -> None:
        """Ends :meth:`run`. From any thread, and from a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Serves until :meth:`stop`, SIGTERM or SIGINT. Raises SinkFailed."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        with contextlib.ExitStack() as to_close:
            to_close.callback(self._events.close)
            address = self._serve_http(to_close)
            if self._points is not None and self._writer is not None:
                to_close.callback(self._points.close)
                to_close.callback(self._writer.stop)
                self._writer.start()
            to_close.callback(self._leader.stop)
            self._leader.start()
            for intake in self._intakes:
                to_close.callback(intake.stop)
                intake.start()
            if self._scoring is not None:
                to_close.callback(self._scoring.stop)
                self._scoring.start()
            log.info("running", sink=self._config.sink.name, events=self._events.where, http=address)
            while not self._stopping.wait(TURN_S):
                self._turn()
        log.info("stopped")

    @property
    def _intakes(self) -> list[Intake]:
        return [self._own, *self._others]

    def _turn(self) -> None:
        for intake in self._intakes:
            if intake.failure is not None:
                raise SinkFailed(f"storing failed by a defect: {intake.failure!r}") from intake.failure
            if intake.connection.finished.done():
                error = intake.connection.finished.exception()
                raise SinkFailed(f"the connection failed by a defect: {error!r}") from error
        if self._scoring is not None:
            failure = self._scoring.failure
            if self._scoring.connection.finished.done():
                failure = self._scoring.connection.finished.exception()
            if failure is not None:
                raise SinkFailed(f"scoring failed by a defect: {failure!r}") from failure
        if self._leader.failure is not None:
            raise SinkFailed(
                f"judging rollouts failed by a defect: {self._leader.failure!r}"
            ) from self._leader.failure
        if self._writer is not None and self._writer.failure is not None:
            raise SinkFailed(
                f"writing points failed by a defect: {self._writer.failure!r}"
            ) from self._writer.failure
        for intake in list(self._others):
            if intake.idle_s >= TAKEN_OVER_S:
                self._others.remove(intake)
                intake.end_session()
                n = intake.counters().stored.total()
                found = (
                    "all that was kept for it has been taken over"
                    if intake.found_session
                    else "nothing was kept for it"
                )
                log.info(found, session=intake.client_id, n_stored=n)
        if time.monotonic() >= self._compacts_s:
            self._compacts_s = time.monotonic() + self._config.store.compact_s
            self._tidy()

    def _tidy(self) -> None:
        now_ns = self._now_ns()
        try:
            n_old = self._features.retain(now_ns, self._config.store.retention_days)
            n_merged = self._features.compact(now_ns - DAY_NS)
        except StoreError as error:
            log.error(f"summaries cannot be compacted: {error}")
        else:
            log.info("summaries are compacted", n_files_merged=n_merged, n_files_too_old=n_old)
        store = self._config.store
        gone: Counter[tuple[str, str]] = Counter()
        try:
            alert_retention.retain(self._events, now_ns, store.alert_days, store.max_alerts_per_gateway, gone)
        except EventsUnavailable as error:
            log.error(f"old alerts cannot be removed: {error}")
        self._removed += gone
        for (table, reason), n in gone.items():
            log.info(f"old {table} are removed", n_rows=n, reason=reason)

    def _serve_http(self, to_close: contextlib.ExitStack) -> str | None:
        sink = self._config.sink
        if not sink.metrics_port:
            return None
        guard = local_http.Guard(
            metrics.application(self._families), sink.http_token_file, sink.http_token_env
        )
        try:
            server = local_http.serve(sink.metrics_host, sink.metrics_port, self._health(guard))
        except OSError as error:
            raise SinkFailed(
                f"/metrics cannot be served on {sink.metrics_host}:{sink.metrics_port}: {error.strerror}. Set metrics_port "
                "to a free port, or to 0 for none"
            ) from error
        to_close.callback(server.server_close)
        to_close.callback(server.shutdown)
        return f"http://{sink.metrics_host}:{server.server_port}/metrics"

    def _families(self) -> list[Family]:
        return [
            *figures.families(self._intakes, self._features),
            *figures.of_retention(self._removed),
            *figures.of_points(self._points, self._writer),
            *([] if self._scoring is None else self._scoring.families()),
            *figures.of_retraining(
                self._retrainer.drifts, self._retrainer.results, self._retrainer.n_looks_failed
            ),
        ]

    def _health(self, app: WSGIApplication) -> WSGIApplication:
        """``/healthz`` for whoever asks: 200, or 503 and what is wrong. All else is for ``app``."""

        def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            if environ.get("PATH_INFO") != "/healthz":
                return app(environ, start_response)
            wrong = self._own.problem
            if wrong is None and not self._own.connection.connected:
                wrong = f"not connected: {self._own.connection.last_error or 'not yet'}"
            if wrong is None and self._scoring is not None and not self._scoring.listens:
                wrong = f"no requests to score are heard: {self._scoring.connection.last_error or 'not yet'}"
            body = f"{wrong or 'ok'}\n".encode()
            status = "200 OK" if wrong is None else "503 Service Unavailable"
            start_response(
                status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
            )
            return [body]

        return answer

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stop()
