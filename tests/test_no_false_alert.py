"""A healthy machine on a bad network, or with a bad clock, raises no machine alert: what is lost, late, repeated, ahead or
stamped anew is counted, and what it leaves of a window is not scored as if it were all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from cloud_sink.cli import main as cloud_sink
from edge_node.assembly import Core, assemble_bundle
from edge_node.model_store import load_bundle
from models.messages import Alert
from models.recording import RecordingWriter
from models.signal import NS_PER_S, Channel, Clock, Mode, SampleBlock
from models.time_policy import RecordedDevice

START_NS = 1_760_000_000 * NS_PER_S
FAST, SLOW = Fraction(1000), Fraction(1)
BLOCK = 50  # rows of a fast block: 50 ms
MINUTES = 4

Rng = np.random.Generator
Broken = Callable[[SampleBlock, Rng], Iterable[SampleBlock]]


def fast(minutes: float, seed: int) -> Iterator[SampleBlock]:
    """Vibration of a healthy machine, 1 kHz."""
    rng = np.random.default_rng(seed)
    n = int(minutes * 60_000)
    t = np.arange(n) / 1000.0
    x = np.sin(2 * np.pi * 24.7 * t) + 0.4 * np.sin(2 * np.pi * 148.2 * t) + 0.3 * rng.normal(size=n)
    y = 0.5 * np.sin(2 * np.pi * 49.4 * t + 1) + 0.3 * rng.normal(size=n)
    values = np.stack([x, y], axis=1).astype(np.float32)
    for i in range(0, n, BLOCK):
        start_ns = START_NS + i * 1_000_000
        arrival_ns = start_ns + BLOCK * 1_000_000 + 3_000_000
        rows = values[i : i + BLOCK]
        yield SampleBlock.uniform(
            "m", ("x", "y"), rows, start_ns=start_ns, rate_hz=FAST, arrival_ns=arrival_ns
        )


def slow(minutes: float, seed: int) -> Iterator[SampleBlock]:
    """Two temperatures of a healthy machine, every second."""
    rng = np.random.default_rng(seed)
    n = int(minutes * 60)
    walk = np.zeros(n)
    for i in range(1, n):
        walk[i] = 0.9 * walk[i - 1] + 0.1 * rng.normal()
    for i in range(n):
        t_ns = START_NS + i * NS_PER_S
        row = np.array([[40 + walk[i] + 0.05 * rng.normal(), 22 + 0.2 * rng.normal()]])
        yield SampleBlock.irregular(
            "m", ("a", "b"), row, time_ns=np.array([t_ns]), arrival_ns=t_ns + 20_000_000
        )


def trained(folder: Path, features: str, blocks: Iterable[SampleBlock], mode: Mode, rate: Fraction) -> Path:
    names = ("x", "y") if features == "vibration" else ("a", "b")
    channels = tuple(Channel(name=name) for name in names)
    device = RecordedDevice(device_id="m", machine="m", mode=mode, rate_hz=rate, channels=channels)
    with RecordingWriter(folder / "m.jsonl", [device]) as recording:
        for block in blocks:
            recording.write(block)
    assert (
        cloud_sink(["train", str(folder / "m.jsonl"), "--features", features, "-o", str(folder / "m")]) == 0
    )
    return folder / "m"


@pytest.fixture(scope="module")
def vibration_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("fast"), "vibration", fast(15, 1), Mode.CONTINUOUS, FAST)


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("slow"), "slow", slow(360, 1), Mode.IRREGULAR, SLOW)


def lost(share: float) -> Broken:
    return lambda block, rng: [] if rng.random() < share else [block]


def repeated(block: SampleBlock, rng: Rng) -> Iterable[SampleBlock]:
    return [block, block] if rng.random() < 0.2 else [block]


def moved(block: SampleBlock, by_ns: int) -> SampleBlock:
    if block.time_ns is not None:
        times = block.time_ns + by_ns
        return SampleBlock.irregular(
            "m", block.channels, block.values, time_ns=times, arrival_ns=block.arrival_ns
        )
    assert block.start_ns is not None
    assert block.rate_hz is not None
    return SampleBlock.uniform(
        "m",
        block.channels,
        block.values,
        start_ns=block.start_ns + by_ns,
        rate_hz=block.rate_hz,
        arrival_ns=block.arrival_ns,
    )


def jittered(sigma_ms: float) -> Broken:
    return lambda block, rng: [moved(block, int(rng.normal() * sigma_ms * 1e6))]


def stepped(by_s: float) -> Broken:
    """A clock that is set by ``by_s`` half-way."""
    middle = START_NS + MINUTES * 30 * NS_PER_S

    def broken(block: SampleBlock, _: Rng) -> Iterable[SampleBlock]:
        at = int(block.times()[0])
        return [moved(block, int(by_s * NS_PER_S)) if at > middle else block]

    return broken


def not_a_number(block: SampleBlock, rng: Rng) -> Iterable[SampleBlock]:
    if rng.random() < 0.02:
        values = block.values.copy()
        values[rng.integers(len(values))] = np.nan
        return [moved(SampleBlock(**{**_fields(block), "values": values}), 0)]
    return [block]


def _fields(block: SampleBlock) -> dict[str, object]:
    return {name: getattr(block, name) for name in SampleBlock.__struct_fields__}


TROUBLES: dict[str, Broken] = {
    "2 % lost": lost(0.02),
    "10 % lost": lost(0.1),
    "30 % lost": lost(0.3),
    "repeated": repeated,
    "jitter within a period": jittered(0.3),
    "jitter of 5 ms": jittered(5),
    "jitter of 20 ms": jittered(20),
    "set back by 3 s": stepped(-3),
    "set back by an hour": stepped(-3600),
    "set forward by 3 s": stepped(3),
    "1970": stepped(-1_760_000_000),
    "not a number": not_a_number,
}


def machine_alerts(model: Path, blocks: Iterable[SampleBlock], broken: Broken) -> tuple[list[str], Core]:
    core = assemble_bundle(load_bundle(model), "m", p_threshold=1e-4, on_notice=print)
    rng = np.random.default_rng(7)
    waiting: list[SampleBlock] = []
    said = []
    for block in blocks:
        waiting += broken(block, rng)
        if len(waiting) >= 64:
            core.push(*waiting)
            waiting = []
            said += core.pipeline.events()
    core.push(*waiting)
    core.pipeline.advance(START_NS + (MINUTES + 300) * 60 * NS_PER_S)
    core.score()
    said += core.pipeline.events()
    alerts = [e.event for e in said if isinstance(e.event, Alert) and e.event.kind == "machine"]
    return [alert.message for alert in alerts], core


@pytest.mark.parametrize("trouble", TROUBLES)
def test_vibration(vibration_model: Path, trouble: str) -> None:
    alerts, core = machine_alerts(vibration_model, fast(MINUTES, 2), TROUBLES[trouble])
    assert not alerts
    counted = core.pipeline.counters()
    assert counted.n_samples_in == counted.n_windowed + sum(counted.sample_drops.values())


@pytest.mark.parametrize("trouble", TROUBLES)
def test_slow(slow_model: Path, trouble: str) -> None:
    alerts, core = machine_alerts(slow_model, slow(MINUTES * 30, 2), TROUBLES[trouble])
    assert not alerts
    counted = core.pipeline.counters()
    assert counted.n_samples_in == counted.n_windowed + sum(counted.sample_drops.values())


def test_a_fault_on_the_same_bad_network_is_found(vibration_model: Path) -> None:
    def faulty() -> Iterator[SampleBlock]:
        for block in fast(MINUTES, 2):
            rows = np.asarray(block.values) * np.float32([3.0, 1.0])
            yield SampleBlock(**{**_fields(block), "values": rows})

    alerts, _ = machine_alerts(vibration_model, faulty(), lost(0.02))
    assert alerts


def test_blocks_stamped_on_arrival_are_windowed_whole_though_the_network_is_not_even(
    vibration_model: Path,
) -> None:
    def on_arrival(block: SampleBlock, rng: Rng) -> Iterable[SampleBlock]:
        late = moved(block, int(rng.uniform(0, 20e6)))  # of blocks of 50 ms
        return [SampleBlock(**{**_fields(late), "clock": Clock.ARRIVAL})]

    alerts, core = machine_alerts(vibration_model, fast(MINUTES, 2), on_arrival)
    assert not alerts
    _, even = machine_alerts(vibration_model, fast(MINUTES, 2), lost(0))
    found, expected = core.pipeline.counters(), even.pipeline.counters()
    assert not found.sample_drops
    assert abs(found.n_windows_scored - expected.n_windows_scored) <= 1
    assert sum(found.window_drops.values()) <= 2  # begun before the first block, not complete with the last
