"""``check --test``: connect to every broker of the configuration once and subscribe to what is read there, read every serial
port and bus until samples come, and say how it went."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from typing import Protocol

from edge_node.config import Config
from edge_node.config_schema import ModbusSource, MqttSource, SerialSource, Uplink
from edge_node.sources import SOURCES
from edge_node.sources.mqtt import filters_of
from models.mqtt_access import another_s_certificate
from models.mqtt_client import AT_MOST_ONCE, Connection, Link, Persistence, Receipt
from models.signal import Device, SampleBlock
from models.topics import GatewayTopics

PATIENCE_S = 10.0
SILENCE_S = 1.0
MAX_AHEAD = 1000  # more is as good as any number
STOP_S = 3.0
MAX_PACKET_BYTES = 1 << 20  # of what comes in while we are there


class _Probe(Protocol):
    """Something that is tried."""

    def start(self) -> None:
        """Begins; returns at once."""

    def stop(self) -> Future[None]:
        """Ends without waiting for it; returns what completes when that is done."""

    @property
    def answered(self) -> bool:
        """Whether it is known how it went."""

    @property
    def error(self) -> str | None:
        """Why it cannot be used."""

    def line(self) -> str:
        """What to say of it, now."""


class _Line:
    """A serial or Modbus source that reads for a while, and forgets what comes."""

    def __init__(self, config: SerialSource | ModbusSource, devices: Mapping[str, Device]) -> None:
        self._name = config.name
        self._source = SOURCES[str(config.__struct_config__.tag)](config, devices)
        wanted = [r.device for r in config.register] if isinstance(config, ModbusSource) else [config.device]
        self._missing = dict.fromkeys(wanted)
        self._finished: Future[None] = Future()
        self._stopping = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"check {config.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> Future[None]:
        with contextlib.suppress(RuntimeError):  # it has ended, and its loop is closed
            self._loop.call_soon_threadsafe(self._stopping.set)
        return self._finished

    @property
    def answered(self) -> bool:
        return self._finished.done() or self.error is not None or not self._missing

    @property
    def error(self) -> str | None:
        if self._finished.done() and (defect := self._finished.exception()) is not None:
            return f"failed by a defect: {defect!r}"
        return self._source.reach.last_error

    def line(self) -> str:
        went = "samples come"
        if not self.answered:
            went = f"no samples of {', '.join(self._missing)} within {PATIENCE_S:g} s"
        return f"source {self._name}: {self.error or went}"

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._read())
            self._finished.set_result(None)
        except BaseException as error:  # noqa: BLE001 (a defect of ours: whoever asked is told)
            self._finished.set_exception(error)
        finally:
            self._loop.close()

    async def _read(self) -> None:
        reading = asyncio.create_task(self._source.run(self._emit))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading

    def _emit(self, block: SampleBlock, *, kept: bool = False) -> int:
        self._missing.pop(block.device_id, None)
        return 1


class _Ahead:
    """How many messages at QoS 1 a broker sends ahead of their acknowledgement: so many of our own, on a topic of our own, come
    when none is acknowledged. Of samples that are acknowledged with a checkpoint no more can be under way."""

    def __init__(self, wanted: int) -> None:
        self.wanted = min(wanted, MAX_AHEAD)
        self.topic = f"linewatch-check/{secrets.token_hex(8)}"
        self.refused: str | None = None
        self._n = 0
        self._last_s: float | None = None

    def ask(self, link: Link) -> None:
        """Sends them, once."""
        if self._last_s is None:
            self._last_s = time.monotonic()
            for _ in range(self.wanted):
                link.publish(self.topic, b"-", retain=False)

    def hear(self) -> None:
        self._n += 1
        self._last_s = time.monotonic()

    @property
    def known(self) -> bool:
        if self.refused is not None or self._n >= self.wanted:
            return True
        return self._last_s is not None and time.monotonic() - self._last_s > SILENCE_S

    @property
    def error(self) -> str | None:
        if not self.known or self.refused is not None or not self._n or self._n >= self.wanted:
            return None
        return (
            f"the broker sends only {self._n} messages ahead of their acknowledgement, and max_inflight is {self.wanted}: set "
            f"max_inflight_messages to {self.wanted} or more there (mosquitto), or max_inflight = {self._n} here"
        )

    @property
    def told(self) -> str:
        if self.refused is not None or not self._n:
            why = self.refused or "nothing came back"
            return f"how many messages it sends ahead could not be measured on {self.topic.partition('/')[0]}/ ({why})"
        return f"it sends {self._n} messages ahead of their acknowledgement, as max_inflight says"


class _Broker:
    """A connection that subscribes, and leaves what comes. ``publish_to``: a topic of ours on which nobody waits for anything:
    a broker that speaks MQTT 5 says whether we may publish; ``hint``: what to say beside where we may not."""

    def __init__(
        self,
        label: str,
        broker: MqttSource | Uplink,
        filters: list[tuple[str, int]],
        publish_to: str | None = None,
        hint: str | None = None,
    ) -> None:
        self._publish_to = publish_to if broker.version == "5" else None
        self._hint = hint
        self._published: int | None = None
        self._acked = self._publish_to is None
        self._refusal: str | None = None
        self._ahead: _Ahead | None = None
        if isinstance(broker, MqttSource) and any(qos for _, qos in filters):
            self._ahead = _Ahead(broker.max_inflight)
            filters = [*filters, (self._ahead.topic, 1)]
        self._label = label
        self._broker = broker
        self._filters = filters
        self._link: Link | None = None
        # Not the configured client id: that would throw the running gateway off.
        self._connection = Connection(
            broker,
            self,
            label=label,
            client_id=f"linewatch-check-{secrets.token_hex(4)}",
            max_packet_bytes=MAX_PACKET_BYTES,
            persistence=None if self._ahead is None else Persistence(0, self._ahead.wanted, clean=True),
        )

    def start(self) -> None:
        self._connection.start()

    def stop(self) -> Future[None]:
        self._connection.stop(0.0)
        return self._connection.finished

    @property
    def answered(self) -> bool:
        """The broker has answered all that was asked, or there is an error."""
        if self._connection.last_error is not None:
            return True
        asked = self._link is not None and self._link.answered and self._acked
        return asked and (self._ahead is None or self._ahead.known)

    @property
    def error(self) -> str | None:
        if self._connection.last_error is not None:
            return self._connection.last_error
        if self._refusal is not None:
            text = f"it may not publish on {self._publish_to} ({self._refusal})"
            return f"{text}: {self._hint or 'let this user, by the access rules of the broker'}"
        return None if self._ahead is None else self._ahead.error

    def line(self) -> str:
        went = f"connected with MQTT {self._broker.version}, and may subscribe"
        if self._publish_to is not None:
            went += " and publish"
        elif self._hint is not None:
            went += f"; MQTT {self._broker.version} does not tell whether to publish, and {self._hint}"
        if self._ahead is not None:
            went += f"; {self._ahead.told}"
        if not self.answered:
            went = f"no answer within {PATIENCE_S:g} s"
        return f"{self._label}: {self._connection.where}: {self.error or went}"

    def on_connected(self, link: Link) -> None:
        if self._filters:
            link.subscribe(self._filters)
        self._link = link

    def on_message(self, topic: str, payload: bytes, retained: bool, receipt: Receipt = AT_MOST_ONCE) -> None:
        if self._ahead is not None and topic == self._ahead.topic:
            self._ahead.hear()
        elif receipt.qos and self._ahead is not None and self._link is not None:
            self._link.acknowledge(receipt.mid)  # a sample, which the running gateway gets as well

    def on_acked(self, mid: int, refusal: str | None) -> None:
        if mid == self._published:
            self._refusal, self._acked = refusal, True
        elif refusal is not None and self._ahead is not None:
            self._ahead.refused = refusal

    def on_lost(self, blameless: bool) -> None: ...

    def on_turn(self, link: Link) -> None:
        if not link.answered:
            return
        if self._ahead is not None:
            self._ahead.ask(link)
        if self._publish_to is not None and self._published is None:
            self._published = link.publish(self._publish_to, b"{}", retain=False)


def report(config: Config) -> tuple[int, int]:
    """Tries all at once, prints one line each; returns how many cannot be used, and how many there are."""
    devices = {device.device.device_id: device.device for device in config.devices}
    probes: list[_Probe] = []
    for source in config.sources:
        if isinstance(source, MqttSource):
            probes.append(_Broker(f"source {source.name}", source, filters_of(source)))
        elif isinstance(source, SerialSource | ModbusSource):
            probes.append(_Line(source, devices))
    if config.uplink is not None:
        topics = GatewayTopics(config.uplink.prefix, config.gateway.site, config.gateway.name)
        hint = another_s_certificate(config.uplink.tls, topics.site, topics.gateway)
        probes.append(_Broker("uplink", config.uplink, [(topics.status, 1)], topics.response("check"), hint))
    for probe in probes:
        probe.start()
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and not all(probe.answered for probe in probes):
        time.sleep(0.02)
    failed = 0
    for probe in probes:
        print(probe.line())
        failed += not probe.answered or probe.error is not None
    wait([probe.stop() for probe in probes], STOP_S)
    return failed, len(probes)
