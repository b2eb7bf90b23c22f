"""Parquet of pandas and pyarrow; and damaged logs of every kind."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from models.logs import LogError, LogOptions
from models.recording import RecordingWriter, inspect_log, read_log
from models.signal import NS_PER_S, SampleBlock
from tests.models.log_text import FIXTURES, T0, UTC, Write, rows, write

__all__ = ["write"]  # a fixture


# Parquet, written by pandas and pyarrow


@pytest.mark.parametrize(
    ("name", "options", "first_s", "channels"),
    [
        ("pandas_tz_index", LogOptions(), 1709247600, ("x", "y")),  # midnight in Berlin
        ("pandas_naive", UTC, 1709251200, ("x", "y")),
        ("pyarrow_ms", LogOptions(), 1709251200, ("x",)),
    ],
)
@pytest.mark.filterwarnings("ignore::models.logs.LogWarning")
def test_parquet_tables(name: str, options: LogOptions, first_s: int, channels: tuple[str, ...]) -> None:
    path = FIXTURES / f"{name}.parquet"
    info = inspect_log(path, options)
    assert (info.format, info.channels, info.rate_hz) == ("parquet", channels, Fraction(1))
    times, values = rows(path, options)
    assert times == list(range(first_s, first_s + 50))
    assert np.allclose([row[0] for row in values], np.linspace(0, 1, 50))
    if "y" in channels:
        missing = [i for i, row in enumerate(values) if np.isnan(row[1])]
        assert missing == [7]


def test_parquet_with_integer_times_and_a_dictionary_of_devices() -> None:
    blocks = [b for b in read_log(FIXTURES / "pyarrow_int_ns.parquet") if isinstance(b, SampleBlock)]
    assert {b.device_id: b.n for b in blocks} == {"a": 25, "b": 25}
    assert blocks[0].channels == ("x", "on")
    assert int(blocks[1].times()[0]) == 1709251201 * NS_PER_S


def test_parquet_times_without_a_zone_are_refused() -> None:
    with pytest.raises(LogError, match=r"column 'time'.*no UTC offset"):
        list(read_log(FIXTURES / "pandas_naive.parquet"))


def test_what_is_no_parquet_is_named(write: Write) -> None:
    path = write("x,y\n", "log.parquet")
    with pytest.raises(LogError, match="not readable as Parquet"):
        list(read_log(path))
    whole = (FIXTURES / "pyarrow_ms.parquet").read_bytes()
    for hurt in (whole[:-30], whole[:4] + b"PAR1", whole[:-200] + bytes(196) + b"PAR1"):
        with pytest.raises(LogError, match="not readable as Parquet"):
            list(read_log(write(hurt, "log.parquet")))


@pytest.mark.parametrize(
    "source",
    ["text.csv", "rows.jsonl", "batches.jsonl", "block.jsonl", "block.parquet", "pyarrow_ms.parquet"],
)
def test_a_damaged_log_is_an_error_or_other_rows_but_never_a_crash(tmp_path: Path, source: str) -> None:
    """Bytes changed, cut out and put in at random."""
    if source.startswith("block"):
        with RecordingWriter(tmp_path / source) as log:
            for item in read_log(FIXTURES / "pyarrow_ms.parquet", LogOptions(block_rows=10)):
                log.write(item)
        whole = (tmp_path / source).read_bytes()
    elif source == "pyarrow_ms.parquet":
        whole = (FIXTURES / source).read_bytes()
    else:
        line = {
            "text.csv": "2020-03-01 15:44:06;1.5;2\r\n",
            "rows.jsonl": f'{{"t":{T0},"x":1.5,"y":"2"}}\n',
            "batches.jsonl": f'{{"t":{T0},"rate_hz":4,"x":[1,2],"y":[3,4]}}\n',
        }[source]
        whole = line.encode() * 50
    rng = np.random.default_rng(7)
    n_errors = 0
    for i in range(8 if source.endswith("parquet") else 150):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 5))):
            at = int(rng.integers(len(data)))
            match int(rng.integers(3)):
                case 0:
                    data[at] = int(rng.integers(256))
                case 1:
                    del data[at : at + int(rng.integers(1, 30))]
                case _:
                    data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        path = tmp_path / f"{i}-{source}"
        path.write_bytes(data)
        try:
            list(read_log(path, UTC, warn=lambda text: None))
        except LogError:
            n_errors += 1
    assert n_errors > 0


def test_a_page_that_makes_arrow_abort_is_only_an_error(write: Write) -> None:
    """Found by changing bytes at random: read in this process, it would end it."""
    data = bytearray((FIXTURES / "pyarrow_ms.parquet").read_bytes())
    data[256] = 119
    with pytest.raises(LogError, match="damaged"):
        list(read_log(write(bytes(data), "log.parquet")))
