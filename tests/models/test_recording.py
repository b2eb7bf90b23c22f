"""The block log: bit for bit, and what a kill or a full disk leaves of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.acceptance import Acceptance
from models.logs import LogError, LogItem, LogOptions, LogWarning, Tick
from models.recording import RecordingWriter, inspect_log, is_block_log, read_log, select_rows
from models.signal import NS_PER_S, Clock, Mode, SampleBlock
from tests import femto
from tests.data import data_path

SUFFIXES = (".jsonl", ".parquet")

names = st.text(st.characters(codec="utf-8", exclude_characters="/+#"), min_size=1, max_size=8)
int64 = st.integers(-(2**62), 2**62)
text = st.text(st.characters(codec="utf-8"), max_size=20)
acceptances = st.builds(Acceptance, device_id=names, arrival_ns=int64, transaction=text, by=text, note=text)


@st.composite
def blocks(draw: st.DrawFn) -> SampleBlock:
    channels = tuple(draw(st.lists(names, min_size=1, max_size=3, unique=True)))
    n = draw(st.integers(0, 5))
    # any 32 bits: NaN payloads, infinities, subnormals and negative zero too
    bits = draw(st.lists(st.integers(0, 2**32 - 1), min_size=n * len(channels), max_size=n * len(channels)))
    values = np.array(bits, dtype=np.uint32).view(np.float32).reshape(n, len(channels))
    clock = draw(st.sampled_from(Clock))
    device, arrival = draw(names), draw(int64)
    if draw(st.booleans()):
        rate = draw(st.fractions(Fraction(1, 10**6), 10**6, max_denominator=10**6))
        start = draw(int64)
        return SampleBlock(device, channels, values, arrival, start, rate, None, clock)
    times = np.array(draw(st.lists(int64, min_size=n, max_size=n)), dtype=np.int64)
    return SampleBlock(device, channels, values, arrival, None, None, times, clock)


def key(item: LogItem) -> tuple[object, ...]:
    """All of an item, values and times as bytes: equal keys are equal bits."""
    if isinstance(item, Tick):
        return ("tick", item.now_ns)
    if isinstance(item, Acceptance):
        return ("acceptance", *msgspec.structs.astuple(item))
    times = None if item.time_ns is None else item.time_ns.tobytes()
    assert item.values.dtype == np.float32
    assert item.values.flags.c_contiguous
    shape = (item.n, len(item.channels))
    assert item.values.shape == shape
    return (
        item.device_id,
        item.channels,
        shape,
        item.values.tobytes(),
        item.arrival_ns,
        item.start_ns,
        item.rate_hz,
        times,
        item.clock,
    )


def write(path: Path, items: Sequence[LogItem]) -> None:
    with RecordingWriter(path) as log:
        for item in items:
            log.write(item)


def some_items(n: int = 40) -> list[SampleBlock | Tick]:
    rng = np.random.default_rng(1)
    items: list[SampleBlock | Tick] = []
    for i in range(n):
        start = i * NS_PER_S
        values = rng.normal(size=(100, 3)).astype(np.float32)
        items.append(
            SampleBlock.uniform(
                f"d{i % 2}",
                ("x", "y", "z"),
                values,
                start_ns=start,
                rate_hz=Fraction(100),
                arrival_ns=start + 5,
            )
        )
        items.append(Tick(start + 7))
    return items


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(items=st.lists(st.one_of(blocks(), st.builds(Tick, int64), acceptances), max_size=20))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read_bit_for_bit(tmp_path: Path, suffix: str, items: list[LogItem]) -> None:
    path = tmp_path / f"log{suffix}"
    path.unlink(missing_ok=True)
    write(path, items)
    assert [key(item) for item in read_log(path)] == [key(item) for item in items]
    assert is_block_log(path)


def test_both_forms_hold_the_same(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        write(tmp_path / f"log{suffix}", some_items(300))
    one, other = ([key(i) for i in read_log(tmp_path / f"log{suffix}")] for suffix in SUFFIXES)
    assert one == other
    assert len(one) == 600


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_existing_recording_is_never_overwritten(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log{suffix}"
    write(path, some_items(2))
    before = path.read_bytes()
    with pytest.raises(LogError, match="exists already"):
        RecordingWriter(path)
    assert path.read_bytes() == before


def test_other_suffixes_and_unwritable_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"ends in \.jsonl or \.parquet"):
        RecordingWriter(tmp_path / "log.csv")
    with pytest.raises(LogError, match="there is no folder"):
        RecordingWriter(tmp_path / "nowhere" / "log.jsonl")


_KILLED = """
import os, signal, sys
from tests.models.test_recording import some_items
from models.recording import RecordingWriter
log = RecordingWriter(sys.argv[1])
for item in some_items():
    log.write(item)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_killed_recording_has_all_that_was_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log{suffix}"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", _KILLED, str(path)], cwd=root, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    warned: list[str] = []
    read = [key(item) for item in read_log(path, warn=warned.append)]
    assert read == [key(item) for item in some_items()]
    # the Parquet file was never finished: its spool is read, and that is said
    assert bool(warned) == (suffix == ".parquet")
    given: list[Path | str] = [str(tmp_path / f"l*{suffix}"), *tmp_path.iterdir()]
    for log in given:
        assert [key(item) for item in read_log(log, warn=warned.append)] == read


