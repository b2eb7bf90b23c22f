"""Edge first, a sink when needed, with real parts: gateway, broker and sink are processes of their own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.calibration import p_values
from models.messages import pack_floats
from tests.brokers import Broker, Subscriber, broker, free_port, wait_for
from tests.cloud_sink.sinks import config as sink_toml
from tests.cloud_sink.sinks import fetched, metric
from tests.cloud_sink.sinks import running as sink_running
from tests.edge_node.daemons import alerts, config, connected, feed, metrics, rows, running, summed
from tests.edge_node.versions import good, written
from tests.edge_node.working import Stick
from tests.shipped_broker import Account, Keys, shipped_broker

REQUEST, RESPONSE = "linewatch/s1/g1/score/request", "linewatch/s1/g1/score/response"
FALLBACK = 'cloud = "fallback"'
SLOW = "status_s = 0.5\n[models]\nmax_latency_ms = 0.000001\ncloud_deadline_ms = {deadline_ms}"


def place(port: int, where: str) -> float:
    return metrics(port).get(f'linewatch_windows_scored_at_total{{place="{where}"}}', 0.0)


def outcome(port: int, name: str) -> float:
    return metrics(port).get(f'linewatch_cloud_outcomes_total{{outcome="{name}"}}', 0.0)


def refused(port: int, reason: str) -> float:
    return metrics(port).get(f'linewatch_cloud_answers_refused_total{{reason="{reason}"}}', 0.0)


def dropped(port: int) -> float:
    return metrics(port).get('linewatch_windows_dropped_total{reason="inference_failed"}', 0.0)


def balanced(port: int) -> bool:
    """Both equations of I1 hold at this instant."""
    values = metrics(port)
    gone = summed(values, "samples_windowed_total") + summed(values, "samples_queued")
    gone += summed(values, "samples_dropped_total")
    windows = summed(values, "windows_scored_total") + summed(values, "windows_pending")
    windows += summed(values, "windows_dropped_total")
    sent = summed(values, "messages_delivered_total") + summed(values, "messages_superseded_total")
    sent += summed(values, "messages_dropped_total") + summed(values, "messages_queued")
    said = summed(values, "messages_published_total") + summed(values, "messages_republished_total")
    return (
        summed(values, "samples_in_total") == gone
        and summed(values, "windows_closed_total") == windows
        and said == sent
    )


@contextmanager
def plant(
    folder: Path, deadline_ms: float = 3000.0, extra: str = FALLBACK
) -> Iterator[tuple[Broker, Subscriber, int]]:
    """A gateway whose edge is always too slow: its broker, who hears all of it, and its metrics' port."""
    port = free_port()
    with broker(folder) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path = config(folder, mosquitto.port, port, gateway=SLOW.format(deadline_ms=deadline_ms), extra=extra)
        with running(path):
            wait_for(lambda: connected(port), "the source")
            yield mosquitto, seen, port


def sink_of(folder: Path, mosquitto: Broker, http: int, model: str = "fixture", name: str = "sink-1") -> Path:
    large = folder / "large"
    if not large.exists():
        written(large, good(7, seed=3))
    path = sink_toml(folder, mosquitto.port, name, metrics_port=http)
    path.write_text(path.read_text() + f'[scoring]\nmodels = {{ {model} = "large" }}\n')
    return path


