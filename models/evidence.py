"""What an alert was judged from, as a digest that whoever has the raw signal can compute again. Pure.

The evidence of an alert is the SHA-256 of its device's rows with event time in [start_ns, end_ns) that had come when it
was said: each row as its time (int64, little-endian, ns) and its values (float32, little-endian, in the order of the
block's channels); in the order of event time, rows of one time in the order in which they came. Rows that the pipeline
dropped (late, repeated) count as well: they are in the log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.messages import AlertKind, AlertState
from models.signal import SampleBlock, samples_to_ns

PREFIX = "sha256:"


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """That an alert was said at this place of a log. ``evidence`` None: not all of its window was recorded, or there is
    no row in it. ``at``: how many blocks and ticks of the log came before it, where that is known."""

    alert_id: str
    seq: int
    device: str
    kind: AlertKind
    state: AlertState
    start_ns: int
    end_ns: int
    said_ns: int
    evidence: str | None
    at: int | None = None


def span(block: SampleBlock) -> tuple[int, int]:
    """Event time of the first row and of the last, of a block that has rows."""
    if block.time_ns is not None:
        return int(block.time_ns.min()), int(block.time_ns.max())
    assert block.start_ns is not None
    assert block.rate_hz is not None
    return block.start_ns, block.start_ns + samples_to_ns(block.n - 1, block.rate_hz)


def rows_between(blocks: Iterable[SampleBlock], start_ns: int, end_ns: int) -> bytes:
    """The rows of ``blocks`` (of one device, in order of arrival) with start_ns <= event time < end_ns, as the evidence of
    an alert is computed from them."""
    times: list[NDArray[np.int64]] = []
    values: list[NDArray[np.float32]] = []
    for block in blocks:
        if not block.n:
            continue
        first, last = span(block)
        if last < start_ns or first >= end_ns:
            continue
        block_times, block_values = block.times(), block.values
        if first < start_ns or last >= end_ns:
            inside = (block_times >= start_ns) & (block_times < end_ns)
            block_times, block_values = block_times[inside], block_values[inside]
        times.append(block_times)
        values.append(block_values)
    if not times:
        return b""
    all_times = np.concatenate(times)
    widths = {matrix.shape[1] for matrix in values}
    if len(widths) == 1:
        rows = _packed(all_times, np.concatenate(values))
        if all_times.size > 1 and bool((np.diff(all_times) < 0).any()):
            rows = rows[np.argsort(all_times, kind="stable")]
        return rows.tobytes()
    each = [row.tobytes() for t, v in zip(times, values, strict=True) for row in _packed(t, v)]
    return b"".join(each[i] for i in np.argsort(all_times, kind="stable").tolist())


def evidence_of(blocks: Iterable[SampleBlock], start_ns: int, end_ns: int) -> str | None:
    """The evidence of an alert over [start_ns, end_ns), from the device's blocks that had come; None without a row."""
    rows = rows_between(blocks, start_ns, end_ns)
    return PREFIX + hashlib.sha256(rows).hexdigest() if rows else None


def _packed(times: NDArray[np.int64], values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """uint8[n, 8 + 4 c]."""
    n, c = values.shape
    rows = np.empty((n, 8 + 4 * c), np.uint8)
    rows[:, :8] = times.astype("<i8", copy=False).view(np.uint8).reshape(n, 8)
    rows[:, 8:] = np.ascontiguousarray(values, dtype="<f4").view(np.uint8).reshape(n, 4 * c)
    return rows
