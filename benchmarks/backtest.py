"""What a backtest costs the machines that are watched meanwhile: latency of alerts on a gateway before one, and during it.

``python -m benchmarks.backtest``: the gateway is a process of its own; rows come from here at a steady pace, with a fault now and
then. Latency is what the alerts say of themselves: from the arrival of the last row of a window to the alert's being said.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.timing import percentile
from models import manifest as manifests
from models.publication import candidacy
from tests.brokers import Subscriber, broker, free_port, wait_for
from tests.edge_node.daemons import NS, alerts, config, connected, metrics, running
from tests.edge_node.test_daemon_models import Feed
from tests.edge_node.versions import PUBLIC, TOPICS, good, signed, written
from tests.fixtures.make_bundle import signal

N_RECORDED = 300_000
MESSAGE_S = 0.05
BLACK_BOX = "\n[black_box]\nflush_s = 0.5\nmin_free_bytes = 0\n"


def measure(*, n_recorded: int = N_RECORDED, seconds: float = 12.0) -> dict[str, object]:
    """Milliseconds, p50 and p99, before and during; windows a second of the backtest, of both models."""
    with (
        tempfile.TemporaryDirectory() as name,
        broker(Path(name), "max_queued_messages 0") as mosquitto,
        Subscriber(mosquitto.port, "linewatch/#") as seen,
    ):
        http = free_port()
        trusted = f'[models]\ntrusted_keys = ["{PUBLIC}"]\n'
        bundle = written(Path(name) / "bundle", signed(good(1)))
        path = config(
            Path(name),
            mosquitto.port,
            http,
            bundle=bundle,
            gateway=trusted,
            extra="alert = { cooldown_s = 0 }",
        )
        path.write_text(path.read_text() + BLACK_BOX)
        with running(path):
            wait_for(lambda: connected(http), "the source")
            feed, rows = Feed(seen), signal(40_000, seed=77)
            feed._t_ns = (time.time_ns() // NS - n_recorded - 50_000) * NS
            for i in range(n_recorded // 2_000):
                feed.send(rows[i * 2_000 % 38_000 :][:2_000])
            recorded = "linewatch_black_box_samples_recorded_total"
            wait_for(lambda: metrics(http).get(recorded, 0) >= 2 * n_recorded, "the signal on disk", 120)

            def pace(during: float) -> list[float]:
                n_before, ends_s, n = len(alerts(seen)), time.monotonic() + during, 0
                while time.monotonic() < ends_s and not seen.on("linewatch/s1/g1/response/backtest"):
                    part = rows[n * 50 % 38_000 :][:50] + np.float32(8.0 if n % 8 < 4 else 0.0)
                    feed.send(part)
                    n += 1
                    time.sleep(MESSAGE_S)
                time.sleep(0.3)
                said = [
                    a["delivery"] for a in alerts(seen)[n_before:] if a["kind"] == "machine" and a["delivery"]
                ]
                return [d["latency_ms"] for d in said if d["latency_ms"] is not None]

            before = pace(seconds)
            manifest, files = signed(good(2))
            graphs = {a.target: files[a.target] for a in manifest.artifacts}
            for topic, payload in candidacy(manifest, graphs, TOPICS):
                seen.publish(topic, payload, retain=True)
            payload = manifests.encode(manifest)
            asked = {
                "transaction": "bench",
                "model_id": "fixture",
                "sha256": hashlib.sha256(payload).hexdigest(),
                "n_bytes": len(payload),
            }
            begun_s = time.monotonic()
            seen.publish("linewatch/s1/g1/request/backtest", json.dumps(asked))
            meanwhile = pace(600.0)
            took_s = time.monotonic() - begun_s
            answer = json.loads(seen.on("linewatch/s1/g1/response/backtest")[-1])
            if not answer["ok"]:
                raise RuntimeError(answer["text"])
    return {
        "before_ms": _figures(before),
        "during_ms": _figures(meanwhile),
        "backtest_s": round(took_s, 1),
        "windows": answer["backtest"]["served"]["n_windows"],
        "windows_per_s": answer["backtest"]["windows_per_s"],
        "invoke_us": answer["backtest"]["candidate"]["invoke_us"],
        "answer_bytes": len(seen.on("linewatch/s1/g1/response/backtest")[-1]),
    }


def _figures(values: list[float]) -> dict[str, float]:
    return {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "n": len(values)}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
