"""The figures that docs/scaling.md plans with: what is sent, what a broker, a sink, the stores and learning take of it.

``python -m benchmarks.scaling`` is ``python -m benchmarks.run scaling``; with names of parts it measures those alone, and
prints what it found.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import live, plant, scaling_broker, scaling_learning, scaling_stores, sink
from benchmarks import scaling_load as load
from benchmarks.scaling_broker import publication
from models.messages import DeviceStateMessage, Status, encode, rfc3339

FEATURES = (16, 40)
_PLAYED_S = 5.0
_TICK_S = 0.01  # of the system's count of CPU time


def measure(*, quick: bool) -> dict[str, object]:
    """All of the parts: in a quick run of devices with few features alone."""
    return Measurement(quick=quick).parts(PARTS)


class Measurement:
    """Parts, each measured once: some want what others found."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.features = FEATURES[:1] if quick else FEATURES
        self._status: Status | None = None

    def parts(self, names: Sequence[str]) -> dict[str, object]:
        found: dict[str, object] = {}
        for name in names:
            print(f"  {name}", flush=True)
            found[name] = _MEASURED[name](self)
        return found

    @property
    def status(self) -> Status:
        """As a gateway of 20 devices sends it."""
        if self._status is None:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                model = plant.write_model(plant.train(60), folder)
                with (
                    live.broker(folder) as broker,
                    live.gateway(folder, model, broker.port, black_box=False) as gateway,
                ):
                    with live.publisher(broker.port) as client:
                        live.Boards(client, live.N_DEVICES, _PLAYED_S).play(1.0 if self.quick else _PLAYED_S)
                    self._status = gateway.end()
        return self._status

    def wire(self) -> dict[str, Any]:
        """Bytes of payloads and of whole packets: topic and header, without TCP and TLS."""
        summary, without, alert = {}, {}, {}
        for k in self.features:
            for into, reservoir in ((summary, True), (without, False)):
                into[str(k)] = _sizes(load.messages(load.table(k, 20, 10, reservoir=reservoir)))
            alert[str(k)] = _sizes(
                [(f"linewatch/ulm/{a.gateway}/alert/{a.device}", encode(a)) for a in load.alerts(200, k)]
            )
        at = rfc3339(plant.START_NS)
        state = DeviceStateMessage(
            message_id="0123456789abcdef-1",
            site="ulm",
            gateway="hall-00000",
            machine="press-0000000",
            class_="press",
            device="press-0000000",
            state="normal",
            since_ns=plant.START_NS,
            since_at=at,
            open_alerts=(),
        )
        return {
            "summary": summary,
            "summary_without_reservoir": without,
            "alert": alert,
            "status": _sizes(load.as_published(load.statuses(20, 20, self.status))),
            "state": _sizes([("linewatch/ulm/hall-00000/device/press-0000000/state", encode(state))]),
        }

    def broker(self) -> dict[str, Any]:
        status = len(encode(self.status))
        sizes = {"status": status} | {
            f"summary-{k}": len(load.messages(load.table(k, 1, 1))[0][1]) for k in self.features
        }
        return dict(scaling_broker.measure(sizes, status, quick=self.quick))

    def sink(self) -> dict[str, Any]:
        """Messages a second, by the clock and by its CPU time; each summary is of another device."""
        n, n_gateways = (100, 20) if self.quick else (10_000, 1_000)
        alerts = [(f"linewatch/ulm/{a.gateway}/alert/{a.device}", encode(a)) for a in load.alerts(n, 16)]
        said = load.as_published(load.statuses(n, n_gateways, self.status))
        return {
            "summary": {str(k): _drained(load.messages(load.table(k, n, 1))) for k in self.features},
            "alert": _drained(alerts),
            "status": _drained(said),
        }

    def stores(self) -> dict[str, Any]:
        return {
            str(k): scaling_stores.measure_features(k, reservoir=True, quick=self.quick)
            for k in self.features
        }

    def events(self) -> dict[str, Any]:
        return scaling_stores.measure_events(self.status, self.features[-1], quick=self.quick)

    def learning(self) -> dict[str, Any]:
        """The first, whose sizes are the largest, tells what looking through summaries for each device costs."""
        found: dict[str, Any] = {}
        looks = None
        for k in self.features:
            found[str(k)] = scaling_learning.measure(k, quick=self.quick, looks=looks)
            looks = found[str(self.features[0])]["s_a_device_summary"]
        return found


_MEASURED: dict[str, Callable[[Measurement], dict[str, Any]]] = {
    "wire": Measurement.wire,
    "broker": Measurement.broker,
    "sink": Measurement.sink,
    "features": Measurement.stores,
    "events": Measurement.events,
    "learning": Measurement.learning,
}
PARTS = tuple(_MEASURED)


def _sizes(said: list[tuple[str, bytes]]) -> dict[str, float]:
    return {
        "payload_bytes": sum(len(payload) for _, payload in said) / len(said),
        "packet_bytes": sum(len(publication(topic, payload)) for topic, payload in said) / len(said),
    }


def _drained(payloads: list[tuple[str, bytes]]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        found = sink.drain(payloads, Path(name))
    n = len(payloads)
    print(f"  sink: {n} stored", flush=True)
    return {
        "n": n,
        "per_s": n / found.wall_s,
        "per_cpu_s": n / max(found.cpu_s, _TICK_S),
        "rss_mb": found.rss_mb,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.scaling", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=", ".join(PARTS))
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: shows that it runs, measures nothing"
    )
    given = parser.parse_args(arguments)
    if given.parts:
        print(json.dumps(Measurement(quick=given.quick).parts(given.parts), indent=2))
        return
    from benchmarks import run

    run.main(["scaling", *(["--quick"] if given.quick else [])])


if __name__ == "__main__":
    main()
