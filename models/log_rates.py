"""What sampling rate and mode a device's first blocks suggest."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from models.signal import NS_PER_S, Mode, SampleBlock

_UNIFORM_ABOVE_HZ = (
    20  # below, rows are readings of slow quantities: resampled onto a grid, so a missing one is no gap
)
_MIN_RECORD = 32


def suggest_rate(blocks: Sequence[SampleBlock]) -> tuple[Mode, Fraction | None, float | None]:
    """Mode, rate (for an irregular log 1 / grid interval) and median interval in seconds of one device's
    blocks."""
    uniform = blocks[0].rate_hz
    times = np.concatenate([block.times() for block in blocks])
    steps = np.diff(times)
    steps = steps[steps > 0]
    if steps.size == 0:
        return Mode.IRREGULAR, uniform, None
    if uniform is not None:
        return (
            (Mode.BURST if _is_burst(times, float(NS_PER_S / uniform)) else Mode.CONTINUOUS),
            uniform,
            float(1 / uniform),
        )
    interval = float(np.median(steps))
    # Times that are coarser than the sampling repeat: the mean over the stretch between silences is finer.
    inside = np.diff(times)
    inside = inside[(inside >= 0) & (inside <= 10 * interval)]
    mean = float(inside.mean()) if inside.size else interval
    repeats = are_coarse(times)
    uncertainty = 0.0
    if repeats:
        mean, uncertainty = _between_changes(times, 10 * interval, mean)
    period = mean if repeats or abs(mean - interval) < 0.01 * interval else interval
    if NS_PER_S / period < _UNIFORM_ABOVE_HZ:
        return Mode.IRREGULAR, _round_rate(NS_PER_S / interval), interval / NS_PER_S
    rate = _round_rate(NS_PER_S / period, uncertainty)
    finest = max(period, float(steps.min())) if repeats else period
    return (Mode.BURST if _is_burst(times, finest) else Mode.CONTINUOUS), rate, period / NS_PER_S


def _between_changes(
    times: np.ndarray[tuple[int], np.dtype[np.int64]], silence_ns: float, fallback_ns: float
) -> tuple[float, float]:
    """(mean period in ns, its relative uncertainty) of times that are coarser than the sampling: from the first to the
    last change of each stretch between silences, for a row that changes is at most a period after what it says."""
    steps = np.diff(times)
    runs = np.split(times, np.flatnonzero((steps < 0) | (steps > silence_ns)) + 1)
    n_rows, span_ns, n_runs = 0, 0, 0
    for run in runs:
        changes = np.flatnonzero(np.diff(run)) + 1
        if changes.size >= 2:
            n_rows += int(changes[-1] - changes[0])
            span_ns += int(run[changes[-1]] - run[changes[0]])
            n_runs += 1
    return (span_ns / n_rows, n_runs / n_rows) if n_rows else (fallback_ns, 1.0 / max(1, times.size))


def are_coarse(times: np.ndarray[tuple[int], np.dtype[np.int64]]) -> bool:
    """Whether ``times`` are coarser than the sampling: they repeat."""
    return len(times) > 1 and bool((np.diff(times) == 0).mean() > 0.1)


def run_backwards(blocks: Sequence[SampleBlock]) -> bool:
    """Whether rows go back in time from one to the next, but for a few: the newest come first."""
    steps = np.diff(np.concatenate([block.times() for block in blocks]))
    n_back = int(np.count_nonzero(steps < 0))
    return n_back >= 2 and n_back > 0.9 * int(np.count_nonzero(steps))


def _is_burst(times: np.ndarray[tuple[int], np.dtype[np.int64]], period_ns: float) -> bool:
    """Records of some length with silences of like length between them."""
    edges = np.flatnonzero(np.diff(times) > 10 * period_ns)
    if edges.size < 2:
        return False
    lengths = np.diff(edges)
    return bool(lengths.min() >= _MIN_RECORD and lengths.max() <= 2 * lengths.min())


def _round_rate(rate_hz: float, uncertainty: float = 0.0) -> Fraction:
    """The rate that was meant: the roundest number within the relative ``uncertainty`` of the times and 100 ppm of a
    clock, or a whole number of seconds."""
    tolerance = uncertainty + 1e-4
    if rate_hz < 1:
        if abs(1 / rate_hz - round(1 / rate_hz)) <= max(tolerance, 1e-3) / rate_hz:
            return Fraction(1, round(1 / rate_hz))
        return Fraction(rate_hz).limit_denominator(10**9)
    for digits in range(1, 6):
        rounded = Fraction(f"{rate_hz:.{digits - 1}e}")
        if abs(float(rounded) - rate_hz) <= tolerance * rate_hz:
            return rounded
    return Fraction(rate_hz).limit_denominator(1000)
