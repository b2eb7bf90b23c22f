"""Purged block cross-fit, and how many independent windows a series is worth. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def block_folds(n_windows: int, n_folds: int, purge: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """(training, test) indices of the ``n_folds`` contiguous blocks of ``n_windows`` but the first, in order: tests cover all
    windows that come after the first block once. The ``purge`` windows on either side of a test block are in neither
    (López de Prado, Advances in Financial Machine Learning, 2018, ch. 7).

    The first block is only learned from. A model is used on what comes after what it learned from, and nothing comes before
    that block: it would be judged by the future alone, and a machine that is warming up then seems to stray further than it
    ever will again.

    ValueError when there are fewer windows than folds, or a fold would have none to train on.
    """
    if n_folds < 2 or n_windows < n_folds:
        raise ValueError(f"cannot cut {n_windows} windows into {n_folds} folds")
    index = np.arange(n_windows)
    edges = np.linspace(0, n_windows, n_folds + 1).astype(int)
    folds = []
    for begin, end in zip(edges[1:-1].tolist(), edges[2:].tolist(), strict=True):
        train = np.concatenate([index[: max(begin - purge, 0)], index[end + purge :]])
        if train.size == 0:
            raise ValueError(f"{n_windows} windows leave nothing to train on beside a purge of {purge}")
        folds.append((train, index[begin:end]))
    return folds


def effective_windows(series: NDArray[np.floating], overlap: float) -> float:
    """How many independent windows ``series`` float[w] (a score or feature per window, time order) is worth.

    At most the span over the window's length (``w / overlap``, ``overlap`` = n / hop), and no more than w
    over the integrated autocorrelation time 1 + 2 sum rho, summed up to Sokal's automatic window (Sokal,
    Monte Carlo Methods in Statistical Mechanics, 1997, c = 5).
    """
    w = series.size
    by_span = max(w / max(overlap, 1.0), 1.0) if w else 0.0
    x = np.asarray(series, dtype=np.float64)
    x = x - x.mean() if w else x
    power = float(np.sum(x * x))
    if w < 4 or power <= 0.0:
        return by_span
    spectrum = np.fft.rfft(x, 2 * w)
    rho = np.fft.irfft(spectrum * spectrum.conj(), 2 * w)[:w] / power
    tau = 2.0 * np.cumsum(rho) - 1.0
    beyond = np.flatnonzero(np.arange(w) >= 5.0 * tau)
    time = float(tau[beyond[0]] if beyond.size else tau[-1])
    return float(min(by_span, w / max(time, 1.0)))
