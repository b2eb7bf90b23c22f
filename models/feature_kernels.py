"""The arithmetic of the feature sets: float64 arrays [b, c, n] in, columns [b, c, k] out.

Invariant: every number is a function of its own window and channel alone, bit for bit: reductions run along
the last axis of C-contiguous arrays only, nothing here calls BLAS, and a window with invalid samples changes
nothing for its neighbours. :func:`models.features.describe` documents the columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# float32 keeps 24 bits: where no floor was learned, what is below the last bit of the largest value counts
# as nothing.
_FLOAT32_STEP = 2.0**-24
_TINY = 1e-30


def slow(x: Floats, ok: Bools | None, floors: Sequence[float], n_fast: int) -> Floats:
    """mean, log_std, last and, where ``n_fast`` > 0, mean_fast and log_std_fast. ``ok`` None: all valid."""
    floor_power = _floor_power(floors, x, ok)
    mean, _, variance = _moments(x, ok)
    columns = [mean, _log_amplitude(variance, floor_power), _last(x, ok)]
    if n_fast:
        tail = np.ascontiguousarray(x[..., -n_fast:])
        tail_ok = None if ok is None else np.ascontiguousarray(ok[..., -n_fast:])
        mean_fast, _, variance_fast = _moments(tail, tail_ok)
        if tail_ok is not None:
            # A few samples have hardly a spread: a tail with gaps in it is not a still one.
            sparse = 5 * np.count_nonzero(tail_ok, axis=-1) < 4 * tail_ok.shape[-1]
            mean_fast = np.where(sparse, mean, mean_fast)
            variance_fast = np.where(sparse, variance, variance_fast)
        columns += [mean_fast, _log_amplitude(variance_fast, floor_power)]
    return np.stack(columns, axis=-1)


def telemetry(x: Floats, ok: Bools | None) -> Floats:
    """last, mean, median, and last once more. ``ok`` None: all valid."""
    mean, _ = _centred(x, ok)
    last = _last(x, ok)
    return np.stack([last, mean, _median(x, ok), last], axis=-1)


def vibration(x: Floats, ok: Bools | None, floors: Sequence[float], n_bands: int) -> Floats:
    """n_bands log band amplitudes, log_rms, crest, kurtosis, peak. ``ok`` None: all valid."""
    b, c, n = x.shape
    floor_power = _floor_power(floors, x, ok)
    mean, x = _centred(x, ok)
    if ok is not None:
        x[np.isnan(mean)] = np.nan
    spectrum = np.fft.rfft(x)
    parts = spectrum.view(np.float64)  # real and imaginary parts side by side: one square, one sum a band
    np.multiply(parts, parts, out=parts)
    if n % 2 == 0:
        parts[..., -2:] *= 0.5  # the Nyquist bin stands for one frequency, every other for two
    band_power = np.add.reduceat(parts, 2 * _band_edges(n, n_bands), axis=-1) * (2.0 / n**2)

    squares = x * x
    power = np.add.reduce(squares, axis=-1) / n
    peak_power = np.maximum.reduce(squares, axis=-1)
    np.multiply(squares, squares, out=squares)
    fourth = np.add.reduce(squares, axis=-1) / n
    total = power + floor_power
    fourth_total = fourth + 6.0 * power * floor_power + 3.0 * floor_power * floor_power

    out = np.empty((b, c, n_bands + 4))
    out[..., :n_bands] = _log_amplitude(band_power, floor_power[..., None] / n_bands)
    out[..., -4] = 0.5 * np.log(total)
    out[..., -3] = 0.5 * np.log((peak_power + floor_power) / total)
    out[..., -2] = np.log(fourth_total / (total * total))
    out[..., -1] = np.sqrt(peak_power)
    return out


def learn_floors(values: NDArray[np.float32], valid: Bools) -> tuple[float, ...]:
    """Amplitude floor of each channel of healthy windows [w, n, c], in its unit: step / sqrt(12), the
    standard deviation of the rounding error of a sensor that resolves ``step`` (Bennett 1948; Widrow and
    Kollar 2008).

    A quiet channel's sample variance is often exactly 0; without a floor its log would leap by tens at the
    first changed digit. ``step`` is the lowest decile of the non-zero differences of neighbouring samples:
    the resolution where one shows, about a sixth of the noise where the channel is smooth. A channel that
    never changes gets 2^-10 of its magnitude (2^-10 where that is 0). Floors are rounded down to powers of
    two, so equal sensors get equal floors.
    """
    thinned = slice(None, None, max(1, values.shape[0] // 2000))
    floors = []
    for j in range(values.shape[2]):
        x = values[thinned, :, j].astype(np.float64)
        ok = valid[thinned, :, j]
        moved = np.abs(np.diff(x, axis=1))[ok[:, 1:] & ok[:, :-1]]
        moved = moved[moved > 0]
        if moved.size:
            floor = float(np.quantile(moved, 0.1)) / math.sqrt(12)
        else:
            floor = float(np.abs(x[ok]).max(initial=0.0)) / 1024 or 1 / 1024
        floors.append(2.0 ** math.floor(math.log2(floor)))
    return tuple(floors)


def _floor_power(floors: Sequence[float], x: Floats, ok: Bools | None) -> Floats:
    """The squared floor, float64[b, c]."""
    if floors:
        return np.broadcast_to(np.square(np.asarray(floors, dtype=np.float64)), x.shape[:2])
    seen = np.abs(x) if ok is None else np.where(ok, np.abs(x), 0.0)
    return np.asarray(np.square(np.maximum.reduce(seen, axis=-1) * _FLOAT32_STEP + _TINY), dtype=np.float64)


def _log_amplitude(power: Floats, floor_power: Floats) -> Floats:
    return np.asarray(0.5 * np.log(power + floor_power), dtype=np.float64)


def _last(x: Floats, ok: Bools | None) -> Floats:
    """The newest valid sample [b, c], NaN where there is none."""
    if ok is None:
        return x[..., -1]
    newest = x.shape[-1] - 1 - np.argmax(ok[..., ::-1], axis=-1)
    value = np.take_along_axis(x, newest[..., None], axis=-1)[..., 0]
    return np.where(ok.any(axis=-1), value, np.nan)


def _median(x: Floats, ok: Bools | None) -> Floats:
    """The median of the valid samples [b, c], NaN where there is none; of two in the middle their mean."""
    n = x.shape[-1]
    if ok is None:
        middle = np.partition(x, ((n - 1) // 2, n // 2), axis=-1)
        return np.asarray((middle[..., (n - 1) // 2] + middle[..., n // 2]) / 2.0)
    count = np.count_nonzero(ok, axis=-1)[..., None]
    ordered = np.sort(np.where(ok, x, np.inf), axis=-1)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis=-1)[..., 0]
    high = np.take_along_axis(ordered, np.minimum(count // 2, n - 1), axis=-1)[..., 0]
    return np.where(count[..., 0] > 0, (low + high) / 2.0, np.nan)


def _centred(x: Floats, ok: Bools | None) -> tuple[Floats, Floats]:
    """(mean of the valid samples [b, c], NaN where there is none; x less that mean, 0 where invalid)."""
    if ok is None:
        mean = np.asarray(np.add.reduce(x, axis=-1) / x.shape[-1])
        return mean, np.asarray(x - mean[..., None])
    n_valid = np.add.reduce(ok, axis=-1, dtype=np.float64)
    count = np.where(n_valid > 0, n_valid, np.nan)
    mean = np.asarray(np.add.reduce(np.where(ok, x, 0.0), axis=-1) / count)
    return mean, np.where(ok, x - mean[..., None], 0.0)


def _moments(x: Floats, ok: Bools | None) -> tuple[Floats, Floats, Floats]:
    """(mean, centred x, variance) over the valid samples."""
    mean, centred = _centred(x, ok)
    count: Floats | int = x.shape[-1] if ok is None else np.add.reduce(ok, axis=-1, dtype=np.float64)
    total = np.add.reduce(centred * centred, axis=-1)
    variance = total / np.where(np.isnan(mean), np.nan, count)
    return mean, centred, np.asarray(variance, dtype=np.float64)


def _band_edges(n: int, n_bands: int) -> NDArray[np.intp]:
    """First DFT bin of each band: the first at or above its lower edge. Bin 0 is the mean, which is gone."""
    edges = -(-np.arange(n_bands) * n // (2 * n_bands))
    edges[0] = 1
    return edges.astype(np.intp)
