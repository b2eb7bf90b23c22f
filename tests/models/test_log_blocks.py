"""Rows of other programs' logs as blocks: cuts, rates, arrivals; and the real recordings."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from models.logs import LogError, LogOptions
from models.recording import inspect_log, read_log
from models.signal import NS_PER_S, Mode, SampleBlock
from tests.data import data_path
from tests.models.log_text import T0, UTC, Write, rows, write

__all__ = ["write"]  # a fixture


def test_no_times_but_a_rate(write: Write) -> None:
    text = "x\n" + "".join(f"{i}\n" for i in range(10))
    options = LogOptions(rate_hz=Fraction(3), start_ns=T0 * NS_PER_S, block_rows=4)
    blocks = [b for b in read_log(write(text), options) if isinstance(b, SampleBlock)]
    assert [b.n for b in blocks] == [4, 4, 2]
    assert blocks[1].start_ns == T0 * NS_PER_S + 4 * NS_PER_S // 3
    assert all(b.rate_hz == 3 for b in blocks)


def _waveform(times_us: list[int]) -> str:
    return "time_us,x\n" + "".join(f"{T0 * 10**6 + t},{i}\n" for i, t in enumerate(times_us))


def test_a_rate_makes_uniform_blocks_that_are_cut_where_a_row_is_missing(write: Write) -> None:
    # ..........   ..........      one row missing after ten, a silence after twenty
    times = [1000 * i for i in range(31) if i != 10] + [90_000 + 1000 * i for i in range(5)]
    blocks = [
        b
        for b in read_log(write(_waveform(times)), LogOptions(rate_hz=Fraction(1000)))
        if isinstance(b, SampleBlock)
    ]
    starts = [(b.n, (b.start_ns or 0) - T0 * NS_PER_S) for b in blocks]
    assert starts == [(10, 0), (20, 11_000_000), (5, 90_000_000)]


def test_times_that_jitter_or_are_coarse_do_not_cut(write: Write) -> None:
    rng = np.random.default_rng(3)
    jittered = (1000 * np.arange(500) + rng.integers(0, 240, 500)).tolist()
    options = LogOptions(rate_hz=Fraction(1000))
    assert len(list(read_log(write(_waveform(jittered)), options))) == 1
    # 4 kHz in whole milliseconds
    coarse = [250 * i // 1000 * 1000 for i in range(4000)]
    path = write(_waveform(coarse))
    assert len(list(read_log(path, LogOptions(rate_hz=Fraction(4000))))) == 1
    info = inspect_log(path)
    assert (info.mode, info.rate_hz) == (Mode.CONTINUOUS, Fraction(4000))


def test_arrivals_follow_time_and_a_wild_time_does_not_carry_them_off(write: Write) -> None:
    lines = [f"{T0 + i},{i}\n" for i in range(100)]
    lines[50] = "4070908800,50\n"  # the year 2099
    blocks = [
        b for b in read_log(write("t,x\n" + "".join(lines)), LogOptions()) if isinstance(b, SampleBlock)
    ]
    assert max(b.arrival_ns for b in blocks) == (T0 + 99) * NS_PER_S
    assert sum(b.n for b in blocks) == 100


def test_silences_lie_between_blocks_and_blocks_are_short(write: Write) -> None:
    # a reading every 5 min for two weeks: a block of it all would seem older than it is when it arrives
    text = "t,x\n" + "".join(f"{T0 + 300 * i},{i}\n" for i in range(4032))
    blocks = [b for b in read_log(write(text), LogOptions()) if isinstance(b, SampleBlock)]
    assert max(int(np.ptp(b.times())) for b in blocks) <= 3600 * NS_PER_S
    text = "t,x\n" + "".join(f"{T0 + i + (7200 if i >= 50 else 0)},{i}\n" for i in range(100))
    blocks = [b for b in read_log(write(text), LogOptions(block_span_s=1e6)) if isinstance(b, SampleBlock)]
    assert [b.n for b in blocks] == [50, 50]


# Real recordings


def test_skab_needs_nothing_but_its_zone() -> None:
    path = data_path("skab", "data", "valve1", "0.csv")
    with pytest.raises(LogError, match="no UTC offset"):
        list(read_log(path))
    info = inspect_log(path, UTC)
    assert (info.n_rows, info.mode, info.rate_hz) == (1147, Mode.IRREGULAR, Fraction(1))
    assert info.label_columns == ("anomaly", "changepoint")
    assert len(info.channels) == 8
    times, values = rows(path)
    lines = [line.split(";") for line in path.read_text().splitlines()[1:]]
    assert values == [[float(np.float32(cell)) for cell in line[1:9]] for line in lines]
    assert times[0] == 1583748873  # 2020-03-09 10:14:33


def test_every_nab_series_reads_whole() -> None:
    root = data_path("nab", "data")
    for path in sorted(root.glob("*/*.csv")):
        blocks = [b for b in read_log(path, UTC) if isinstance(b, SampleBlock)]
        assert sum(b.n for b in blocks) == path.read_bytes().count(b"\n") - (
            path.read_bytes()[-1:] == b"\n"
        ), path
        rate = inspect_log(path, UTC).rate_hz
        assert rate is not None
        assert rate.numerator == 1, path
