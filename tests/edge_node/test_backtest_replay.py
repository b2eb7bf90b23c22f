"""The black box through two pipelines: what the gateway said is said again, whatever is missing; how two models differ."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node import backtest_replay
from edge_node.assembly import Core, assemble, plan_for
from edge_node.backtest_compare import Episode, Made, changes
from edge_node.backtest_replay import Asked, NothingRecorded, Replay
from edge_node.config import Config, load_config
from edge_node.inference import Engine, ScoringEngine
from edge_node.model_store import load_bundle
from edge_node.segments import SegmentFile, load
from edge_node.settling import Trace
from models.backtest import flaw
from models.block_frames import ItemPacker
from models.block_log import packed_state
from models.logs import LogItem, Tick
from models.messages import Alert
from models.signal import NS_PER_S, Clock, SampleBlock
from tests.edge_node.daemons import config
from tests.edge_node.versions import Version, calm, good, narrow, written
from tests.fixtures.make_bundle import signal

BLOCK = 50
FILE = 6  # blocks


class Gateway:
    """A gateway without its daemon: its signal in files of a black box, and the alerts that it raised."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "blackbox"
        self.folder.mkdir()
        path = config(folder, 1883, bundle=written(folder / "bundle", good(1)))
        self.config: Config = load_config(path)
        self.core: Core = assemble(self.config, on_notice=lambda text: None)
        self.raised: list[str] = []
        self.start_ns = (time.time_ns() // NS_PER_S - 10_000) * NS_PER_S

    def run(self, values: np.ndarray[Any, Any]) -> None:
        for i in range(0, len(values), BLOCK * FILE):
            self._file(i, values[i : i + BLOCK * FILE])

    def _file(self, at: int, values: np.ndarray[Any, Any]) -> None:
        number = at // (BLOCK * FILE) + 1
        devices = [device.as_recorded() for device in self.config.devices]
        state = packed_state(self.core.pipeline.snapshot())
        file = SegmentFile(self.folder, number, number > 1, devices, state)
        for i in range(0, len(values), BLOCK):
            part = np.ascontiguousarray(values[i : i + BLOCK], np.float32)
            times = self.start_ns + (at + i + np.arange(len(part))) * NS_PER_S
            arrival_ns = int(times[-1])
            plan = self.core.plans[0]
            block = SampleBlock(
                device_id="pump-1",
                channels=plan.device.channel_names,
                values=part,
                time_ns=times.astype(np.int64),
                arrival_ns=arrival_ns,
                clock=Clock.SYNCED,
            )
            items: list[LogItem] = [block, Tick(arrival_ns)]
            self.core.push(block)
            self.core.pipeline.advance(arrival_ns)
            self.core.score()
            file.append(ItemPacker().pack(items), items, [])
        assert file.close()
        for event in self.core.pipeline.events():
            if (
                isinstance(event.event, Alert)
                and event.event.kind == "machine"
                and event.event.state == "raised"
            ):
                self.raised.append(event.event.alert_id)

    def asked(
        self, candidate: Version, folder: Path, **changes: Any
    ) -> tuple[Asked, dict[str, ScoringEngine]]:
        bundle = load_bundle(written(folder, candidate))
        served = self.core.plans
        new = plan_for(self.config, self.config.devices[0], bundle)
        fields: dict[str, Any] = {
            "folder": self.folder,
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


@pytest.fixture
def plant(tmp_path: Path) -> Gateway:
    gateway = Gateway(tmp_path)
    values = signal(2400, seed=5).copy()
    for at in (700, 1600):
        values[at : at + 150] += np.float32(8.0)
    gateway.run(values)
    assert len(gateway.raised) == 2
    return gateway


def test_what_was_said_is_said_again_by_both(plant: Gateway, tmp_path: Path) -> None:
    labels = {plant.raised[0]: "true_alarm"}
    replay = Replay(*plant.asked(good(2), tmp_path / "two", labels=labels))
    found = replay.run()
    assert flaw(found) is None
    assert (found.served.n_alerts, found.candidate.n_alerts, found.n_kept) == (2, 2, 2)
    assert (found.n_gained, found.n_lost, found.n_kept_true) == (0, 0, 1)
    assert found.served.p_quantiles == found.candidate.p_quantiles
    assert not found.notes
    assert [e.alert_id for e in replay._served.made.counted] == plant.raised
    assert found.device_hours == pytest.approx(2400 / 3600, rel=0.1)


def test_what_arrived_before_the_hours_asked_for_is_left_out(plant: Gateway, tmp_path: Path) -> None:
    from_ns = plant.start_ns + 1500 * NS_PER_S
    replay = Replay(*plant.asked(good(2), tmp_path / "two", from_ns=from_ns))
    found = replay.run()
    assert [e.alert_id for e in replay._served.made.counted] == plant.raised[
        1:
    ]  # its beginning is remembered
    assert (found.n_gained, found.n_lost) == (0, 0)
    with pytest.raises(NothingRecorded, match="the newest that is recorded is of"):
        Replay(*plant.asked(good(2), tmp_path / "again", from_ns=time.time_ns())).run()


def test_an_alert_that_was_open_before_is_nobodys(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    values = signal(1200, seed=5).copy()
    values[500:700] += np.float32(8.0)  # a file begins in the midst of it
    gateway.run(values)
    asked = gateway.asked(good(2), tmp_path / "two", from_ns=gateway.start_ns + 650 * NS_PER_S)
    replay = Replay(*asked)
    found = replay.run()
    assert list(replay._served.made.episodes) == gateway.raised
    assert (found.served.n_alerts, found.candidate.n_alerts, found.n_gained, found.n_lost) == (0, 0, 0, 0)


def test_a_model_that_floods_has_more(plant: Gateway, tmp_path: Path) -> None:
    more = Gateway(tmp_path_of(tmp_path, "more"))
    parts = [calm(60, seed=i) if i % 2 else signal(4000, seed=i)[80:170] for i in range(24)]
    more.run(np.concatenate(parts))
    found = Replay(*more.asked(narrow(3), tmp_path / "narrow")).run()
    assert found.n_gained > 0
    assert len(msgspec.json.encode(found)) < 8192
    assert found.candidate.p_quantiles["q0.1"] < found.served.p_quantiles["q0.1"]
    assert flaw(found) is None


def tmp_path_of(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


@pytest.mark.parametrize("how", ["gone", "overwritten meanwhile", "damaged", "cut"])
def test_what_is_missing_is_noted_and_the_rest_is_replayed(
    plant: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    segment = load(plant.folder)[4].path  # neither alert is in it
    data = segment.read_bytes()
    if how == "gone":
        segment.unlink()
    elif how == "damaged":
        half = len(data) // 2
        segment.write_bytes(data[:half] + bytes([data[half] ^ 0xFF]) + data[half + 1 :])
    elif how == "cut":
        segment.write_bytes(data[: len(data) * 2 // 3])
    else:

        def loaded(folder: Path, warn: Any) -> Any:
            found = load(folder, warn)
            segment.unlink()
            return found

        monkeypatch.setattr(backtest_replay, "load", loaded)
    replay = Replay(*plant.asked(good(2), tmp_path / "two"))
    found = replay.run()
    assert flaw(found) is None
    assert (found.n_gained, found.n_lost) == (0, 0)
    assert [e.alert_id for e in replay._served.made.counted] == plant.raised
    assert len(found.notes) == (0 if how == "cut" else 1), found.notes


def test_a_replay_that_takes_too_long_ends_and_says_where(plant: Gateway, tmp_path: Path) -> None:
    clock = iter(np.arange(0.0, 1000.0, 30.0))
    found = Replay(*plant.asked(good(2), tmp_path / "two"), now_s=lambda: float(next(clock))).run()
    assert "it took longer than 100 s" in found.notes[0]
    assert 0 < found.served.n_windows == found.candidate.n_windows


def test_nothing_is_nothing(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    with pytest.raises(NothingRecorded, match="empty, or off"):
        Replay(*gateway.asked(good(2), tmp_path / "two")).run()


spans = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 10), st.sampled_from("ab")), max_size=12)


def made(drawn: list[tuple[int, int, str]], name: str) -> Made:
    found = Made()
    for i, (start, length, device) in enumerate(drawn):
        found.episodes[f"{name}{i}"] = Episode(f"{name}{i}", device, "machine", start, start + length, True)
    return found


@given(spans, spans)
def test_alerts_are_matched_where_they_overlap(one: list[Any], two: list[Any]) -> None:
    found = changes(made(one, "s"), made(two, "c"), {})

    def alone(ours: list[Any], theirs: list[Any]) -> int:
        return sum(not any(d == e and b <= a + n and a <= b + m for b, m, e in theirs) for a, n, d in ours)

    assert (found.n_lost, found.n_gained) == (alone(one, two), alone(two, one))
    assert found.n_kept == len(one) - found.n_lost


@given(st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=300))
def test_quantiles_are_known_to_a_bin(values: list[float]) -> None:
    p = np.array(values)
    flags = np.zeros(p.size, np.bool_)
    times = np.arange(p.size)
    side = Made()
    side.trace(Trace("d", times, times + 1, p.astype(np.float32), p, flags, flags))
    ordered = np.sort(p)
    for name, found in side.quantiles().items():
        q = float(name[1:])
        true = ordered[max(1, int(np.ceil(q * p.size))) - 1]
        assert true / 1.03 <= found <= true * 1.03
