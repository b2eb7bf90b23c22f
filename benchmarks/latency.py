"""From publishing the last sample of a window to receiving the alert that it raises, against the broker alone.

The gateway is a process of its own; boards and listener are in this one. The peer is what no gateway on this broker can do
without: a message as large as the boards' through the broker and, as soon as it is here, one as large as an alert back
through it; same client library, same quality of service, in turn with the boards' messages.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec
from paho.mqtt.client import Client

from benchmarks import live, plant
from benchmarks.timing import percentile
from benchmarks.wire import ALERTS_QOS, SAMPLES_QOS
from edge_node.config import load_config
from models.messages import Alert
from models.signal import NS_PER_S

THERE, BACK = "probe/there", "probe/back"
# Messages; it has no divisor in common with the number of boards, so that it follows each in turn.
PROBE_EVERY = 41
# Faulty for 5 hops of 11: three windows above the level, then three below, whatever the phase. Alerts must not wait for
# the one before to be forgotten.
FAULTY_HOPS, CYCLE_HOPS = 5, 11
ALERT = "alert = { cooldown_s = 0 }"
WARM_UP_S = 2


def measure(*, quick: bool) -> dict[str, object]:
    """Milliseconds, p50 and p99: of the alerts, of the broker's trips, and their ratios."""
    trained = plant.train(60 if quick else 600)
    hop = plant.WINDOW.hop
    faults = live.Faults(
        first_row=WARM_UP_S * int(plant.RATE_HZ),
        n=1 if quick else 25,
        rows=FAULTY_HOPS * hop,
        every=(FAULTY_HOPS if quick else CYCLE_HOPS) * hop,
    )
    expected = live.N_DEVICES * faults.n
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = plant.write_model(trained, folder)
        with (
            live.broker(folder) as broker,
            live.gateway(folder, model, broker.port, ALERT) as gateway,
            live.publisher(broker.port) as client,
            _Ear(broker.port, client) as ear,
        ):
            boards = live.Boards(client, live.N_DEVICES, faults.end_s, faults)
            boards.play(faults.end_s, lambda: ear.probe(boards.last))
            live.wait_for(lambda: len(ear.raised) >= expected, f"{expected} alerts", gateway.child)
            live.wait_for(lambda: len(ear.back_ns) == len(ear.sent_ns), "the broker's last trip")
            config = load_config(gateway.config)
            gateway.end()
        policy = config.settle(config.devices[0], trained.manifest).time
    last_sample_ns = NS_PER_S // int(plant.RATE_HZ)
    published_ns = [boards.published(a.device, a.end_ns - last_sample_ns) for a, _, _ in ear.raised]
    alerts = _figures(published_ns, [received_ns for _, _, received_ns in ear.raised])
    trips = _figures(ear.sent_ns, ear.back_ns)
    in_gateway = [a.delivery.latency_ms for a, _, _ in ear.raised if a.delivery and a.delivery.latency_ms]
    return {
        "devices": live.N_DEVICES,
        "rows_per_message": live.ROWS,
        "message_bytes": len(boards.last),
        "alert_bytes": round(sum(n_bytes for _, n_bytes, _ in ear.raised) / len(ear.raised)),
        "qos": {"messages": SAMPLES_QOS, "alerts": ALERTS_QOS},
        "broker": live.mosquitto_version(),
        "time": msgspec.to_builtins(policy),
        "alert": msgspec.to_builtins(config.devices[0].alert),
        "n_faults": expected,
        "alert_ms": alerts,
        "broker_ms": trips,
        "alert_over_broker": {share: alerts[share] / trips[share] for share in ("p50", "p99")},
        "broker_trips_ms": {
            "message": _figures(ear.sent_ns, ear.there_ns),
            "alert": _figures(ear.there_ns, ear.back_ns),
        },
        "in_gateway_ms": {
            "p50": percentile(in_gateway, 0.5),
            "p99": percentile(in_gateway, 0.99),
            "n": len(in_gateway),
        },
    }


def _figures(began_ns: Sequence[int], ended_ns: Sequence[int]) -> dict[str, float]:
    ms = [(end - begin) / 1e6 for begin, end in zip(began_ns, ended_ns, strict=True)]
    return {"p50": percentile(ms, 0.5), "p99": percentile(ms, 0.99), "max": max(ms), "n": len(ms)}


class _Ear:
    """Hears the alerts, and times the broker's own trips; ``boards`` is the client that the boards publish with."""

    def __init__(self, port: int, boards: Client) -> None:
        topics = [
            (live.TOPICS.alert("+"), ALERTS_QOS),
            (THERE, SAMPLES_QOS),
            (BACK, ALERTS_QOS),
        ]
        self._listener = live.Listener(port, topics, self._heard)
        self._boards = boards
        self._n_turns = 0
        self._answer = b""
        self.raised: list[tuple[Alert, int, int]] = []  # alert, bytes, when it was received
        self.sent_ns: list[int] = []
        self.there_ns: list[int] = []
        self.back_ns: list[int] = []

    def __enter__(self) -> Self:
        self._listener.__enter__()
        return self

    def __exit__(self, *what: object) -> None:
        self._listener.__exit__(*what)

    def probe(self, message: bytes) -> None:
        """Now and then, once it is known how large an alert is: ``message`` through the broker, and an answer back."""
        self._n_turns += 1
        if self._n_turns % PROBE_EVERY == 0 and self._answer:
            self.sent_ns.append(time.perf_counter_ns())
            self._boards.publish(THERE, message, qos=SAMPLES_QOS)

    def _heard(self, topic: str, payload: bytes, received_ns: int) -> None:
        if topic == THERE:
            self._listener.client.publish(BACK, self._answer, qos=ALERTS_QOS)
            self.there_ns.append(received_ns)
        elif topic == BACK:
            self.back_ns.append(received_ns)
        else:
            alert = msgspec.json.decode(payload, type=Alert)
            if alert.state == "raised":
                self.raised.append((alert, len(payload), received_ns))
                self._answer = bytes(len(payload))
