"""Every reason to refuse a model that comes over the uplink, with a model for which it holds: the one in service stays."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node import model_admission, model_store, model_track
from edge_node.inference import Engine, Scored
from models import manifest as manifests
from models.features import schema_id
from models.runtime import GraphUnusable
from models.tflite_check import check
from tests.edge_node.adopting import FEW, OPTIONS, Gateway, Site, healthy, run
from tests.edge_node.bad_graphs import crashing, crashing_runtime, endless, hungry
from tests.edge_node.versions import (
    STRANGER,
    TOPICS,
    Version,
    blind,
    calm,
    edited,
    good,
    messages,
    narrow,
    signed,
    with_graph,
)
from tests.fixtures.make_bundle import signal

BIG = OPTIONS + "\nmax_bytes = 8_388_608"


def other_features(version: Version) -> Version:
    """Without re-centring, which is another schema."""
    m = version[0]
    schema = schema_id(m.features, m.channel_names, m.window, None)
    return signed(version, recentring=None, schema_id=schema)


def other_window(version: Version) -> Version:
    m = version[0]
    window = msgspec.structs.replace(m.window, hop=5)
    schema = schema_id(m.features, m.channel_names, window, m.recentring)
    return signed(version, window=window, schema_id=schema)


def other_weights(version: Version) -> Version:
    """What its golden vectors did not see."""
    data = bytearray(version[1]["cpu-float32"])
    at = data.index(b"\xa0\x00\x00\x00", 100) + 4  # the first weights: 160 bytes
    weights = np.frombuffer(bytes(data[at : at + 160]), "<f4")
    data[at : at + 160] = (weights * np.float32(1.01)).tobytes()
    return with_graph(version, bytes(data))


def only_int8(version: Version) -> Version:
    return signed(version, artifacts=version[0].artifacts[1:2])


SIGNED_CASES: list[tuple[str, str, Any, str, str]] = [
    ("a stranger's", "not_trusted", lambda: signed(good(2), STRANGER), OPTIONS, "is not trusted here"),
    ("the version that serves", "not_newer", lambda: signed(good(1, 1)), OPTIONS, "version 1 is not above 1"),
    (
        "a graph that is too large",
        "too_large",
        lambda: with_graph(good(2), hungry(), batch=4096),
        OPTIONS,
        "max_bytes is 4194304",
    ),
    (
        "a manifest that is too large",
        "too_large",
        lambda: signed(good(2)),
        OPTIONS + "\nmax_bytes = 2000",
        "max_bytes is 2000",
    ),
    (
        "no digest",
        "bad_manifest",
        lambda: edited(good(2), sha256="../../etc/passwd"),
        OPTIONS,
        "is no SHA-256",
    ),
    (
        "a file name that leads elsewhere",
        "bad_manifest",
        lambda: edited(good(2), file="../x.tflite"),
        OPTIONS,
        "is not a plain name",
    ),
    (
        "a graph without weights",
        "bad_graph",
        lambda: with_graph(good(2), crashing()),
        OPTIONS,
        "no tensor -1",
    ),
    (
        "other features",
        "wrong_schema",
        lambda: other_features(good(2)),
        OPTIONS,
        "its features mean something else",
    ),
    (
        "another window",
        "wrong_schema",
        lambda: other_window(good(2)),
        OPTIONS,
        "go on with it|hop|start_centre",
    ),
    (
        "a graph that takes a gigabyte",
        "probe_memory",
        lambda: with_graph(good(2), hungry(), batch=4096),
        BIG,
        "wanted more than 256 MB",
    ),
    (
        "a graph that does not end",
        "probe_hung",
        lambda: with_graph(good(2), endless(), batch=1024),
        f"{BIG}\nprobe_memory_mb = 1024".replace("probe_timeout_s = 20", "probe_timeout_s = 1.5"),
        "had not ended after 1.5 s",
    ),
    ("other weights", "golden_mismatch", lambda: other_weights(good(2)), OPTIONS, "output differs by"),
    ("nothing that runs here", "no_backend", lambda: only_int8(good(2)), OPTIONS, "no artifact cpu-float32"),
    (
        "one that takes too long",
        "too_slow",
        lambda: signed(good(2)),
        OPTIONS + "\nmax_latency_ms = 1e-6",
        "ms a window",
    ),
    ("what knows calm days alone", "other_scores", lambda: signed(narrow(2)), OPTIONS, "of quiet windows"),
]


@pytest.mark.parametrize(
    ("reason", "make", "options", "text"), [c[1:] for c in SIGNED_CASES], ids=[c[0] for c in SIGNED_CASES]
)
def test_it_is_refused_and_the_old_one_serves(
    tmp_path: Path, reason: str, make: Any, options: str, text: str
) -> None:
    site = Site(tmp_path, good(1), models=options)

    async def story() -> None:
        gateway = Gateway(site)
        engine = next(iter(gateway.core.engines.values()))
        version: Version = make()
        gateway.feed(signal(100, seed=5))
        gateway.offer(version)
        # The signal waits for the trial, so that every run compares the same windows, however long the probe takes.
        await gateway.until(lambda: gateway.said, "a trial or a refusal")
        await gateway.until(lambda: gateway.said[-1].state == "refused", "a refusal", feeding=healthy())
        said = gateway.said[-1]
        assert (said.state, said.reason, said.running, gateway.version) == ("refused", reason, 1, 1)
        assert said.version == (0 if "2000" in text or reason == "not_trusted" else version[0].version)
        assert re.search(text, said.text), said.text
        assert dict(gateway.models.refusals) == {("fixture", reason): 1}
        assert list(gateway.core.engines.values()) == [engine]
        assert not site.shelf.exists()
        scored = gateway.core.pipeline.counters().n_windows_scored
        gateway.feed(signal(200, seed=3))
        assert gateway.core.pipeline.counters().n_windows_scored == scored + 20
        await gateway.stop()

    run(story)


def test_what_is_no_manifest_at_all(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        unsigned = manifests.encode(good(2)[0])
        other = manifests.encode(signed(good(2), model_id="another")[0])
        cut = messages(signed(good(2)))[-1][1][:-1000]
        bent = messages(signed(good(2)))[-1][1].replace(b'"version": 2', b'"version": 9')
        for i, (payload, reason) in enumerate(
            (
                (b"{", "bad_manifest"),
                (b"\xff\xfe", "bad_manifest"),
                (b"[" * 200_000, "bad_manifest"),
                (unsigned, "not_trusted"),
                (other, "bad_manifest"),
                (cut, "bad_manifest"),
                (bent, "not_trusted"),
            )
        ):
            gateway.models.inbox.hear(TOPICS.stable, payload, False)
            await gateway.until(lambda: len(gateway.said) > i, "a refusal")  # noqa: B023
            assert (gateway.said[-1].state, gateway.said[-1].reason) == ("refused", reason), payload[:20]
        assert gateway.version == 1
        await gateway.stop()

    run(story)


def test_a_graph_that_is_another_on_the_way(tmp_path: Path) -> None:
    """It is not held against the version: the true graph may yet come."""
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        version = signed(good(2))
        gateway.offer(version)
        true, (topic, data) = dict(gateway.blobs), next(iter(gateway.blobs.items()))
        gateway.blobs[topic] = data[:-1] + bytes([data[-1] ^ 1])
        said = await gateway.decided("refused", 2)
        assert (said.reason, gateway.version) == ("corrupt", 1)
        gateway.blobs = true
        gateway.models.inbox.hear(*messages(version)[-1], True)
        await gateway.decided("adopted", 2, feeding=healthy())
        await gateway.stop()

    run(story)


def test_a_graph_that_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_track, "BLOB_PATIENCE_S", 0.2)
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        gateway.offer(signed(good(2)))
        missing, _ = gateway.blobs.popitem()
        said = await gateway.decided("refused", 2)
        assert (said.reason, gateway.version) == ("no_blob", 1)
        assert missing in said.text
        assert [f for f, _ in gateway.models.inbox.filters] == [TOPICS.canary("s1/g1"), TOPICS.stable]
        await gateway.stop()

    run(story)


def test_a_graph_that_would_crash_the_runtime_ends_the_probe_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the static check had a hole: the runtime reads through a null pointer, in a process of its own."""
    crashing_runtime(monkeypatch, tmp_path / "site", crashing())
    facts = check(good(2)[1]["cpu-float32"])
    monkeypatch.setattr(
        model_store, "check", lambda data, **more: facts if data == crashing() else check(data, **more)
    )
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        gateway.offer(with_graph(good(2), crashing()))
        said = await gateway.decided("refused", 2)
        assert (said.reason, gateway.version) == ("probe_crashed", 1)
        assert "SIGSEGV" in said.text
        await gateway.adopt(signed(good(3)))
        await gateway.stop()

    run(story)