def test_what_the_edge_is_too_slow_for_a_sink_scores_and_without_it_the_edge_goes_on(tmp_path: Path) -> None:
    messages, http = rows(), free_port()
    with plant(tmp_path) as (mosquitto, seen, port):
        with sink_running(sink_of(tmp_path, mosquitto, http)):
            wait_for(lambda: fetched(http, "/healthz")[0] == 200, "the sink")
            feed(seen, messages[:200])
            wait_for(lambda: place(port, "edge") >= 4, "windows at the edge, which are measured")
            for i in range(200, 1000, 100):
                feed(seen, messages[i : i + 100])
                wait_for(lambda: summed(metrics(port), "windows_pending") == 0, "all scores")
            raised = wait_for(
                lambda: [a for a in alerts(seen) if a["kind"] == "machine" and a["state"] == "raised"],
                "the alert",
            )
            assert raised[0]["delivery"]["backend"] == "cloud"
            assert raised[0]["delivery"]["scoring_ms"] > 0
            assert raised[0]["delivery"]["latency_ms"] >= raised[0]["delivery"]["scoring_ms"]
            large = good(7, seed=3)[0].artifact("cpu-float32")
            assert large is not None
            (p,) = p_values(large.calibration, np.array([raised[0]["score"]], np.float32))
            assert raised[0]["p_value"] == pytest.approx(p, rel=1e-4)  # by the calibration of what scored
            assert raised[0]["threshold"] is None
            assert raised[0]["contributions"]
            assert place(port, "cloud") > 50
            wait_for(
                lambda: metric(http, "sink_windows_scored_total") == place(port, "cloud"),
                "the same on both sides",
            )
            wait_for(
                lambda: outcome(port, "scored") == summed(metrics(port), "cloud_requests_total"),
                "all answers",
            )
            assert metrics(port)["linewatch_cloud_seconds_sum"] > 0
            status = wait_for(
                lambda: (
                    [
                        s
                        for s in map(json.loads, seen.on("linewatch/s1/g1/status"))
                        if s["counters"].get("windows_scored_at.cloud", 0) > 0
                    ]
                    or None
                ),
                "the status",
                40,
            )
            assert status
        asked = [json.loads(p) for p in seen.on(REQUEST)]
        assert {a["model_id"] for a in asked} == {"fixture"}
        assert set(asked[0]) == {
            "type", "transaction", "site", "gateway", "model_id", "model_version", "schema_id", "deadline_ms", "n",
            "features",
        }  # fmt: skip
        # The sink is gone: the edge, though slow, is better than nothing.
        before = place(port, "edge")
        feed(seen, messages[1000:])
        wait_for(lambda: place(port, "edge") > before, "scores at the edge again", 40)
        wait_for(lambda: summed(metrics(port), "windows_pending") == 0, "all scores", 40)
        assert outcome(port, "deadline") >= 1
        wait_for(lambda: balanced(port), "the equations")
        assert dropped(port) == 0


def test_private_data_is_not_sent(tmp_path: Path) -> None:
    http = free_port()
    with plant(tmp_path, extra='privacy = "statistics"') as (mosquitto, seen, port):
        with sink_running(sink_of(tmp_path, mosquitto, http)):
            feed(seen, rows()[:600])
            wait_for(lambda: place(port, "edge") > 40, "scores")
        assert not seen.on(REQUEST)
        assert metrics(port)["linewatch_cloud_requests_total"] == 0


def test_answers_that_cannot_be_true_are_counted_and_the_edge_scores(tmp_path: Path) -> None:
    messages = rows()
    with plant(tmp_path, deadline_ms=1500.0) as (_, seen, port):
        for i in range(0, 200, 10):
            feed(seen, messages[i : i + 10])
            if seen.on(REQUEST):
                break
            wait_for(lambda: summed(metrics(port), "windows_pending") == 0, "scores")
        at = i + 10
        wait_for(
            lambda: outcome(port, "deadline") == len(seen.on(REQUEST)) > 0, "the first, which nobody answers"
        )

        def asked() -> dict[str, Any]:
            """The next request."""
            nonlocal at
            n_before = len(seen.on(REQUEST))
            while len(seen.on(REQUEST)) == n_before:
                time.sleep(0.2)  # now and then the edge is tried, or the sink left alone for a while
                n_scored = place(port, "edge")
                feed(seen, messages[at : at + 10])  # a window each
                at += 10
                wait_for(lambda: len(seen.on(REQUEST)) > n_before or place(port, "edge") > n_scored, "either")  # noqa: B023
            found: dict[str, Any] = json.loads(seen.on(REQUEST)[-1])
            return found

        def reply(to: dict[str, Any], **more: Any) -> None:
            k = 10
            good_ = {
                "type": "score_response", "transaction": to["transaction"], "site": "s1", "gateway": "g1", "reason": None,
                "text": "", "model_id": "m", "model_version": 1, "backend": "x", "latency_ms": 1.0,
                "residual": pack_floats(np.ones((to["n"], k), np.float32)),
                "log_p": pack_floats(np.full(to["n"], -1.0, np.float32)),
            }  # fmt: skip
            seen.publish(RESPONSE, json.dumps({**good_, **more}))

        def counted(condition: Callable[[], bool], what: str) -> None:
            wait_for(condition, what, 30)
            wait_for(lambda: summed(metrics(port), "windows_pending") == 0, f"{what}: the window's score", 30)

        first = asked()
        reply(first, transaction="nobody's")
        reply(first, site="s2")
        reply(first, residual=pack_floats(np.full((first["n"], 10), np.nan, np.float32)))
        counted(lambda: outcome(port, "bad_answer") == 1, "an answer that is not finite")
        assert refused(port, "unknown") == refused(port, "other_name") == 1
        second = asked()
        reply(second)
        counted(lambda: outcome(port, "scored") == 1, "a good one")
        reply(second)
        wait_for(lambda: refused(port, "repeated") == 1, "the same from another sink")
        third = asked()
        reply(third, residual=pack_floats(np.ones((third["n"] + 1, 10), np.float32)))
        counted(lambda: outcome(port, "bad_answer") == 2, "an answer of another shape")
        fourth = asked()
        reply(fourth, log_p=pack_floats(np.full(fourth["n"], 0.5, np.float32)))
        counted(lambda: outcome(port, "bad_answer") == 3, "a p-value above 1")
        reply(fourth)
        wait_for(lambda: refused(port, "late") == 1, "an answer to what is over")
        seen.publish(RESPONSE, b"\xff{")
        wait_for(lambda: refused(port, "malformed") >= 4, "what is no answer")
        assert balanced(port) or wait_for(lambda: balanced(port), "the equations")
        assert place(port, "cloud") == second["n"]


