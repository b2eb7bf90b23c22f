"""A year of data is replayed in the memory of a day."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_node import cli_replay, replay_scores
from edge_node.cli import main
from edge_node.replay import as_received
from models.logs import LogOptions, Tick
from models.recording import RecordingWriter, read_log
from models.signal import SampleBlock
from models.text_files import text_lines
from tests.edge_node.replays import signal, write_csv
from tests.fixtures.bundle_files import BUNDLE

DAY = 5_000  # rows; all days are alike


def peak(monkeypatch: pytest.MonkeyPatch, log: Path, *arguments: str) -> int:
    """Bytes of Python's own memory (Arrow's lives for one piece at a time too) that a replay took at most from its
    first row on."""
    before = []

    def begin(*given: Any, **more: Any) -> Any:
        before.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.reset_peak()
        return as_received(*given, **more)

    monkeypatch.setattr(cli_replay, "as_received", begin)
    gc.collect()
    tracemalloc.start()
    try:
        assert main(["replay", str(log), "--model", str(BUNDLE), *arguments]) == 0
        return tracemalloc.get_traced_memory()[1] - before[0]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("kind", "few", "many"), [("csv", 4, 40), ("jsonl", 2, 10), ("parquet", 2, 10)])
def test_memory_does_not_grow_with_the_log(
    tmp_path: Path,
    kind: str,
    few: int,
    many: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With all that a replay writes and counts: alerts, scores, labels."""
    monkeypatch.setattr(replay_scores, "ROWS_A_BATCH", 256)
    monkeypatch.setattr(
        text_lines, "__defaults__", (1 << 16,)
    )  # what is read at once: less than the short log
    one_day = signal(DAY, faults=[(1000, 1500)])
    fault = (np.arange(DAY) >= 1000) & (np.arange(DAY) < 1500)
    peaks = []
    for n_days in (few, many):
        values = np.concatenate([one_day] + [signal(DAY)] * (n_days - 1))
        log = write_csv(
            tmp_path / f"{n_days}.csv",
            values,
            anomaly=np.resize(fault, len(values)) & (np.arange(len(values)) < DAY),
        )
        if kind != "csv":
            table, log = log, tmp_path / f"{n_days}.{kind}"
            with RecordingWriter(log) as recording:
                for item in read_log(table, LogOptions(block_rows=100, device_id="pump")):
                    assert isinstance(item, SampleBlock)
                    recording.write(item)
                    recording.write(Tick(item.arrival_ns))
        outputs = ("--output", str(tmp_path / "alerts"), "--scores", str(tmp_path / "scores.parquet"))
        peaks.append(peak(monkeypatch, log, *outputs))
        assert f"{n_days * DAY} rows" in capsys.readouterr().out
    kept = (many - few) * DAY * one_day.shape[1] * 4  # if float32 rows were
    # Garbage waits for a while, and how much of it depends on what ran before.
    assert peaks[1] < 1.25 * peaks[0] + kept / 4