class Failing(Engine):
    """Loads, passes its golden vectors, and then runs no more."""

    n_good = 3  # golden vectors

    def run(self, inputs: NDArray[np.float32]) -> Scored:
        self.n_good -= 1
        if self.n_good < 0:
            raise GraphUnusable("out of order")
        return super().run(inputs)


def test_inference_that_fails_on_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(gateway: Any, bundle: Any, *_: Any, **__: Any) -> Engine:
        engine = Failing(bundle.manifest, bundle.artifacts)
        model_store.check_golden(bundle, engine)
        return engine

    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        monkeypatch.setattr(model_admission, "build_engine", build)
        gateway.offer(signed(good(2)))
        said = await gateway.decided("refused", 2, feeding=healthy())
        assert (said.reason, gateway.version) == ("inference_failed", 1)
        assert gateway.core.n_inference_failures == 0  # of the model in service
        await gateway.stop()

    run(story)


def test_a_trial_that_sees_too_little(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1), models=OPTIONS + "\nshadow_max_s = 0.1")

    async def story() -> None:
        gateway = Gateway(site)
        version = signed(good(2))
        gateway.offer(version)
        said = await gateway.decided("refused", 2)
        assert (said.reason, gateway.version) == ("too_few_windows", 1)
        await gateway.stop()

    run(story)


