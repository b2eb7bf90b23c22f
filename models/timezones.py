"""Wall-clock times to UTC: the two days a year on which a zone's clock jumps, and zones by name."""

from __future__ import annotations

import datetime as dt
import difflib
import zoneinfo
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.logs import LogError
from models.signal import NS_PER_S

_QUARTER_NS = 900 * NS_PER_S  # every zone changes its offset on a quarter of an hour


class LocalTime:
    """Wall-clock times of one zone to UTC, in the order of a log.

    In the hour that occurs twice in autumn the first pass is summer time until the wall clock steps back;
    a time that spring left out is read with the offset before the change.
    """

    def __init__(self, tz: dt.tzinfo) -> None:
        self._tz = tz
        self._offsets: dict[int, tuple[int, int]] = {}
        self._last_ns: int | None = None
        self._second_pass = False

    def to_utc(self, local_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """UTC int64[n] of local int64[n]."""
        if local_ns.size == 0 or self._tz is dt.UTC:
            return local_ns
        quarters, index = np.unique(local_ns // _QUARTER_NS, return_inverse=True)
        pairs = np.array([self._offset(int(quarter)) for quarter in quarters], dtype=np.int64)
        first, second = pairs[index, 0], pairs[index, 1]
        # In spring's gap the two also differ, the other way round: only a repeated hour has second < first.
        doubtful = second < first
        offsets = first
        if doubtful.any():
            offsets = np.where(self._passes(local_ns, doubtful), second, first)
        elif local_ns.size:
            self._second_pass = False
        self._last_ns = int(local_ns[-1])
        utc: NDArray[np.int64] = local_ns - offsets
        return utc

    def _passes(self, local_ns: NDArray[np.int64], doubtful: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of the doubtful times are in the second pass: the clock stepped back since the last
        certain one."""
        previous = np.concatenate(
            ([self._last_ns if self._last_ns is not None else local_ns[0]], local_ns[:-1])
        )
        back = doubtful & (local_ns < previous)
        result = np.zeros(local_ns.shape, dtype=np.bool_)
        for i in np.flatnonzero(doubtful):  # an hour or two a year
            if i > 0 and not doubtful[i - 1]:
                self._second_pass = False
            self._second_pass |= bool(back[i])
            result[i] = self._second_pass
        if not doubtful[-1]:
            self._second_pass = False
        return result

    def _offset(self, quarter: int) -> tuple[int, int]:
        if quarter not in self._offsets:
            if len(self._offsets) > 10_000:
                self._offsets.clear()
            wall = dt.datetime(1970, 1, 1) + dt.timedelta(seconds=quarter * 900)  # noqa: DTZ001
            both = (wall.replace(tzinfo=self._tz, fold=fold).utcoffset() for fold in (0, 1))
            first, second = (round((offset or dt.timedelta()).total_seconds()) * NS_PER_S for offset in both)
            self._offsets[quarter] = (first, second)
        return self._offsets[quarter]


def zone(name: str, path: Path) -> dt.tzinfo:
    """The time zone ``name``; LogError with the nearest name when there is none."""
    if name.upper() in ("UTC", "Z", "GMT"):
        return dt.UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        near = difflib.get_close_matches(name, sorted(zoneinfo.available_timezones()), n=1)
        hint = f"did you mean {near[0]}?" if near else "use an IANA name such as Europe/Berlin, or UTC"
        raise LogError(path, f"there is no time zone {name!r}", remedy=hint) from None
