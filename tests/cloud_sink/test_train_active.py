"""A machine that rests now and then: ``cloud-sink train`` leaves out what a gateway would not score."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_sink.cli import REFUSED, USAGE, main
from edge_node.model_store import load_bundle
from edge_node.pipeline import Pipeline
from edge_node.plans import DevicePlan
from models.gating import GateSpec
from models.manifest import ModelManifest
from models.recording import RecordingWriter, read_log
from models.signal import NS_PER_S, Channel, DropReason, Mode, SampleBlock, WindowSpec
from models.time_policy import RecordedDevice, default_policy
from tests.cloud_sink.recordings import START_NS, slow_signal

Capture = pytest.CaptureFixture[str]
N, PERIOD, N_RUNS, WINDOW = 1800, 300, 180, 20  # of every five minutes it runs the first three
N_WINDOWS = N - WINDOW + 2  # the last one lacks a sample
GATE = GateSpec(device_id="meter", channel="power", comparison=">", value=2.0, settle_s=15.0)
PRESS = RecordedDevice(
    device_id="press",
    machine="press-4",
    channels=tuple(Channel(name=name) for name in ("pressure", "flow", "current")),
    gate=GATE,
)
METER = RecordedDevice(device_id="meter", machine="press-4", channels=(Channel(name="power", origin=100.0),))


def runs() -> NDArray[np.bool_]:
    return np.arange(N) % PERIOD < N_RUNS


def press_values() -> NDArray[np.float64]:
    """While the machine rests its sensors read next to nothing."""
    noise = 1e-3 * np.random.default_rng(7).normal(size=(N, 3))
    return np.where(runs()[:, None], slow_signal(N), noise)


def blocks(device: str, channels: tuple[str, ...], values: NDArray[np.float64]) -> list[SampleBlock]:
    return [
        SampleBlock.uniform(
            device,
            channels,
            values[i : i + 10].astype(np.float32),
            start_ns=START_NS + i * NS_PER_S,
            rate_hz=Fraction(1),
            arrival_ns=START_NS + (i + 10) * NS_PER_S,
        )
        for i in range(0, N, 10)
    ]


def recorded(
    path: Path, press: RecordedDevice = PRESS, *, order: Callable[[SampleBlock], int] = lambda b: b.arrival_ns
) -> Path:
    """Half an hour of the press and of its meter."""
    power = np.where(runs(), 9.0, 0.5)[:, None] - METER.channels[0].origin
    items = blocks("press", PRESS.channel_names, press_values()) + blocks("meter", ("power",), power)
    with RecordingWriter(path, (press, METER)) as log:
        for item in sorted(items, key=order):
            log.write(item)
    return path


def train(*arguments: object, out: Path) -> int:
    return main(
        ["train", *map(str, arguments), "--features", "slow", "--window", str(WINDOW), "-o", str(out)]
    )


def manifest(out: Path) -> ModelManifest:
    return load_bundle(out).manifest


def inactive(settle_s: int) -> int:
    """Windows, one a second, in some part of which the machine rests or settles, or which the recording ends in."""
    ran = np.append(runs(), False)
    return sum(1 for i in range(N_WINDOWS) if i < settle_s or not ran[i - settle_s : i + WINDOW].all())


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_windows_in_which_the_machine_rests_are_not_trained_on(
    tmp_path: Path, capsys: Capture, suffix: str
) -> None:
    log = recorded(tmp_path / f"log{suffix}")
    assert train(log, "--device", "press", out=tmp_path / "m") == 0
    made = manifest(tmp_path / "m")
    assert made.training.set_aside["inactive"] == inactive(15)
    assert made.training.n_windows == N_WINDOWS - inactive(15)
    assert made.channels[0].baseline.minimum > 2.0
    said = capsys.readouterr().out
    assert "meter.power > 2, from 15 s after it starts" in said
    assert f"{inactive(15)} inactive" in said


def test_it_leaves_out_what_the_gateway_leaves_out(tmp_path: Path) -> None:
    log = recorded(tmp_path / "log.jsonl")
    assert train(log, "--device", "press", out=tmp_path / "m") == 0
    window = manifest(tmp_path / "m").window
    plain = WindowSpec(n=10, hop=5, rate_hz=Fraction(1), mode=Mode.CONTINUOUS)
    pipeline = Pipeline(
        "site",
        "gateway",
        [
            DevicePlan(
                PRESS, window, msgspec.structs.replace(default_policy(window), max_age_s=None), gate=GATE
            ),
            DevicePlan(METER, plain, msgspec.structs.replace(default_policy(plain), max_age_s=None)),
        ],
    )
    for item in read_log(log):
        assert isinstance(item, SampleBlock)
        pipeline.push(item)
        pipeline.take_batches()
    pipeline.finish()
    n_idle = pipeline.counters().window_drops[DropReason.INACTIVE]
    assert manifest(tmp_path / "m").training.set_aside["inactive"] == n_idle + 1  # that which lacks a sample


@pytest.mark.parametrize("sign", [1, -1])
def test_the_gate_may_come_wholly_before_or_after_what_it_gates(tmp_path: Path, sign: int) -> None:
    log = recorded(tmp_path / "log.parquet", order=lambda b: sign * (b.device_id == "meter"))
    assert train(log, "--device", "press", out=tmp_path / "m") == 0
    assert manifest(tmp_path / "m").training.set_aside["inactive"] == inactive(15)


def test_options_take_the_place_of_what_was_recorded(tmp_path: Path) -> None:
    log = recorded(tmp_path / "log.jsonl")
    cases: list[tuple[str, list[str], int]] = [
        ("settled", ["--settle-s", "0"], inactive(0)),
        ("other", ["--active-when", "meter.power > 99", "--settle-s", "5"], N_WINDOWS),
        ("own", ["--active-when", "pressure > 1"], inactive(0)),
        ("named", ["--active-when", "press.pressure > 1"], inactive(0)),
        ("always", ["--active-when", ""], 0),
    ]
    for name, options, expected in cases:
        code = train(log, "--device", "press", *options, out=tmp_path / name)
        if expected == N_WINDOWS:
            assert code == REFUSED
            continue
        assert code == 0
        assert manifest(tmp_path / name).training.set_aside.get("inactive", 0) == expected


def test_a_log_of_another_program_is_told_when_the_machine_runs(tmp_path: Path, capsys: Capture) -> None:
    wide, long = tmp_path / "wide.csv", tmp_path / "long.csv"
    times = START_NS // NS_PER_S + np.arange(N)
    power = np.where(runs(), 9.0, 0.5)
    rows = [
        (t, *v, p) for t, v, p in zip(times.tolist(), press_values().tolist(), power.tolist(), strict=True)
    ]
    wide.write_text(
        "time,pressure,flow,current,power\n"
        + "".join(",".join(f"{x:.10g}" for x in row) + "\n" for row in rows)
    )
    long.write_text(
        "time,device,value\n" + "".join(f"{t},press,{x:.10g}\n{t},meter,{p:g}\n" for t, x, _, _, p in rows)
    )
    assert train(wide, "--active-when", "power > 2", "--settle-s", "15", out=tmp_path / "wide") == 0
    n_idle = inactive(15) - 1  # times that are irregular on paper make no window past the last one
    assert manifest(tmp_path / "wide").training.set_aside["inactive"] == n_idle
    command = [long, "--device", "press", "--active-when", "meter.value > 2", "--settle-s", "15"]
    assert train(*command, out=tmp_path / "long") == 0
    assert manifest(tmp_path / "long").training.set_aside["inactive"] == n_idle


def test_with_labels_a_machine_at_rest_is_not_scored_either(tmp_path: Path, capsys: Capture) -> None:
    log = recorded(tmp_path / "log.jsonl")
    labels = tmp_path / "labels.csv"
    # A time at rest, in which nothing can be anomalous
    labels.write_text(f"start,end\n{START_NS + 200 * NS_PER_S},{START_NS + 280 * NS_PER_S}\n")
    assert train(log, "--device", "press", "--labels", labels, out=tmp_path / "m") == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("cpu-float32"))
    assert row.split()[4] == "-"  # no AUC without an anomalous window


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (
            ["--active-when", "meter.power"],
            REFUSED,
            '--active-when "meter.power": expected a condition such as',
        ),
        (["--active-when", "meter.power > lots"], REFUSED, '"lots" is not a finite number'),
        (
            ["--active-when", "meter.powr > 2"],
            REFUSED,
            "has no channel 'meter.powr', which says when press runs",
        ),
        (["--active-when", "meter.powr > 2"], REFUSED, "did you mean 'meter.power'?"),
        (["--active-when", "x > 2"], REFUSED, "it has pressure, flow, current, meter.power"),
        (["--settle-s", "soon"], USAGE, "'soon' is not a number of at least 0"),
        (
            ["--active-when", "meter.power > 99"],
            REFUSED,
            f"every window was set aside ({N_WINDOWS} inactive)",
        ),
    ],
)
def test_a_condition_that_says_nothing_is_one_clear_line(
    tmp_path: Path, capsys: Capture, options: list[str], code: int, says: str
) -> None:
    log = recorded(tmp_path / "log.jsonl")
    try:
        returned = train(log, "--device", "press", *options, out=tmp_path / "m")
    except SystemExit as stopped:
        returned = int(str(stopped.code))
    assert returned == code
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert says in line
    assert not (tmp_path / "m").exists()


def test_a_recording_without_what_its_gate_watches_says_what_to_do(tmp_path: Path, capsys: Capture) -> None:
    log = tmp_path / "log.jsonl"
    with RecordingWriter(log, (PRESS, METER)) as writer:
        for item in blocks("press", PRESS.channel_names, press_values()):
            writer.write(item)
    assert train(log, "--device", "press", out=tmp_path / "m") == REFUSED
    said = capsys.readouterr().err
    assert "has no channel 'meter.power', which says when press runs" in said
    assert 'train on all of it with --active-when ""' in said


def test_settling_needs_something_to_settle_after(tmp_path: Path, capsys: Capture) -> None:
    log = recorded(tmp_path / "log.jsonl", msgspec.structs.replace(PRESS, gate=None))
    assert train(log, "--device", "press", "--settle-s", "5", out=tmp_path / "m") == REFUSED
    assert "--settle-s: nothing says when the machine runs" in capsys.readouterr().err


def test_recordings_must_agree_on_when_the_machine_runs(tmp_path: Path, capsys: Capture) -> None:
    logs = [
        recorded(tmp_path / "one.jsonl"),
        recorded(tmp_path / "two.jsonl", msgspec.structs.replace(PRESS, gate=None)),
    ]
    assert train(*logs, "--device", "press", out=tmp_path / "m") == REFUSED
    said = capsys.readouterr().err
    assert f"press counts as running always in {logs[1]}, and while meter.power > 2 in {logs[0]}" in said
    assert train(*logs, "--device", "press", "--active-when", "meter.power > 2", out=tmp_path / "m") == 0