def test_a_gateway_that_cannot_afford_a_trial(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        version = signed(good(2))
        gateway.offer(version)
        await gateway.decided("shadow", 2)
        gateway.crowded = True
        said = await gateway.decided("refused", 2, feeding=healthy())
        assert (said.reason, gateway.version) == ("overloaded", 1)
        gateway.crowded = False
        await gateway.adopt(version)  # when it is heard again
        await gateway.stop()

    run(story)


def test_alerts_that_the_one_in_service_does_not_have(tmp_path: Path) -> None:
    """One burst of an ordinary day in calm ones: too short to be many rare windows, long enough for an alert."""
    site = Site(tmp_path, good(1), models="shadow_windows = 100\n", device="alert = { cooldown_s = 0 }")

    async def story() -> None:
        gateway = Gateway(site)
        gateway.feed(calm(600, seed=30))
        gateway.offer(signed(narrow(2)))
        await gateway.decided("shadow", 2)
        gateway.feed(calm(400, seed=31))
        gateway.feed(signal(4000, seed=32)[80:170])
        await asyncio.sleep(0)
        gateway.feed(calm(700, seed=33))
        said = await gateway.decided("refused", 2)
        assert (said.reason, gateway.version) == ("too_many_alerts", 1), said
        assert "pump-1" in said.text
        assert not gateway.alerts
        await gateway.stop()

    run(story)


@pytest.mark.parametrize("labelled", [False, True])
def test_an_open_alert_that_it_does_not_see(tmp_path: Path, labelled: bool) -> None:
    false: set[str] = set()
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site, false=lambda: false)
        gateway.feed(signal(600, seed=3))
        fault = (signal(100 * FEW, seed=4) + np.array([15.0, 1.5])).astype(np.float32)
        gateway.feed(fault[:200])
        (alert,) = gateway.core.pipeline.open_alerts("pump-1")
        if labelled:
            false.add(alert.alert_id)
        gateway.offer(signed(blind(2)))
        await gateway.decided("shadow", 2)
        gateway.feed(fault[200 : 200 + 10 * FEW + 10])
        if labelled:
            await gateway.decided("adopted", 2)
        else:
            said = await gateway.decided("refused", 2)
            assert (said.reason, gateway.version) == ("lost_alerts", 1)
            assert alert.alert_id in said.text
            assert [a.alert_id for a in gateway.core.pipeline.open_alerts("pump-1")] == [alert.alert_id]
        await gateway.stop()

    run(story)


def test_what_was_refused_is_not_tried_again_when_it_is_heard_again(tmp_path: Path) -> None:
    site = Site(tmp_path, good(1))

    async def story() -> None:
        gateway = Gateway(site)
        gateway.offer(other_weights(good(2)))
        await gateway.decided("refused", 2)
        gateway.models.inbox.hear(*messages(other_weights(good(2)))[-1], True)
        gateway.offer(signed(good(3)))
        await gateway.decided("adopted", 3, feeding=healthy())
        assert gateway.states == [
            ("refused", 2, "golden_mismatch"),
            ("shadow", 3, None),
            ("adopted", 3, None),
        ]
        await gateway.stop()

    run(story)
