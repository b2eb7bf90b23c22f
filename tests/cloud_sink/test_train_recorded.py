"""``cloud-sink train`` on recordings that say what their devices were: nothing has to be said again."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cloud_sink.cli import REFUSED, main
from edge_node.model_store import check_device, load_bundle
from models.recording import RecordingWriter
from models.signal import NS_PER_S, Channel, Mode, SampleBlock
from models.time_policy import RecordedDevice, TimeOptions
from tests.cloud_sink.recordings import START_NS, slow_signal

Capture = pytest.CaptureFixture[str]
SUFFIXES = (".jsonl", ".parquet")
ORIGIN = 32.0

PRESS = RecordedDevice(
    device_id="press",
    machine="press-4",
    class_="presses",
    mode=Mode.IRREGULAR,
    rate_hz=Fraction(1),
    # not in the order in which they come
    channels=(
        Channel(name="flow", unit="l/min", origin=ORIGIN),
        Channel(name="pressure", unit="bar"),
        Channel(name="current", unit="A", wear=True, valid_range=(0.0, 9.0)),
    ),
)
METER = RecordedDevice(device_id="meter", machine="press-4", channels=(Channel(name="power", unit="W"),))


def record(
    path: Path, *devices: RecordedDevice, seed: int = 0, start_ns: int = START_NS, every: int = 1
) -> Path:
    """Fifteen minutes of PRESS, in blocks as a source makes them of uniform messages; of these every
    ``every``-th second."""
    values = slow_signal(900, seed) - np.array([0.0, ORIGIN, 0.0])
    with RecordingWriter(path, devices) as log:
        n = 10 if every == 1 else 1
        for i in range(0, 900, n * every):
            log.write(
                SampleBlock.uniform(
                    "press",
                    ("pressure", "flow", "current"),
                    values[i : i + n].astype(np.float32),
                    start_ns=start_ns + i * NS_PER_S,
                    rate_hz=Fraction(1),
                    arrival_ns=start_ns + (i + n) * NS_PER_S,
                )
            )
    return path


def train(*arguments: object, out: Path) -> int:
    return main(["train", *map(str, arguments), "--features", "slow", "-o", str(out)])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_model_is_for_the_device_as_it_was_recorded(tmp_path: Path, capsys: Capture, suffix: str) -> None:
    assert train(record(tmp_path / f"log{suffix}", PRESS), out=tmp_path / "m") == 0
    bundle = load_bundle(tmp_path / "m")
    check_device(bundle, PRESS, bundle.manifest.window)
    assert bundle.manifest.class_ == "presses"
    assert bundle.manifest.window.mode is Mode.IRREGULAR  # the blocks look continuous
    flow = bundle.manifest.channels[0]
    assert flow.baseline.maximum < ORIGIN / 2
    signal = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("signal"))
    assert "1 Hz, irregular: flow in l/min less 32; pressure in bar; current in A (wear)" in signal


def test_options_take_the_place_of_what_was_recorded(tmp_path: Path) -> None:
    log = record(tmp_path / "log.jsonl", PRESS)
    options = "--unit pressure=Pa --wear pressure --mode continuous --class pumps --origin flow=32"
    assert train(log, *options.split(), out=tmp_path / "m") == 0
    manifest = load_bundle(tmp_path / "m").manifest
    assert [(c.name, c.unit, c.origin, c.wear) for c in manifest.channels] == [
        ("flow", "l/min", ORIGIN, False),
        ("pressure", "Pa", 0.0, True),
        ("current", "A", 0.0, True),
    ]
    assert (manifest.class_, manifest.window.mode) == ("pumps", Mode.CONTINUOUS)


def test_what_the_configuration_calls_invalid_is_not_trained_on(tmp_path: Path) -> None:
    strict = msgspec.structs.replace(PRESS.channels[2], valid_range=(1.2, 9.0))
    device = msgspec.structs.replace(PRESS, channels=(*PRESS.channels[:2], strict))
    assert train(record(tmp_path / "log.jsonl", device), out=tmp_path / "m") == 0
    assert load_bundle(tmp_path / "m").manifest.training.set_aside["sensor_fault"] > 0


def test_windows_are_held_together_as_the_configuration_says_or_as_the_recording_needs(
    tmp_path: Path,
) -> None:
    """A value every eight seconds on a grid of one: by default it is held over the seven that have none."""
    for name, time, hold_s in (("default", TimeOptions(), 7.0), ("held", TimeOptions(hold_s=10), 10.0)):
        device = msgspec.structs.replace(PRESS, time=time)
        sparse = record(tmp_path / f"{name}.jsonl", device, every=8)
        assert train(sparse, out=tmp_path / name) == 0
        manifest = load_bundle(tmp_path / name).manifest
        assert manifest.training.n_windows > 800
        assert manifest.time_policy.hold_s == hold_s


def test_values_are_held_no_longer_than_the_configuration_says(tmp_path: Path, capsys: Capture) -> None:
    device = msgspec.structs.replace(PRESS, time=TimeOptions(hold_s=5))
    sparse = record(tmp_path / "short.jsonl", device, every=8)
    assert train(sparse, out=tmp_path / "short") == REFUSED
    assert "every window was set aside" in capsys.readouterr().err


def one_line(capsys: Capture) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("devices", "options", "says"),
    [
        ((PRESS, METER), [], "holds 2 devices: choose one with --device: press, meter"),
        ((PRESS, METER), ["--device", "meter"], "no device 'meter' in it, only press"),
        ((PRESS,), ["--origin", "flow=30"], "values have the origin 32 subtracted: leave the option out"),
        (
            (PRESS,),
            ["--wear", "x"],
            "--wear names 'x', which is no channel of press: flow, pressure, current",
        ),
        ((PRESS,), ["--origin", "x=1"], "--origin names 'x', which is no channel of press"),
    ],
)
def test_a_contradiction_is_one_line(
    tmp_path: Path, capsys: Capture, devices: tuple[RecordedDevice, ...], options: list[str], says: str
) -> None:
    log = record(tmp_path / "log.jsonl", *devices)
    assert train(log, *options, out=tmp_path / "m") == REFUSED
    assert says in one_line(capsys)
    assert not (tmp_path / "m").exists()


def test_recordings_of_one_device_must_agree(tmp_path: Path, capsys: Capture) -> None:
    one = record(tmp_path / "one.jsonl", PRESS)
    moved = msgspec.structs.replace(PRESS, channels=(Channel(name="flow", unit="l/min"), *PRESS.channels[1:]))
    two = record(tmp_path / "two.jsonl", moved, start_ns=START_NS + 1000 * NS_PER_S)
    assert train(one, two, out=tmp_path / "m") == REFUSED
    assert "press is another signal in" in one_line(capsys)
    renamed = msgspec.structs.replace(PRESS, machine="press-9", channels=PRESS.channels[::-1])
    three = record(tmp_path / "three.jsonl", renamed, seed=1, start_ns=START_NS + 1000 * NS_PER_S)
    assert train(one, three, out=tmp_path / "m") == 0
