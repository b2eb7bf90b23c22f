from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.log_sizes import SAMPLED_BYTES, log_length
from models.logs import LogError, LogOptions, Tick
from models.recording import RecordingWriter
from tests.models.log_text import FIXTURES, T0

OPTIONS = LogOptions()


def test_lines_of_a_long_text_are_estimated_by_the_first(tmp_path: Path) -> None:
    n = 60_000
    values = np.random.default_rng(1).normal(size=n)
    path = tmp_path / "log.csv"
    path.write_text("time,x\n" + "".join(f"{T0 + i},{v:.9f}\n" for i, v in enumerate(values.tolist())))
    assert path.stat().st_size > SAMPLED_BYTES
    length = log_length(path, OPTIONS)
    assert length is not None
    assert abs(length - n) < n / 100


def test_parquet_says_how_many_rows_it_has() -> None:
    assert log_length(FIXTURES / "pandas_tz_index.parquet", OPTIONS) == 50


def test_batches_of_rows_have_no_known_length(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"t": 1700000000000000000, "rate_hz": 10, "x": [1, 2, 3]}\n' * 3)
    assert log_length(path, OPTIONS) is None
    path.write_text('{"t": 1700000000, "x": 1}\n{"t": 1700000001, "x": 2}\n')
    assert log_length(path, OPTIONS) == 2


def test_an_interrupted_recording_has_no_known_length(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "log.parquet")
    writer.write(Tick(1))
    assert log_length(tmp_path / "log.parquet", OPTIONS) is None
    writer.close()
    assert log_length(tmp_path / "log.parquet", OPTIONS) == 1


def test_a_log_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "log.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(LogError, match="not readable as Parquet"):
        log_length(tmp_path / "log.parquet", OPTIONS)
