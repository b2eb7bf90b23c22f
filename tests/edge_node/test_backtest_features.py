"""A backtest from logged features says what one from raw signal says, wherever the one takes over from the other."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.assembly import Core, assemble, plan_for
from edge_node.backtest_compare import Made
from edge_node.backtest_features import History
from edge_node.backtest_replay import Asked, NothingRecorded, Replay
from edge_node.black_box import BlackBox
from edge_node.carry_over import carry_over
from edge_node.config import Config, load_config
from edge_node.feature_log import FOLDER as FEATURES
from edge_node.feature_log import FeatureLog
from edge_node.feature_rows import FeatureRows
from edge_node.inference import Engine, ScoringEngine
from edge_node.model_store import load_bundle
from edge_node.segments import FOLDER as SIGNAL
from edge_node.segments import load
from edge_node.settling import Trace
from models.acceptance import Acceptance
from models.backtest import Backtest, flaw
from models.features import schema_id
from models.logs import Tick
from models.messages import Alert
from models.recentring import RecentringSpec
from models.signal import NS_PER_S, Clock, SampleBlock
from tests.edge_node.daemons import config
from tests.edge_node.test_adoption_refusals import other_features
from tests.edge_node.versions import Version, calm, good, narrow, signed, written
from tests.fixtures.make_bundle import signal

BLOCK = 50
BOXES = "[black_box]\nmin_free_bytes = 0\nflush_s = 0.1\n[feature_log]\nflush_s = 0.1\n"
EXTRA = 'active_when = "pump-1.Temperature > 20"'


def quick(version: Version) -> Version:
    """It, and what is normal moves so fast that drift is named within the hour."""
    m, recentring = version[0], RecentringSpec(tau_windows=20.0, max_drift_sigma=1.5)
    schema = schema_id(m.features, m.channel_names, m.window, recentring)
    return signed(version, recentring=recentring, schema_id=schema)


def configured(folder: Path, version: Version) -> Config:
    bundle = folder / f"bundle-{version[0].version}-{version[0].schema_id}"
    path = config(folder, 1883, bundle=written(bundle, version), extra=EXTRA)
    one = path.read_text()
    device = one[one.index("[[device]]") :]
    other = device.replace('"pump-1"', '"pump-2"').replace(EXTRA, "")
    path.write_text(one + other + BOXES)
    return load_config(path)


class Gateway:
    """The daemon's turns without its sources and its uplink, on a clock that the signal moves."""

    def __init__(self, folder: Path, version: Version | None = None, start_ns: int | None = None) -> None:
        self.folder = folder
        self.config = configured(folder, version or quick(good(1)))
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
            times = (self.start_ns + (self.n + np.arange(len(part))) * NS_PER_S).astype(np.int64)
            self.n += len(part)
            arrival_ns = int(times[-1])
            names = ("Temperature", "Pressure")
            blocks = [SampleBlock("pump-1", names, part, arrival_ns, None, None, times, Clock.SYNCED)]
            if not 2600 < self.n < 3500:  # then silent; and always a little late, on a clock of its own
                later = times - 7 * NS_PER_S
                mirrored = np.ascontiguousarray(part[::-1])
                blocks.append(
                    SampleBlock("pump-2", names, mirrored, arrival_ns, None, None, later, Clock.DEVICE)
                )
            for block in blocks:
                self.box.write(block)
            self.core.push(*blocks)
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
        new = tuple(plan_for(self.config, device, bundle) for device in self.config.devices)
        fields: dict[str, Any] = {
            "folder": self.folder / SIGNAL,
            "features": self.folder / FEATURES,
            "from_ns": 0,
            "max_s": 100.0,
            "site": "s1",
            "gateway": "g1",
            "served": served,
            "candidate": new,
            "model_id": "fixture",
            "version": bundle.manifest.version,
            "against": 1,
            "sha256": "0" * 64,
            "labels": {},
            "max_batches_out": 16,
            "max_waiting": 8192,
        }
        engines: dict[str, ScoringEngine] = {
            new[0].engine: Engine(bundle.manifest, bundle.artifacts),
            served[0].engine: self.core.engines[served[0].engine],
        }
        return Asked(**(fields | changes)), engines

    def judged(self, candidate: Version, **changes: Any) -> tuple[Backtest, tuple[Any, ...]]:
        """The answer, and what of it depends on the signal alone."""
        replay = Replay(*self.asked(candidate, **changes))
        found = replay.run()
        assert flaw(found) is None
        ids = [sorted(line.made.episodes) for line in replay._lines]
        sides = [dataclasses.astuple(replay._served.made)[2:3], found.served.p_quantiles]
        sides += [found.candidate.n_windows, found.candidate.n_alerts, found.candidate.p_quantiles]
        sides += [found.n_kept, found.gained, found.lost]
        return found, (ids, sides)


NOWHERE = Path("/nonexistent")


