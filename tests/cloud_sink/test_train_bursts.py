"""``cloud-sink train`` on bursts of another program: CSV whose times alone say what the rate and the records are."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_sink.cli import REFUSED, main
from cloud_sink.records import Records
from edge_node.model_store import load_bundle
from models.manifest import ModelManifest
from models.signal import NS_PER_S, Clock, Mode, SampleBlock
from tests.data import data_path

START_NS = 1_300_000_000 * NS_PER_S
RATE_HZ = Fraction(25_600)
N = 2_560


def bursts(n_records: int = 24, seed: int = 0) -> list[NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    return [generator.normal(size=(N, 2)) for _ in range(n_records)]


def write(
    path: Path,
    records: list[NDArray[np.float64]],
    *,
    every_s: int = 10,
    unit_ns: int = 1,
    rate_hz: float = 25_600,
) -> Path:
    """Bursts as CSV, one every ``every_s``; times cut to ``unit_ns``, and in it."""
    lines = ["t,h,v"]
    for i, record in enumerate(records):
        times = (
            START_NS
            + i * every_s * NS_PER_S
            + np.rint(np.arange(len(record)) * NS_PER_S / rate_hz).astype(int)
        )
        lines += [
            f"{t},{h:.3f},{v:.3f}"
            for t, (h, v) in zip((times // unit_ns).tolist(), record.tolist(), strict=True)
        ]
    path.write_text("\n".join(lines) + "\n")
    return path


def train(log: Path, out: Path, *arguments: str) -> int:
    return main(["train", str(log), "--features", "vibration", "-o", str(out), *arguments])


def cut(out: Path) -> tuple[Mode, Fraction, int, int, int]:
    manifest: ModelManifest = load_bundle(out).manifest
    window = manifest.window
    return window.mode, window.rate_hz, window.n, window.hop, manifest.training.n_windows


@pytest.mark.parametrize("unit_ns", [1, 1_000, 1_000_000])
@pytest.mark.parametrize("mode", [(), ("--mode", "burst")])
def test_rate_and_record_are_found_from_the_times(
    tmp_path: Path, unit_ns: int, mode: tuple[str, ...]
) -> None:
    log = write(tmp_path / "bearing.csv", bursts(), unit_ns=unit_ns)
    assert train(log, tmp_path / "m", *mode) == 0
    assert cut(tmp_path / "m") == (Mode.BURST, RATE_HZ, N, N, 24)


def test_a_rate_that_is_no_round_number(tmp_path: Path) -> None:
    log = write(tmp_path / "bearing.csv", bursts(), every_s=60, rate_hz=4998.7)
    assert train(log, tmp_path / "m") == 0
    assert cut(tmp_path / "m") == (Mode.BURST, Fraction(4999), N, N, 24)


def test_a_first_record_that_is_cut_short_does_not_make_all_short(tmp_path: Path) -> None:
    records = bursts()
    records[0] = records[0][: N // 2]
    log = write(tmp_path / "bearing.csv", records)
    assert train(log, tmp_path / "m") == 0
    assert cut(tmp_path / "m") == (Mode.BURST, RATE_HZ, N, N, 23)


def test_bursts_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write(tmp_path / "bearing.csv", bursts(), unit_ns=NS_PER_S)  # one time a record
    assert train(log, tmp_path / "m", "--mode", "burst") == REFUSED
    said = capsys.readouterr().err
    assert said.startswith(
        f"cloud-sink: {log}: where a burst ends cannot be told from the times: give --rate-hz"
    )
    assert said.count("\n") == 1
    assert not (tmp_path / "m").exists()


def test_a_bearing_recording_as_csv(tmp_path: Path) -> None:
    with np.load(data_path("femto", "Bearing1_2_every3rd.npz")) as data:
        records = [counts.astype(np.float64) * float(data["scale_g"]) for counts in data["acc"][:24]]
    log = write(tmp_path / "bearing.csv", records, every_s=30)
    assert train(log, tmp_path / "m") == 0
    assert cut(tmp_path / "m") == (Mode.BURST, RATE_HZ, N, N, 24)


@pytest.mark.parametrize("timed", [False, True])
def test_records_are_counted_across_blocks_however_they_are_cut(timed: bool) -> None:
    lengths = [30, 50, 50, 40, 50, 60]
    offsets = [i * NS_PER_S + np.arange(n) * (NS_PER_S // 1000) for i, n in enumerate(lengths)]
    times = START_NS + np.concatenate(offsets)
    for step in (1, 7, 50, 1000):
        records = Records(Fraction(1000))
        for i in range(0, len(times), step):
            for run in np.split(
                times[i : i + step], np.flatnonzero(np.diff(times[i : i + step]) > 10**7) + 1
            ):
                records.add(block(run, timed=timed))
        assert records.usual() == 50
    assert Records(Fraction(1000)).usual() == 0


def block(times: NDArray[np.int64], *, timed: bool) -> SampleBlock:
    values = np.zeros((len(times), 1))
    arrival_ns = int(times[-1])
    if timed:
        return SampleBlock.irregular(
            "m", ("a",), values, time_ns=times, arrival_ns=arrival_ns, clock=Clock.DEVICE
        )
    return SampleBlock.uniform(
        "m",
        ("a",),
        values,
        start_ns=int(times[0]),
        rate_hz=Fraction(1000),
        arrival_ns=arrival_ns,
        clock=Clock.DEVICE,
    )
