"""The devices that a block log says its rows are of."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from models.gating import GateSpec
from models.logs import LogError
from models.recording import RecordingWriter, inspect_log, read_log, recorded_devices
from models.signal import Channel, Mode
from models.time_policy import RecordedDevice, TimeOptions
from tests.models.test_recording import SUFFIXES, key, some_items, write

DEVICES = (
    RecordedDevice(
        device_id="d0",
        machine="press-4",
        class_="press",
        mode=Mode.IRREGULAR,
        rate_hz=Fraction(1, 300),
        time=TimeOptions(hold_s=900.5, min_valid=0.5),
        interval_s=300.0,
        gate=GateSpec(device_id="d1", channel="power", comparison=">=", value=-0.1, settle_s=30.0),
        channels=(
            Channel(name="x", unit="°C", origin=101_325.1, wear=True, valid_range=(-40.0, 1e-9)),
            Channel(name="y", scale=0.1, offset=-1, full_scale=2.0, stuck_s=3.5),
        ),
    ),
    RecordedDevice(device_id="d1", machine="d1"),
)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_recording_says_what_its_devices_were(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log{suffix}"
    with RecordingWriter(path, DEVICES) as log:
        for item in some_items():
            log.write(item)
    assert recorded_devices(path) == DEVICES
    assert inspect_log(path).devices == DEVICES
    assert inspect_log(path).device_ids == ("d0", "d1")
    assert [key(item) for item in read_log(path)] == [key(item) for item in some_items()]
    write(tmp_path / f"without{suffix}", some_items(1))
    assert recorded_devices(tmp_path / f"without{suffix}") == ()


def test_logs_of_before_devices_were_written_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, some_items(2))
    _, rows = path.read_bytes().split(b"\n", 1)
    path.write_bytes(b'{"kind":"log","format":"linewatch block log","version":1}\n' + rows)
    assert recorded_devices(path) == inspect_log(path).devices == ()
    assert [key(item) for item in read_log(path)] == [key(item) for item in some_items(2)]
    foreign = tmp_path / "log.csv"
    foreign.write_text("t,x\n2024-01-01T00:00:00Z,1\n")
    assert recorded_devices(foreign) == ()


def test_devices_that_cannot_be_read_are_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with RecordingWriter(path, DEVICES):
        pass
    path.write_bytes(path.read_bytes().replace(b'"rate_hz":"1"', b'"rate_hz":"0"'))
    with pytest.raises(LogError, match=r"line 1: no row of a block log.*rate"):
        recorded_devices(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_interrupted_recording_says_it_too(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log{suffix}"
    log = RecordingWriter(path, DEVICES)
    log.write(some_items(1)[0])
    assert recorded_devices(path) == DEVICES
    log.close()