def eventful(n: int = 6000) -> np.ndarray[Any, Any]:
    """Faults, a machine at rest, a sensor that stands still, calm and restless days."""
    values = signal(6000, seed=5).copy()
    for at in (700, 1600, 3300, 4500):
        values[at : at + 150] += np.float32(8.0)
    values[2000:2100, 0] = 5.0  # at rest
    values[2400:2600, 1] = values[2400, 1]  # a sensor has stuck
    values[5000:5400] = calm(400, seed=3)
    values[5300:] += np.float32(4.0)  # drift
    return values[:n]


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
    "candidate", [quick(good(2)), quick(good(3, seed=4)), quick(narrow(4))], ids=["same", "another", "floods"]
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


@pytest.mark.parametrize("gone", [(0, 12), (5, 9), (-4, None)])
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
    for candidate in (quick(good(3, seed=4)), quick(narrow(4))):
        whole, whole_says = plant.judged(candidate, features=None)
        found, says = plant.judged(candidate, folder=kept)
        assert says == whole_says
        assert 0 < found.n_from_features < found.served.n_windows == whole.served.n_windows
        assert not found.notes


@given(st.sets(st.integers(0, 19), min_size=1, max_size=19))
@settings(deadline=None, max_examples=8)
def test_whatever_signal_is_gone(plant: Gateway, gone: set[int]) -> None:
    folder = plant.folder / f"kept-{'-'.join(map(str, sorted(gone)))}"
    folder.mkdir(exist_ok=True)
    for i, segment in enumerate(load(plant.folder / SIGNAL)):
        if i not in gone:
            (folder / segment.path.name).write_bytes(segment.path.read_bytes())
    candidate = quick(good(3, seed=4))
    _, whole_says = plant.judged(candidate, features=None)
    found, says = plant.judged(candidate, folder=folder)
    assert says == whole_says
    assert found.n_from_features > 0
    assert not found.notes


class Noting(Made):
    """What was scored, window by window."""

    def __init__(self) -> None:
        super().__init__()
        self.windows: list[tuple[str, int]] = []

    def trace(self, trace: Trace) -> None:
        self.windows += [(trace.device_id, start) for start in trace.start_ns.tolist()]
        super().trace(trace)


def windows_of(plant: Gateway, **folders: Path | None) -> tuple[list[tuple[str, int]], Backtest]:
    replay = Replay(*plant.asked(quick(good(2)), **folders))
    replay._served.made = made = Noting()
    return made.windows, replay.run()


@given(
    st.sets(st.integers(0, 19), min_size=8, max_size=19),
    st.sets(st.integers(0, 8), min_size=1, max_size=8),
)
@settings(deadline=None, max_examples=10)
def test_whatever_is_gone_no_window_comes_twice(plant: Gateway, signal: set[int], features: set[int]) -> None:
    """And what is missing is noted."""
    folder = plant.folder / f"some-{'-'.join(map(str, (*sorted(signal), 'and', *sorted(features))))}"
    for name, gone in ((SIGNAL, signal), (FEATURES, features)):
        (folder / name).mkdir(exist_ok=True, parents=True)
        for i, segment in enumerate(load(plant.folder / name)):
            if i not in gone:
                (folder / name / segment.path.name).write_bytes(segment.path.read_bytes())
    every, _ = windows_of(plant, features=None)
    found, answer = windows_of(plant, folder=folder / SIGNAL, features=folder / FEATURES)
    assert len(set(found)) == len(found)
    assert set(found) <= set(every)
    first = {d: min(start for name, start in found if name == d) for d, _ in found}
    last = max(start for _, start in found)
    missing = {w for w in every if first.get(w[0], last) <= w[1] < last} - set(found)
    if missing and last == max(start for _, start in every):
        assert any("missing before" in note for note in answer.notes)


def test_the_plant_has_all_that_matters(plant: Gateway) -> None:
    """What the tests above compare: drift and machine alerts, rest, faults of sensors, channels that are suspect."""
    assert {a.kind for a in plant.said} >= {"machine", "drift", "sensor"}
    log = History(plant.folder / FEATURES, 0, {"pump-1": plant.core.plans[0]}, print, lambda file: None)
    assert {a.device for a in plant.said if a.kind == "machine"} == {"pump-1", "pump-2"}
    rows = [item for item in log.between({}, None, None) if isinstance(item, FeatureRows)]
    assert any(r.suspect is not None for r in rows)
    start = np.concatenate([r.start_ns for r in rows])
    assert (np.diff(start) > 0).all()
    assert np.diff(start).max() > 80 * NS_PER_S  # windows at rest are not there
    accepted = [item for item in log.between({}, None, None) if isinstance(item, Acceptance)]
    assert [item.transaction for item in accepted] == ["t"]


