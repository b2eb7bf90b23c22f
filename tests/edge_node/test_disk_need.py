"""The disk that is said to be needed is what is written."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from edge_node.config_schema import BlackBox
from edge_node.disk_need import feature_bytes, need, ratio, values_per_s
from edge_node.feature_rows import FeatureRows, as_block, column_names
from edge_node.ring import Begin, Ring
from edge_node.segments import load
from models.block_frames import ItemPacker
from models.logs import LogItem, Tick
from models.signal import NS_PER_S, Channel, Mode, SampleBlock
from models.time_policy import RecordedDevice

XYZ = tuple(Channel(name=name) for name in "xyz")
BOARD = RecordedDevice(device_id="b", machine="m", rate_hz=Fraction(1000), channels=XYZ)
SLOW = RecordedDevice(
    device_id="s",
    machine="m",
    mode=Mode.IRREGULAR,
    rate_hz=Fraction(1, 10),
    interval_s=10.0,
    channels=XYZ[:1],
)
BURST = RecordedDevice(
    device_id="r", machine="m", mode=Mode.BURST, rate_hz=Fraction(25600), interval_s=10.0, channels=XYZ[:2]
)


def test_values_by_mode() -> None:
    assert values_per_s(BOARD) == 3000
    assert values_per_s(SLOW) == pytest.approx(0.1)
    assert values_per_s(BURST, record_n=2560) == 512


def test_what_an_hour_takes() -> None:
    one = need([(BOARD, None)], 5.0)
    assert one.raw_bytes == 3000 * 4 * 3600
    assert one.disk_bytes == pytest.approx(one.raw_bytes, rel=0.05)
    assert not one.measured
    known = need([(BOARD, None), (SLOW, None)], 5.0, measured_ratio=0.5)
    assert known.disk_bytes == known.raw_bytes / 2
    assert known.raw_bytes == one.raw_bytes + 0.1 * 12 * 3600
    assert known.measured


@pytest.mark.parametrize(("rate", "seconds"), [(1000, 60), (0, 600)])
def test_the_estimate_is_near_what_is_written_and_not_below_it(
    tmp_path: Path, rate: int, seconds: int
) -> None:
    """Noise of a board, or a plant at rest of which only slow values come; five seconds at a time."""
    ring = Ring(tmp_path, BlackBox(min_free_bytes=0), lambda: 0.0)
    ring.recover()
    ring.begin(Begin((), b"", False))
    rng = np.random.default_rng(3)
    for at_s in range(0, seconds, 5):
        at = at_s * NS_PER_S
        items: list[LogItem] = [Tick(at + i * NS_PER_S // 4) for i in range(20)]
        if rate:
            values = rng.normal(size=(5 * rate, 3))
            items.append(
                SampleBlock.uniform(
                    "b", ("x", "y", "z"), values, start_ns=at, rate_hz=Fraction(rate), arrival_ns=at
                )
            )
        elif at_s % 10 == 0:
            items.append(
                SampleBlock.irregular("s", ("x",), np.ones((1, 1)), time_ns=np.array([at]), arrival_ns=at)
            )
        ring.append(items)
    ring.end()
    (segment,) = load(tmp_path)
    said = need([(BOARD if rate else SLOW, None)], 5.0)
    written = segment.n_bytes / seconds * 3600
    assert 0.75 * said.disk_bytes < written <= said.disk_bytes
    assert ratio([(segment.n_bytes, segment.contents.n_raw_bytes)]) == ring.holding().ratio


@pytest.mark.parametrize(("n_devices", "hop_s", "k"), [(3, 10.0, 10), (20, 0.5, 42)])
def test_features_take_no_more_than_is_said_and_not_much_less(n_devices: int, hop_s: float, k: int) -> None:
    """Noise, written once a minute."""
    rng, packer, n_bytes = np.random.default_rng(3), ItemPacker(), 0
    names = column_names(3, [f"feature {i}" for i in range(k)])
    for minute in range(60):
        start = (minute * 60 + np.arange(0.0, 60.0, hop_s)) * NS_PER_S
        blocks = [
            as_block(
                [
                    FeatureRows(
                        f"device-{i}",
                        minute,
                        "device",
                        start.astype(np.int64),
                        start.astype(np.int64) + NS_PER_S,
                        rng.normal(size=(start.size, k)).astype(np.float32),
                    )
                ],
                3,
                names,
            )
            for i in range(n_devices)
        ]
        n_bytes += len(packer.pack(blocks))
    expected = feature_bytes([(1 / hop_s, k)] * n_devices, 60.0)
    assert 0.6 * expected < n_bytes <= expected
    assert feature_bytes([], 60.0) == 0
