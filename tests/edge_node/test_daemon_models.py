"""The daemon and a real broker: models are published, and become what scores, or do not, without a restart."""

from __future__ import annotations

import json
import signal as signals
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.brokers import Subscriber, broker, free_port, retained, wait_for
from tests.edge_node.daemons import NS, alerts, config, connected, metrics, running
from tests.edge_node.versions import (
    PUBLIC,
    Version,
    calm,
    good,
    messages,
    narrow,
    signed,
    with_graph,
    written,
)
from tests.fixtures.make_bundle import signal

STATE = "linewatch/s1/g1/model/fixture"
N_AT_ONCE = 50


class Feed:
    """Rows of one device, a second apart and in the past, as many messages as somebody asks for."""

    def __init__(self, to: Subscriber) -> None:
        self._to = to
        self._t_ns = (time.time_ns() // NS - 90_000) * NS

    def send(self, values: NDArray[np.float32]) -> None:
        for i in range(0, len(values), N_AT_ONCE):
            part = values[i : i + N_AT_ONCE]
            times = [self._t_ns + k * NS for k in range(len(part))]
            self._t_ns += len(part) * NS
            named = {"Temperature": part[:, 0].tolist(), "Pressure": part[:, 1].tolist()}
            self._to.publish("plant/pump-1", json.dumps({"t": times, **named}))

    def until(
        self, condition: Callable[[], Any], what: str, more: Callable[[int], NDArray[np.float32]]
    ) -> Any:
        """Sends more until ``condition`` holds."""
        deadline, n = time.monotonic() + 40, 0
        while not (found := condition()):
            assert time.monotonic() < deadline, f"{what} did not happen"
            self.send(more(n))
            n += 1
            time.sleep(0.02)
        return found


def healthy(n: int) -> NDArray[np.float32]:
    return signal(40_000, seed=77)[100 * n : 100 * n + 100]


def flapping(n: int) -> NDArray[np.float32]:
    return calm(60, seed=n) if n % 2 else signal(4000, seed=n)[80:170]


def publish(to: Subscriber, version: Version) -> None:
    for topic, payload in messages(version):
        to.publish(topic, payload, retain=True)


def said(seen: Subscriber, state: str, version: int) -> list[dict[str, Any]]:
    found = [json.loads(payload) for payload in seen.on(STATE)]
    return [m for m in found if (m["state"], m["version"]) == (state, version)]


def serving(seen: Subscriber) -> int | None:
    found = seen.on("linewatch/s1/g1/status")
    models = json.loads(found[-1])["models"] if found else []
    return models[0]["version"] if models else None


def test_a_better_model_serves_a_bad_one_is_refused_and_one_that_misbehaves_is_rolled_back(
    tmp_path: Path,
) -> None:
    port = free_port()
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path = config(
            tmp_path,
            mosquitto.port,
            port,
            bundle=written(tmp_path / "bundle", signed(good(1))),
            gateway=f'[models]\ntrusted_keys = ["{PUBLIC}"]\nshadow_windows = 30',
            extra="alert = { cooldown_s = 0 }",
        )
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            feed = Feed(seen)
            feed.send(healthy(500))
            wait_for(lambda: serving(seen) == 1, "the configured model")
            publish(seen, signed(good(2)))
            (adopted,) = feed.until(lambda: said(seen, "adopted", 2), "version 2 in service", healthy)
            assert (adopted["running"], adopted["reason"]) == (2, None)
            wait_for(lambda: serving(seen) == 2, "a status that says so")

            publish(seen, with_graph(good(3), b"\x1c\x00\x00\x00TFL3" + bytes(2000)))
            wait_for(lambda: said(seen, "refused", 3), "version 3 refused")
            assert said(seen, "refused", 3)[0]["reason"] == "bad_graph"
            publish(seen, signed(narrow(4)))
            feed.until(lambda: said(seen, "refused", 4), "version 4 refused", healthy)
            reason = said(seen, "refused", 4)[0]["reason"]
            assert reason in ("other_scores", "too_many_alerts")  # whichever shows first in what was fed
            assert serving(seen) == 2

            publish(seen, signed(narrow(5)))
            feed.until(lambda: said(seen, "adopted", 5), "version 5 in service", lambda n: calm(100, seed=n))
            (back,) = feed.until(lambda: said(seen, "rolled_back", 5), "version 5 rolled back", flapping)
            assert (back["running"], back["reason"]) == (2, "too_many_alerts")
            wait_for(lambda: serving(seen) == 2, "a status that says so")
            wait_for(
                lambda: [a for a in alerts(seen) if a["kind"] == "system" and "rolled back" in a["message"]],
                "an alert of the gateway itself",
            )
            counted = metrics(port)
            assert counted['linewatch_model_adoptions_total{model="fixture"}'] == 2
            assert counted['linewatch_model_refusals_total{model="fixture",reason="bad_graph"}'] == 1
            assert counted['linewatch_model_rollbacks_total{model="fixture",reason="too_many_alerts"}'] == 1
            assert counted['linewatch_model_version{model="fixture"}'] == 2
            daemon.kill()  # not in good order
            daemon.wait(10)

        n = len(seen.on(STATE))
        with running(path) as daemon:
            wait_for(lambda: serving(seen) == 2, "the adopted model after a restart")
            wait_for(lambda: said(seen, "refused", 5), "version 5, still published, refused")
            assert said(seen, "refused", 5)[0]["reason"] == "misbehaved"
            assert json.loads(seen.on(STATE)[n])["state"] in ("adopted", "rolled_back")
            daemon.send_signal(signals.SIGTERM)
            assert daemon.wait(15) == 0
        left = json.loads(retained(mosquitto.port, "linewatch")[STATE])
        assert (left["running"], left["version"]) == (2, 5)


def test_models_are_taken_up_with_a_key_that_comes_with_a_reload(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path = config(
            tmp_path,
            mosquitto.port,
            port := free_port(),
            bundle=written(tmp_path / "bundle", signed(good(1))),
            gateway="[models]\nshadow_windows = 30",
        )
        publish(seen, signed(good(2)))
        with running(path) as daemon:
            wait_for(lambda: connected(port), "the source's connection")
            feed = Feed(seen)
            feed.send(healthy(0))
            assert not seen.on(STATE)
            (tmp_path / "plant.pub").write_text(f"# ours\n{PUBLIC}\n")
            path.write_text(path.read_text().replace("[models]", '[models]\ntrusted_keys = ["plant.pub"]'))
            daemon.send_signal(signals.SIGHUP)
            feed.until(lambda: said(seen, "adopted", 2), "version 2 in service", healthy)
            n = len(seen.on("linewatch/s1/g1/status"))
            daemon.send_signal(signals.SIGHUP)  # nothing is new
            wait_for(lambda: len(seen.on("linewatch/s1/g1/status")) > n, "a status after it")
            assert serving(seen) == 2
            feed.send(healthy(1))
            daemon.send_signal(signals.SIGTERM)
            assert daemon.wait(15) == 0
        assert serving(seen) == 2
