"""Windows for tests, cut from a stream the way the windower does it: every n samples, every hop."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.signal import Mode, WindowBatch, WindowSpec, samples_to_ns


def spec(n: int, hop: int, rate_hz: Fraction = Fraction(1), mode: Mode = Mode.CONTINUOUS) -> WindowSpec:
    return WindowSpec(n=n, hop=hop, rate_hz=rate_hz, mode=mode)


def cut(
    stream: ArrayLike, window: WindowSpec, *, start: int = 0, valid: NDArray[np.bool_] | None = None
) -> WindowBatch:
    """All windows of ``stream`` [samples, channels] (or [samples]: one channel), whose first sample has
    index ``start``."""
    values = np.asarray(stream, dtype=np.float32)
    values = values.reshape(len(values), -1)
    ok = np.ones(values.shape, dtype=bool) if valid is None else valid.reshape(values.shape)
    first = range(0, len(values) - window.n + 1, window.hop)
    bounds = [[samples_to_ns(start + i + offset, window.rate_hz) for i in first] for offset in (0, window.n)]
    shape = (len(first), window.n, values.shape[1])
    return WindowBatch(
        "press-4",
        np.array(bounds[0], dtype=np.int64),
        np.array(bounds[1], dtype=np.int64),
        np.array([values[i : i + window.n] for i in first], dtype=np.float32).reshape(shape),
        np.array([ok[i : i + window.n] for i in first], dtype=bool).reshape(shape),
    )


def part(batch: WindowBatch, rows: slice) -> WindowBatch:
    return WindowBatch(
        batch.device_id, batch.start_ns[rows], batch.end_ns[rows], batch.values[rows], batch.valid[rows]
    )


def join(*batches: WindowBatch) -> WindowBatch:
    return WindowBatch(
        batches[0].device_id,
        *(
            np.concatenate([getattr(b, f) for b in batches])
            for f in ("start_ns", "end_ns", "values", "valid")
        ),
    )


def split(batch: WindowBatch, cuts: list[int]) -> list[WindowBatch]:
    edges = [0, *sorted(min(c, batch.n) for c in cuts), batch.n]
    return [part(batch, slice(a, b)) for a, b in itertools.pairwise(edges)]
