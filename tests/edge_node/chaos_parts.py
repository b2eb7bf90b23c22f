"""What stands around the gateway in :mod:`tests.edge_node.chaos`: who sends, who listens, and the wire between."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import threading
import time
import tty
from collections.abc import Collection, Iterator
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.brokers import HOST
from tests.edge_node.daemons import NS, channels


class SerialLine:
    """A pty: what is written is lost where nobody reads it, as on a wire."""

    def __init__(self) -> None:
        self._fd, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._fd, False)
        self.path = os.ttyname(self._slave)

    def __enter__(self) -> SerialLine:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        os.close(self._slave)

    def write(self, data: bytes) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._fd, data)


class Sink:
    """Collects what is published below ``linewatch/``, in a session that the broker keeps."""

    def __init__(self, port: int) -> None:
        self._payloads: list[tuple[str, bytes]] = []
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id="sink",
            clean_session=False,
            protocol=MQTTProtocolVersion.MQTTv311,
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe("linewatch/#", 1)
        self._client.on_message = lambda _c, _u, m: self._payloads.append((m.topic, bytes(m.payload)))
        self._client.connect(HOST, port, keepalive=5)
        self._client.loop_start()

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def alerts(self) -> list[dict[str, Any]]:
        """All that came, repeated ones too."""
        return [json.loads(payload) for topic, payload in list(self._payloads) if "/alert/" in topic]

    def wait_for(self, ids: Collection[str], timeout_s: float) -> None:
        """Until all of ``ids`` have come, or the time is over."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not set(ids) <= {a["message_id"] for a in self.alerts()}:
            time.sleep(0.2)


class Feeder:
    """Sends a row of every device in turn: ``kept`` ones at QoS 1, and again until the broker has them."""

    def __init__(
        self,
        port: int,
        line: SerialLine,
        rows: dict[str, Any],
        start_ns: int,
        kept: Collection[str],
        per_s: float,
    ) -> None:
        self._line, self._rows, self._start_ns, self._kept, self._per_s = line, rows, start_ns, kept, per_s
        self._n = len(next(iter(rows.values())))
        self._sent_s: list[float] = []
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id="plant",
            clean_session=False,
            protocol=MQTTProtocolVersion.MQTTv311,
        )
        self._client.max_inflight_messages_set(500)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_disconnect = lambda *_: setattr(self, "_broken", True)
        self._broken = False
        self._client.connect(HOST, port, keepalive=5)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._stopping = False
        self._quiet = threading.Lock()

    def __enter__(self) -> Feeder:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._client.disconnect()
        self._client.loop_stop()

    def start(self) -> None:
        self._thread.start()

    @property
    def done(self) -> bool:
        return len(self._sent_s) == self._n

    @property
    def progress(self) -> float:
        return len(self._sent_s) / self._n

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Nothing is sent, and the broker has written down all that was: mosquitto acknowledges before it does, so what it
        loses when it is killed in between is its own affair."""
        self._quiet.acquire()
        try:
            deadline = time.monotonic() + 5.0
            while time.monotonic() < deadline and self._unacknowledged:
                time.sleep(0.02)
            time.sleep(0.3)
            yield
        finally:
            self._quiet.release()

    @property
    def _unacknowledged(self) -> int:
        return len(
            self._client._out_messages
        )  # wait_for_publish raises for what was queued without a connection

    def finish(self, timeout_s: float) -> None:
        """Until the broker has all that it must have."""
        self._thread.join(timeout_s)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._unacknowledged:
            time.sleep(0.05)

    def sent_between(self, begin_ns: int, end_ns: int) -> tuple[float, float]:
        """When, on the monotonic clock, the rows of these event times were sent."""
        first = max((begin_ns - self._start_ns) // NS, 0)
        last = min((end_ns - self._start_ns) // NS, len(self._sent_s) - 1)
        return self._sent_s[first], self._sent_s[last]

    def _mend(self) -> None:
        """After a lost connection what was under way goes first: paho may send it after what is published meanwhile, and a
        sensor that does so sends late rows."""
        while self._broken and not self._stopping:
            if self._client.is_connected():
                time.sleep(0.2)
                if not self._unacknowledged:
                    self._broken = False
                    return
            time.sleep(0.02)

    def _feed(self) -> None:
        names = channels()
        begun_s = time.monotonic()
        for i in range(self._n):
            if self._stopping:
                return
            time.sleep(max(begun_s + i / self._per_s - time.monotonic(), 0))
            with self._quiet:
                pass
            self._mend()
            for device, rows in self._rows.items():
                row = {"t": self._start_ns + i * NS, **dict(zip(names, rows[i].tolist(), strict=True))}
                payload = json.dumps(row).encode()
                if device in self._kept:
                    self._client.publish(f"kept/{device}", payload, qos=1)
                elif device.startswith("line"):
                    self._line.write(payload + b"\n")
                elif self._client.is_connected():
                    self._client.publish(f"lossy/{device}", payload, qos=0)
            self._sent_s.append(time.monotonic())
