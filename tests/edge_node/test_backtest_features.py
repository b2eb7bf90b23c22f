"""A backtest from logged features says what one from raw signal says, wherever the one takes over from the other."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_node.assembly import Core, assemble, plan_for
from edge_node.backtest_replay import Asked, Replay
from edge_node.black_box import BlackBox
from edge_node.config import Config, load_config
from edge_node.feature_log import FOLDER as FEATURES
from edge_node.feature_log import FeatureLog
from edge_node.inference import Engine, ScoringEngine
from edge_node.model_store import load_bundle
from edge_node.segments import FOLDER as SIGNAL
from edge_node.segments import load
from models.acceptance import Acceptance
from models.backtest import Backtest, flaw
from models.logs import Tick
from models.messages import Alert
from models.signal import NS_PER_S, Clock, SampleBlock
from tests.edge_node.daemons import config
from tests.edge_node.versions import Version, calm, good, narrow, written
from tests.fixtures.make_bundle import signal

BLOCK = 50
BOXES = "[black_box]\nmin_free_bytes = 0\nflush_s = 0.1\n[feature_log]\nflush_s = 30\n"
EXTRA = 'active_when = "pump-1.Temperature > 20"'


def configured(folder: Path, version: Version) -> Config:
    bundle = folder / f"bundle-{version[0].version}-{version[0].schema_id}"
    path = config(folder, 1883, bundle=written(bundle, version), extra=EXTRA)
    path.write_text(path.read_text() + BOXES)
    return load_config(path)


class Gateway:
    """The daemon's turns without its sources and its uplink, on a clock that the signal moves."""

    def __init__(self, folder: Path, version: Version | None = None, start_ns: int | None = None) -> None:
        self.folder = folder
        self.config = configured(folder, version or good(1))
        self.start_ns = start_ns or (time.time_ns() // NS_PER_S - 100_000) * NS_PER_S
        self.n = 0  # rows since start_ns
        self.said: list[Alert] = []
        self.boot(None)

    def boot(self, snapshot: bytes | None) -> None:
        self.core: Core = assemble(self.config, on_notice=lambda text: None)
        if snapshot is not None:
            self.core.pipeline.restore(snapshot)
        more: dict[str, Any] = {"now_s": lambda: float(self.n)}
        self.box = BlackBox(self.folder, self.config, self.core, segment_s=300.0, **more)
        self.log = FeatureLog(self.folder, self.config, self.core, file_s=700.0, **more)

    def run(self, values: np.ndarray[Any, Any], accept_at: Sequence[int] = ()) -> None:
        for i in range(0, len(values), BLOCK):
            if i in accept_at:
                at_ns = self.start_ns + self.n * NS_PER_S
                accepted = Acceptance(device_id="pump-1", arrival_ns=at_ns, transaction="t", by="me", note="")
                self.box.write(accepted)
                self.core.pipeline.accept(accepted)
                self.core.score()
            part = np.ascontiguousarray(values[i : i + BLOCK], np.float32)
            times = self.start_ns + (self.n + np.arange(len(part))) * NS_PER_S
            self.n += len(part)
            arrival_ns = int(times[-1])
            block = SampleBlock(
                device_id="pump-1",
                channels=("Temperature", "Pressure"),
                values=part,
                time_ns=times.astype(np.int64),
                arrival_ns=arrival_ns,
                clock=Clock.SYNCED,
            )
            self.box.write(block)
            self.core.push(block)
            self.box.write(Tick(arrival_ns))
            self.core.pipeline.advance(arrival_ns)
            self.core.score()
            self.said += [e.event for e in self.core.pipeline.events() if isinstance(e.event, Alert)]
            self.box.end_turn(self.core)
            self.log.end_turn(self.core)

    def close(self) -> None:
        self.box.close()
        self.log.close()

    @property
    def raised(self) -> list[str]:
        return [a.alert_id for a in self.said if (a.kind, a.state) == ("machine", "raised")]

    def asked(self, candidate: Version, **changes: Any) -> tuple[Asked, dict[str, ScoringEngine]]:
        folder = self.folder / f"candidate-{candidate[0].version}-{candidate[0].schema_id}"
        bundle = load_bundle(folder if folder.exists() else written(folder, candidate))
        served = self.core.plans
        new = plan_for(self.config, self.config.devices[0], bundle)
        fields: dict[str, Any] = {
            "folder": self.folder / SIGNAL,
            "features": self.folder / FEATURES,
            "from_ns": 0,
            "max_s": 100.0,
            "site": "s1",
            "gateway": "g1",
            "served": served,
            "candidate": (new,),
            "model_id": "fixture",
            "version": bundle.manifest.version,
            "against": 1,
            "sha256": "0" * 64,
            "labels": {},
            "max_batches_out": 16,
            "max_waiting": 8192,
        }
        engines: dict[str, ScoringEngine] = {
            new.engine: Engine(bundle.manifest, bundle.artifacts),
            served[0].engine: self.core.engines[served[0].engine],
        }
        return Asked(**(fields | changes)), engines

    def judged(self, candidate: Version, **changes: Any) -> tuple[Backtest, tuple[Any, ...]]:
        """The answer, and what of it depends on the signal alone."""
        replay = Replay(*self.asked(candidate, **changes))
        found = replay.run()
        assert flaw(found) is None
        ids = [list(line.made.episodes) for line in replay._lines]
        sides = [dataclasses.astuple(replay._served.made)[2:3], found.served.p_quantiles]
        sides += [found.candidate.n_windows, found.candidate.n_alerts, found.candidate.p_quantiles]
        sides += [found.n_kept, found.gained, found.lost]
        return found, (ids, sides)


NOWHERE = Path("/nonexistent")


def eventful(n: int = 6000) -> np.ndarray[Any, Any]:
    """Faults, a machine at rest, a sensor that stands still, calm and restless days."""
    values = signal(n, seed=5).copy()
    for at in (700, 1600, 3300, 4500):
        values[at : at + 150] += np.float32(8.0)
    values[2000:2100, 0] = 5.0  # at rest
    values[2400:2600, 1] = values[2400, 1]  # a sensor has stuck
    values[5000:5400] = calm(400, seed=3)
    values[5600:] += np.float32(0.8)  # drift
    return values


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    gateway = Gateway(tmp_path_factory.mktemp("plant"))
    gateway.run(eventful(), accept_at=(4600,))
    gateway.close()
    assert len(gateway.raised) >= 4
    assert len(load(gateway.folder / FEATURES)) > 5
    assert len(load(gateway.folder / SIGNAL)) > 10
    return gateway


@pytest.mark.parametrize(
    "candidate", [good(2), good(3, seed=4), narrow(4)], ids=["same", "another", "floods"]
)
def test_features_say_what_signal_says(plant: Gateway, candidate: Version) -> None:
    from_signal, signal_says = plant.judged(candidate, features=None)
    from_features, features_say = plant.judged(candidate, folder=NOWHERE)
    assert features_say == signal_says
    assert from_signal.n_from_features == 0
    assert from_features.n_from_features == from_features.served.n_windows > 400
    assert not from_signal.notes
    assert not from_features.notes
    both, both_say = plant.judged(candidate)
    assert both_say == signal_says
    assert both.n_from_features == 0  # signal goes before features


@pytest.mark.parametrize("gone", [(0, 3), (0, 12), (5, 9), (0, -1), (-4, None)])
def test_features_stand_in_for_signal_that_is_gone(
    plant: Gateway, tmp_path: Path, gone: tuple[int, int | None]
) -> None:
    """Both models go on over the seams as if nothing were missing."""
    kept = tmp_path / SIGNAL
    kept.mkdir()
    segments = load(plant.folder / SIGNAL)
    for segment in segments:
        if segment not in segments[slice(*gone)]:
            (kept / segment.path.name).write_bytes(segment.path.read_bytes())
    for candidate in (good(3, seed=4), narrow(4)):
        whole, whole_says = plant.judged(candidate, features=None)
        found, says = plant.judged(candidate, folder=kept)
        assert says == whole_says
        assert 0 < found.n_from_features < found.served.n_windows == whole.served.n_windows
        assert not found.notes
