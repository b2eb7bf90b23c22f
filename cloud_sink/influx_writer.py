"""From the queue to InfluxDB, one batch after the other: what has been taken (2xx) is forgotten, nothing else is.

Strategy: lines joined by hand and written synchronously, by influxdb-client for the API of version 2 (which version 3 and others
take too), by its HTTP library for version 1's ``/write``. A database that is away is tried again with back-off. A
batch that is refused (4xx) is cut in halves until the lines are found that it is refused for: those are set aside, the rest is
written. Invariant: a bad line holds up nobody.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from urllib.parse import urlencode

import structlog
import urllib3
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.domain.write_precision import WritePrecision
from influxdb_client.rest import ApiException

from cloud_sink.influx_options import Influx
from cloud_sink.influx_queue import PointQueue, QueueError
from cloud_sink.watched import WatchedThread
from models.log_limit import LogLimit
from models.mqtt_client import backoff_s
from models.secret_values import read_secret

LINES_AT_ONCE = 5_000
RETRY_MIN_S, RETRY_MAX_S = 1.0, 60.0
IDLE_S = 0.5
STOP_S = 10.0
SAME_LOG_S = 60.0

log = structlog.get_logger("linewatch.influx")


class NotNow(Exception):
    """The database cannot be reached, or cannot write now; the text says why."""


class Refused(Exception):
    """The database will never take these lines; the text says why."""


class Api(Protocol):
    """One way to write."""

    def write(self, lines: Sequence[str]) -> None:
        """Raises NotNow and Refused."""

    def close(self) -> None: ...


class Version2:
    """``/api/v2/write``, by influxdb-client."""

    def __init__(self, options: Influx, token: str | None) -> None:
        self._bucket, self._org = options.bucket, options.org
        self._client = InfluxDBClient(
            url=options.url,
            token=token or "",
            org=options.org or "-",
            timeout=round(options.timeout_s * 1000),
            ssl_ca_cert=None if options.ca_file is None else str(options.ca_file),
        )
        self._api: Any = self._client.write_api(write_options=SYNCHRONOUS)

    def write(self, lines: Sequence[str]) -> None:
        try:
            self._api.write(
                self._bucket, self._org or None, "\n".join(lines), write_precision=WritePrecision.NS
            )
        except ApiException as error:
            _judge(error.status or 0, str(error.message or error.reason or error.body or ""), error)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise NotNow(_short(error)) from error

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]


class Version1:
    """``/write`` of InfluxDB 1."""

    def __init__(self, options: Influx, token: str | None) -> None:
        self._http = urllib3.PoolManager(
            timeout=options.timeout_s,
            retries=False,
            ca_certs=None if options.ca_file is None else str(options.ca_file),
        )
        self._url = f"{str(options.url).rstrip('/')}/write"
        self._fields = {"db": options.bucket, "precision": "ns"}
        if options.retention_policy is not None:
            self._fields["rp"] = options.retention_policy
        self._headers = (
            urllib3.make_headers(basic_auth=f"{options.username}:{token or ''}") if options.username else {}
        )

    def write(self, lines: Sequence[str]) -> None:

        try:
            answer = self._http.request(
                "POST",
                f"{self._url}?{urlencode(self._fields)}",
                body="\n".join(lines).encode(),
                headers=self._headers,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise NotNow(_short(error)) from error
        if answer.status >= 300:
            _judge(answer.status, answer.data.decode("utf-8", "replace"), None)

    def close(self) -> None:
        self._http.clear()


def _judge(status: int, text: str, error: Exception | None) -> None:
    """Raises what an answer that is no success means: 400 and 422 are about the lines, all else may pass."""
    told = f"{status} {text.strip()[:300]}"
    if status in (400, 413, 422):
        raise Refused(told) from error
    raise NotNow(told) from error


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def token_of(options: Influx) -> str | None:
    """Read anew for each connection. Raises ValueError naming what cannot be read."""
    return read_secret(options.token_file, options.token_env)


class Writer:
    """A thread that empties ``queue`` into the database of ``options``."""

    def __init__(
        self, options: Influx, queue: PointQueue, *, make: Callable[[Influx, str | None], Api] | None = None
    ) -> None:
        self._options, self._queue = options, queue
        self._make = make or (Version1 if options.version == "1" else Version2)
        self._stop = threading.Event()
        self._log_limit = LogLimit(SAME_LOG_S)
        self._thread = WatchedThread(self._run, "influx")
        self.problem: str | None = None
        self.n_failures = 0

    @property
    def failure(self) -> BaseException | None:
        """What ended its thread that nobody foresaw."""
        return self._thread.failure

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """What waits stays in the queue. Bounded."""
        self._stop.set()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        n_retries = 0
        while not self._stop.is_set():
            try:
                api = self._make(self._options, token_of(self._options))
                try:
                    while not self._stop.is_set():
                        if not self._write_some(api):
                            self._stop.wait(IDLE_S)
                        n_retries = 0
                finally:
                    api.close()
            except (NotNow, QueueError, ValueError) as error:
                self.n_failures += 1
                self.problem = f"{self._options.url}: {error}"
                if self._log_limit.due("away", time.monotonic()) is not None:
                    log.warning(f"no points are written: {self.problem}; they wait on disk")
                self._stop.wait(backoff_s(RETRY_MIN_S, RETRY_MAX_S, n_retries, 0.5))
                n_retries += 1

    def _write_some(self, api: Api) -> bool:
        """Whether there was anything to write."""
        ids, lines = self._queue.oldest(LINES_AT_ONCE)
        if not ids:
            return False
        rejected: list[tuple[str, str]] = []
        self._write(api, lines, rejected)
        self._queue.written(ids, len(lines), rejected)
        if self.problem is not None:
            log.info("points are written again")
            self.problem = None
        for text, why in rejected[:1]:
            n_held = self._log_limit.due(("rejected", why[:60]), time.monotonic())
            if n_held is not None:
                log.error(
                    f"the database refuses points: {why}",
                    line=text[:300],
                    n_rejected=len(rejected),
                    n_held=n_held,
                )
        return True

    def _write(self, api: Api, lines: Sequence[str], rejected: list[tuple[str, str]]) -> None:
        try:
            api.write(lines)
        except Refused as error:
            if len(lines) == 1:
                rejected.append((lines[0], str(error)))
                return
            middle = len(lines) // 2
            self._write(api, lines[:middle], rejected)
            self._write(api, lines[middle:], rejected)
