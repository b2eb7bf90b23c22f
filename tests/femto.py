"""Bearing recordings of the FEMTO set (npz of raw bursts) as block logs: ``python -m tests.femto IN.npz OUT.jsonl``.

Each record is one block of 2,560 rows at 25.6 kHz with its ten-second (or, where only every third was kept, longer)
silence after it. The set has no dates: the records are given some.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np

from models.recording import RecordingWriter, Tick
from models.signal import NS_PER_S, Clock, SampleBlock

START_NS = 1_300_000_000 * NS_PER_S
CHANNELS = ("x", "y")


def write_log(npz: Path, out: Path, *, device_id: str = "bearing", n_records: int | None = None) -> int:
    """Write the first ``n_records`` (None: all) of ``npz`` to ``out``; values in g. Returns how many."""
    with np.load(npz) as data:
        counts = data["acc"][:n_records]
        scale = float(data["scale_g"])
        starts = START_NS + data["record_index"].astype(np.int64) * int(data["record_period_s"]) * NS_PER_S
        rate = Fraction(int(data["fs_hz"]))
    with RecordingWriter(out) as log:
        for start_ns, record in zip(starts.tolist(), counts, strict=False):
            arrival_ns = start_ns + NS_PER_S // 5
            values = record.astype(np.float64) * scale
            log.write(
                SampleBlock.uniform(
                    device_id,
                    CHANNELS,
                    values,
                    start_ns=start_ns,
                    rate_hz=rate,
                    arrival_ns=arrival_ns,
                    clock=Clock.SYNCED,
                )
            )
            log.write(Tick(arrival_ns + NS_PER_S))
    return len(counts)


if __name__ == "__main__":
    print(write_log(Path(sys.argv[1]), Path(sys.argv[2])), "records")