def test_what_arrived_before_the_hours_asked_for_is_left_out(plant: Gateway) -> None:
    files = load(plant.folder / FEATURES)
    from_ns = files[3].contents.first_arrival_ns
    assert from_ns is not None
    found, _ = plant.judged(quick(good(2)), folder=NOWHERE, from_ns=from_ns)
    assert found.start_ns == from_ns
    assert not found.notes
    replay = Replay(*plant.asked(quick(good(2)), folder=NOWHERE, from_ns=from_ns))
    replay.run()
    later = {
        a.alert_id for a in plant.said if a.kind == "machine" and a.state == "raised" and a.end_ns > from_ns
    }
    assert {e.alert_id for e in replay._served.made.counted if e.kind == "machine"} == later
    with pytest.raises(NothingRecorded):
        plant.judged(quick(good(2)), folder=NOWHERE, from_ns=time.time_ns())


def test_a_candidate_with_other_features_is_judged_on_signal_alone(plant: Gateway) -> None:
    found, _ = plant.judged(other_features(good(2)))
    assert found.n_from_features == 0
    assert found.served.n_windows > 400
    assert any("judged on raw signal alone" in note for note in found.notes)
    with pytest.raises(NothingRecorded, match="raw signal alone"):
        plant.judged(other_features(good(2)), folder=NOWHERE)


def test_what_had_other_features_once_is_left_out(tmp_path: Path) -> None:
    before = Gateway(tmp_path, other_features(good(1)))
    before.run(eventful(1500))
    before.close()
    gateway = Gateway(tmp_path, quick(good(1)), before.start_ns + 2000 * NS_PER_S)
    gateway.run(eventful(1500))
    gateway.close()
    whole, _ = gateway.judged(quick(good(2)), folder=NOWHERE)
    assert len(gateway.raised) == 2
    assert whole.served.n_windows == pytest.approx(2 * 149, abs=6)
    assert any("other windows or features once" in note for note in whole.notes)


def test_a_restart_goes_on_and_no_window_comes_twice(tmp_path: Path) -> None:
    """Killed: what was remembered is older than what was logged, and the broker brings the rest again."""
    values = eventful(3000)
    whole = Gateway(tmp_path_of(tmp_path, "whole"))
    whole.run(values)
    whole.close()
    gateway = Gateway(tmp_path_of(tmp_path, "killed"), start_ns=whole.start_ns)
    gateway.run(values[:1800])
    snapshot = gateway.core.pipeline.snapshot()
    gateway.run(values[1800:2000])
    gateway.close()
    gateway.n = 1800
    gateway.boot(snapshot)
    gateway.run(values[1800:])
    gateway.close()
    for candidate in (quick(good(2)), quick(narrow(4))):
        _, once_says = whole.judged(candidate, folder=NOWHERE)
        twice, twice_says = gateway.judged(candidate, folder=NOWHERE)
        assert twice_says == once_says
        assert not twice.notes


def test_a_new_configuration_and_a_new_model_leave_nothing_out(tmp_path: Path) -> None:
    values = eventful(3000)
    whole = Gateway(tmp_path_of(tmp_path, "whole"))
    whole.run(values)
    whole.close()
    gateway = Gateway(tmp_path_of(tmp_path, "changed"), start_ns=whole.start_ns)
    gateway.run(values[:1200])
    before, gateway.core = gateway.core, assemble(gateway.config, on_notice=lambda text: None)
    assert carry_over(before, gateway.core, same_gateway=True) == 2
    gateway.box.go_on_with(gateway.config, gateway.core)
    gateway.log.go_on_with(gateway.config, gateway.core)
    gateway.run(values[1200:2200])
    _, engines = gateway.asked(quick(good(5, seed=4)))
    adopted = [
        plan_for(gateway.config, device, load_bundle(next(gateway.folder.glob("candidate-5-*"))))
        for device in gateway.config.devices
    ]
    gateway.core.adopt(adopted, engines)
    gateway.run(values[2200:])
    gateway.close()
    once, _ = whole.judged(quick(good(2)), folder=NOWHERE)
    found, _ = gateway.judged(quick(good(2)), folder=NOWHERE)
    assert found.served.n_windows == once.served.n_windows == found.n_from_features
    assert found.candidate.n_windows == once.candidate.n_windows
    assert all("another version was in service" in note for note in found.notes)


def test_a_damaged_file_costs_what_follows_the_damage(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.run(eventful(4000))
    gateway.close()
    whole, _ = gateway.judged(quick(good(2)), folder=NOWHERE)
    path = load(gateway.folder / FEATURES)[2].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    found, _ = gateway.judged(quick(good(2)), folder=NOWHERE)
    assert 0.7 * whole.served.n_windows < found.served.n_windows < whole.served.n_windows
    assert any("something is missing there" in note for note in found.notes)
    path.unlink()
    gone, _ = gateway.judged(quick(good(2)), folder=NOWHERE)
    assert gone.served.n_windows <= found.served.n_windows
    assert any(note.startswith("features are missing before") for note in gone.notes)


def tmp_path_of(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name
