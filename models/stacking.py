"""Stacks the windows of several tracks into one array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.tracks import Track


def stack(
    pieces: Sequence[tuple[Track, int]], w: int, n: int, hop: int, n_channels: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Windows that begin, on each track, at its index and every ``hop`` samples after it.

    Returns float32[w, n, n_channels], to be read only, and bool[w, n, n_channels] of what is valid (None: all).
    What is not is filled by :func:`hold`.
    """
    span = (w - 1) * hop + n
    covered = sum(len(track.columns) for track, _ in pieces) == n_channels
    if covered and all(track.whole(start, start + span) for track, start in pieces):
        if len(pieces) == 1:
            track, start = pieces[0]
            return track.lent(start, w, n, hop), None
        values = np.empty((w, n, n_channels), np.float32)
        for track, start in pieces:
            values[:, :, track.index] = track.windows(start, w, n, hop)
        return values, None
    values = np.zeros((w, n, n_channels), np.float32)
    valid = np.zeros(values.shape, np.bool_)
    for track, start in pieces:
        for i in range(w):
            track.copy_into(start + i * hop, values[i], valid[i])
    if valid.all():
        return values, None
    hold(values, valid)
    return values, valid


def hold(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
    """Fills what is not valid in windows [w, n, c], in place, with the last valid value before it in its
    window; 0 before the first."""
    n = values.shape[1]
    last = np.where(valid, np.arange(n)[None, :, None], -1)
    np.maximum.accumulate(last, axis=1, out=last)
    held = np.take_along_axis(values, np.maximum(last, 0), axis=1)
    values[...] = np.where(last >= 0, held, np.float32(0))