@pytest.mark.parametrize("cut", [1, 10, 200, 700])
def test_a_log_cut_in_mid_row_reads_up_to_the_cut(tmp_path: Path, cut: int) -> None:
    whole = [key(item) for item in some_items()]
    path = tmp_path / "log.jsonl"
    write(path, some_items())
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    kept = data[:-cut].count(b"\n") - 1  # less the header
    with pytest.warns(LogWarning, match="cut short") if cut > 1 else _nothing():
        read = [key(item) for item in read_log(path)]
    # losing only the last newline loses nothing
    assert read == (whole if cut == 1 else whole[:kept])

    spool = tmp_path / "live.parquet.spool"
    log = RecordingWriter(tmp_path / "live.parquet")
    for item in some_items():
        log.write(item)
    data = spool.read_bytes()
    spool.write_bytes(data[:-cut])
    with pytest.warns(LogWarning):
        read = [key(item) for item in read_log(tmp_path / "live.parquet")]
    assert read == whole[: len(read)]
    assert len(whole) - 2 <= len(read) < len(whole)


class _nothing:  # noqa: N801
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_a_broken_row_in_the_middle_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, some_items())
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"values":"', b'"values":"!')
    path.write_bytes(b"".join(lines))
    with pytest.raises(LogError, match="line 4"):
        list(read_log(path))


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"kind":"log","format":"linewatch block log","version":2}\n')
    with pytest.raises(LogError, match="newer Linewatch"):
        list(read_log(path))


def test_a_torn_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    write(path, some_items())
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(LogError, match="not readable as Parquet"):
        list(read_log(path))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    log = RecordingWriter(path)
    items = some_items(4)
    log.write(items[0])
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))
    try:
        with pytest.raises(LogError, match="cannot be written"):
            log.write(items[2])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    # what the disk took of the row is gone again: the log goes on
    log.write(items[3])
    log.close()
    assert [key(item) for item in read_log(path)] == [key(items[0]), key(items[3])]


def test_days_of_one_log_are_read_in_order_of_time(tmp_path: Path) -> None:
    items = some_items(40)
    # alphabetical order is not the order of time: 10 < 9
    write(tmp_path / "day-10.jsonl", items[40:])
    write(tmp_path / "day-9.jsonl", items[:40])
    assert [key(i) for i in read_log(str(tmp_path / "day-*.jsonl"))] == [key(i) for i in items]
    assert [key(i) for i in read_log(sorted(tmp_path.iterdir()))] == [key(i) for i in items]


def test_no_match_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"\*\.csv: no such file"):
        list(read_log(str(tmp_path / "*.csv")))
    with pytest.raises(LogError, match="is a folder"):
        list(read_log(tmp_path))


def test_select_rows_counts_each_device_for_itself() -> None:
    items = some_items(4)  # two blocks of 100 rows for each of d0, d1
    chosen = list(select_rows(items, skip_rows=50, n_rows=100))
    assert sum(isinstance(item, Tick) for item in chosen) == 4
    kept = [(b.device_id, b.n, b.start_ns) for b in chosen if isinstance(b, SampleBlock)]
    half = NS_PER_S // 2
    s = NS_PER_S
    assert kept == [("d0", 50, half), ("d1", 50, s + half), ("d0", 50, 2 * s), ("d1", 50, 3 * s)]


def test_select_rows_by_time_is_half_open() -> None:
    chosen = [
        b
        for b in select_rows(some_items(4), from_ns=NS_PER_S // 2, until_ns=2 * NS_PER_S)
        if isinstance(b, SampleBlock)
    ]
    times = np.concatenate([b.times() for b in chosen])
    assert times.min() == NS_PER_S // 2
    assert times.max() == 2 * NS_PER_S - NS_PER_S // 100
    assert len(times) == 150


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_bearing_recording_becomes_a_burst_log(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bearing{suffix}"
    npz = data_path("femto", "Bearing1_2_every3rd.npz")
    assert femto.write_log(npz, path, n_records=20) == 20
    info = inspect_log(path, LogOptions())
    assert (info.format, info.mode, info.rate_hz, info.channels) == (
        "block log",
        Mode.BURST,
        Fraction(25600),
        ("x", "y"),
    )
    records = [item for item in read_log(path) if isinstance(item, SampleBlock)]
    with np.load(npz) as data:
        counts = data["acc"][19].astype(np.float64) * 0.002
    assert np.array_equal(records[19].values, counts.astype(np.float32))
    assert records[19].start_ns == femto.START_NS + 57 * 10 * NS_PER_S