def test_a_stick_that_hangs_costs_no_window(
    tmp_path: Path, fake_edgetpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else scores at the edge: with backend = "edgetpu" the CPU does not stand in."""
    monkeypatch.setenv("FAKE_EDGETPU", str(tmp_path / "stick"))
    stick, port, http, messages = Stick(fake_edgetpu, tmp_path / "stick"), free_port(), free_port(), rows()
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path = config(
            tmp_path,
            mosquitto.port,
            port,
            gateway=f'max_batches_out = 4\nedgetpu_library = "{stick.library}"',
            extra=f'backend = "edgetpu"\n{FALLBACK}',
        )
        with running(path), ExitStack() as sink:
            sink.enter_context(sink_running(sink_of(tmp_path, mosquitto, http)))
            wait_for(lambda: connected(port), "the source")
            wait_for(lambda: fetched(http, "/healthz")[0] == 200, "the sink")
            feed(seen, messages[:200])
            wait_for(lambda: place(port, "edge") > 10, "windows at the edge")
            stick.now("hang")
            for i in range(200, 1000, 50):
                feed(seen, messages[i : i + 50])
                wait_for(lambda: summed(metrics(port), "windows_pending") == 0, "all scores")
            raised = wait_for(
                lambda: [a for a in alerts(seen) if a["kind"] == "machine" and a["state"] == "raised"],
                "the alert",
            )
            assert raised[0]["delivery"]["backend"] == "cloud"
            assert place(port, "cloud") > 10
            wait_for(lambda: balanced(port), "the equations")
            assert metrics(port)["linewatch_cloud_engines"] == 1
            said = [a["message"] for a in alerts(seen) if a["kind"] == "system" and a["state"] == "raised"]
            assert any("model fixture: features of its windows go to a sink" in text for text in said)
            assert dropped(port) == 0
            # Now neither is there: what comes is held, within bounds, and then dropped, counted.
            sink.close()
            for i in range(1000, len(messages), 10):
                feed(seen, messages[i : i + 10])
                wait_for(lambda: summed(metrics(port), "samples_in_total") == 2 * (i + 10), "the rows")  # noqa: B023
            wait_for(lambda: dropped(port) > 0, "windows that go", 60)
            wait_for(lambda: balanced(port), "the equations")
            wait_for(lambda: summed(metrics(port), "windows_pending") > 0, "windows that are held")
            stick.now("works")
            wait_for(lambda: summed(metrics(port), "windows_pending") == 0, "their scores", 60)
            wait_for(lambda: balanced(port), "the equations")


def test_with_the_access_rules_that_are_shipped(tmp_path: Path) -> None:
    keys, port, http, messages = Keys(tmp_path), free_port(), free_port(), rows()
    sensors, uplink = tmp_path / "sensors", tmp_path / "uplink"
    sensors.mkdir(), uplink.mkdir()
    with (
        broker(sensors) as mosquitto,
        Subscriber(mosquitto.port) as plant_,
        shipped_broker(keys) as shipped,
        Account(shipped, keys, "s1/g1") as ours,
        Account(shipped, keys, "s1/g2") as other,
    ):
        path = config(tmp_path, mosquitto.port, port, gateway=SLOW.format(deadline_ms=3000.0), extra=FALLBACK)
        here = f"port = {shipped.port}\n{keys.toml('s1/g1')}"
        path.write_text(path.read_text().replace(f"port = {mosquitto.port}", here, 1))
        sink = sink_of(tmp_path, shipped, http)
        sink.write_text(
            sink.read_text().replace(f"port = {shipped.port}", f"port = {shipped.port}\n{keys.toml('sink')}")
        )
        with running(path), sink_running(sink):
            wait_for(lambda: connected(port), "the source")
            wait_for(lambda: fetched(http, "/healthz")[0] == 200, "the sink")
            for i in range(0, 600, 20):
                feed(plant_, messages[i : i + 20])
                wait_for(lambda: summed(metrics(port), "windows_pending") == 0, "all scores")
            assert place(port, "cloud") > 20
            wait_for(
                lambda: outcome(port, "scored") == summed(metrics(port), "cloud_requests_total"),
                "all answers",
            )
        answers = ours.on(RESPONSE)
        assert len(answers) > 5
        assert not [topic for topic in other.topics() if "/score/" in topic]
        # Nobody but a sink answers, and nobody asks in another's name.
        assert not other.publish(RESPONSE, answers[0])
        assert not ours.publish(RESPONSE, answers[0])
        assert not other.publish(REQUEST, b"{}")


def test_while_the_broker_is_away_nothing_is_asked_and_the_edge_scores(tmp_path: Path) -> None:
    """Its device is on another broker."""
    port, messages, uplink = free_port(), rows(), tmp_path / "uplink"
    uplink.mkdir()
    with broker(tmp_path) as plain, Subscriber(plain.port) as seen, broker(uplink) as upstream:
        path = config(tmp_path, plain.port, port, gateway=SLOW.format(deadline_ms=300.0), extra=FALLBACK)
        here = f"port = {upstream.port}\nreconnect_min_s = 0.1\nreconnect_max_s = 0.2"
        path.write_text(path.read_text().replace(f"port = {plain.port}", here, 1))
        with running(path):
            wait_for(lambda: connected(port), "the source")
            wait_for(lambda: metrics(port)['linewatch_connected{connection="uplink"}'] == 1, "the uplink")
            for i in range(0, 300, 10):
                feed(seen, messages[i : i + 10])
                if summed(metrics(port), "cloud_requests_total"):
                    break
            wait_for(
                lambda: summed(metrics(port), "cloud_requests_total") > 0, "requests that nobody answers"
            )
            upstream.kill()
            wait_for(lambda: metrics(port)['linewatch_connected{connection="uplink"}'] == 0, "the loss")
            asked, scored = summed(metrics(port), "cloud_requests_total"), place(port, "edge")
            feed(seen, messages[300:600])
            wait_for(lambda: place(port, "edge") >= scored + 28, "scores at the edge")
            wait_for(lambda: summed(metrics(port), "windows_pending") == 0, "all of them")
            assert summed(metrics(port), "cloud_requests_total") == asked
            wait_for(lambda: balanced(port), "the equations")


def test_two_sinks_that_share_nothing_both_answer_and_one_counts(tmp_path: Path) -> None:
    messages, ports = rows(), (free_port(), free_port())
    with plant(tmp_path) as (mosquitto, seen, port):
        first, second = (sink_of(tmp_path, mosquitto, http, name=f"sink-{i}") for i, http in enumerate(ports))
        with sink_running(first), sink_running(second):
            for http in ports:
                wait_for(lambda: fetched(http, "/healthz")[0] == 200, "the sink")  # noqa: B023
            for i in range(0, 600, 20):
                feed(seen, messages[i : i + 20])
                wait_for(lambda: summed(metrics(port), "windows_pending") == 0, "all scores")
            wait_for(
                lambda: (
                    refused(port, "repeated")
                    == outcome(port, "scored")
                    == summed(metrics(port), "cloud_requests_total")
                ),
                "both answers to everything",
            )
            assert outcome(port, "scored") > 5
            wait_for(lambda: balanced(port), "the equations")


@pytest.mark.parametrize(("model", "reason"), [("other", "unknown_model")])
def test_a_sink_says_why_it_does_not_score(tmp_path: Path, model: str, reason: str) -> None:
    http, messages = free_port(), rows()
    with plant(tmp_path) as (mosquitto, seen, port), sink_running(sink_of(tmp_path, mosquitto, http, model)):
        wait_for(lambda: fetched(http, "/healthz")[0] == 200, "the sink")
        feed(seen, messages[:200])
        wait_for(lambda: place(port, "edge") >= 4, "windows at the edge")
        left = iter(range(200, len(messages), 10))

        def asked_and_told() -> bool:
            """The edge is slow once it has had a few batches, and of how many messages one is depends on who is busy."""
            if (i := next(left, None)) is not None:
                feed(seen, messages[i : i + 10])
            return outcome(port, reason) > 0

        wait_for(asked_and_told, "the reason", 60)
        wait_for(lambda: summed(metrics(port), "windows_pending") == 0, "scores at the edge", 30)
        # What is not a request, or of another gateway, is counted.
        seen.publish(REQUEST, b"[]")
        wait_for(lambda: metric(http, "sink_score_requests_unanswered_total") == 1, "the count")
        n = len(seen.on(RESPONSE))
        request = json.loads(seen.on(REQUEST)[0])
        seen.publish(REQUEST, json.dumps({**request, "features": "AAAA"}))
        wait_for(lambda: len(seen.on(RESPONSE)) == n + 1, "an answer")
        assert json.loads(seen.on(RESPONSE)[-1])["reason"] == "malformed"
        seen.publish("linewatch/s1/g2/score/request", json.dumps(request))
        wait_for(lambda: metric(http, "sink_score_requests_unanswered_total") == 2, "the count")
