"""Labels of a recording: when it was not healthy, and when it changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.logs import LogOptions


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Half-open intervals int64[m, 2] of event time that are anomalous (sorted, disjoint), and changepoints int64[k].

    ``device_id`` None: they hold for every device of the log.
    """

    intervals: NDArray[np.int64]
    changepoints: NDArray[np.int64]

    def at(self, time_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each time lies in an interval, bool[n]."""
        raise NotImplementedError

    def overlap(self, start_ns: NDArray[np.int64], end_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether [start, end) shares any time with an interval, bool[n]."""
        raise NotImplementedError


def read_labels(path: Path | str, *, key: str | None = None, timezone: str | None = None) -> Labels:
    """Labels from a file of intervals: CSV with start and end (header optional), or NAB's JSON of windows by file name.

    ``key`` picks the log in a JSON file of several (its path's ending is enough). Raises LogError.
    """
    raise NotImplementedError


def label_columns(
    logs: Path | str | Sequence[Path | str], options: LogOptions | None = None
) -> Labels | None:
    """Labels from the label columns in the logs themselves (anomaly, changepoint); None where there are none."""
    raise NotImplementedError
