"""The last scores of every device, for a page to draw: of each second of event time the greatest.

Strategy: one ring a device, made when its first score comes; a point is five numbers in flat arrays, so that it costs
25 bytes and a score well below a microsecond to keep. Invariants: at most ``POINTS`` points a device; seconds only grow
(a device whose event time goes back begins anew). Pure.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_node.settling import Trace
from models.calibration import AlertLevel
from models.signal import NS_PER_S, ArtifactTarget

POINTS = 600
MIN_LOG_P = -300.0  # of a p-value of 0

Levels = Mapping[ArtifactTarget, AlertLevel]


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Points of one device, oldest first: Unix seconds, score, the level above which it counts, log10 of the p-value, and
    whether a machine alert was open (1) or not (0)."""

    at: list[int]
    score: list[float]
    level: list[float]
    log_p: list[float]
    alerting: list[int]


class ScoreRing:
    """The points of one device."""

    def __init__(self) -> None:
        self._at = array("q", bytes(8 * POINTS))
        self._score = array("f", bytes(4 * POINTS))
        self._level = array("f", bytes(4 * POINTS))
        self._log_p = array("f", bytes(4 * POINTS))
        self._alerting = array("B", bytes(POINTS))
        self._n = 0  # points written since it began

    @property
    def last(self) -> tuple[int, float, float] | None:
        """The newest point's second, score and level."""
        if not self._n:
            return None
        i = (self._n - 1) % POINTS
        return self._at[i], self._score[i], self._level[i]

    def add(self, trace: Trace, level: float) -> None:
        """The scores of ``trace``, which counted above ``level``."""
        if trace.end_ns.size == 1:  # as nearly always
            self._put(int(trace.end_ns[0]) // NS_PER_S, trace.score[0], level, trace.p[0], trace.alerting[0])
            return
        seconds = trace.end_ns // NS_PER_S
        begins = np.flatnonzero(np.diff(seconds, prepend=seconds[0] - 1))[-POINTS:]
        parts = (
            seconds[begins].tolist(),
            np.maximum.reduceat(trace.score, begins).tolist(),
            np.minimum.reduceat(trace.p, begins).tolist(),
            np.logical_or.reduceat(trace.alerting, begins).tolist(),
        )
        for second, score, p, alerting in zip(*parts, strict=True):
            self._put(second, score, level, p, alerting)

    def since(self, second: int) -> Scores:
        """The points of ``second`` and later."""
        n = min(self._n, POINTS)
        rows = np.arange(self._n - n, self._n) % POINTS
        at = np.frombuffer(self._at, np.int64)[rows]
        rows = rows[np.searchsorted(at, second) :]
        return Scores(
            at=np.frombuffer(self._at, np.int64)[rows].tolist(),
            score=_short(np.frombuffer(self._score, np.float32)[rows]),
            level=_short(np.frombuffer(self._level, np.float32)[rows]),
            log_p=np.frombuffer(self._log_p, np.float32)[rows].astype(np.float64).round(2).tolist(),
            alerting=np.frombuffer(self._alerting, np.uint8)[rows].tolist(),
        )

    def _put(self, second: int, score: float, level: float, p: float, alerting: bool) -> None:
        i = (self._n - 1) % POINTS
        if self._n and second <= self._at[i]:
            if second == self._at[i]:
                if score > self._score[i]:
                    self._score[i], self._level[i], self._log_p[i] = score, level, _log10(p)
                self._alerting[i] |= bool(alerting)
                return
            self._n = 0
        i = self._n % POINTS
        self._at[i], self._score[i], self._level[i] = second, score, level
        self._log_p[i], self._alerting[i] = _log10(p), bool(alerting)
        self._n += 1


class ScoreBook:
    """The rings of all devices."""

    def __init__(self) -> None:
        self._rings: dict[str, ScoreRing] = {}

    def keep_only(self, device_ids: Iterable[str]) -> None:
        """Forgets all other devices."""
        wanted = set(device_ids)
        self._rings = {device_id: ring for device_id, ring in self._rings.items() if device_id in wanted}

    def add(self, traces: Iterable[Trace], levels: Mapping[str, Levels]) -> None:
        """``levels``: by device, of each artifact; of one that is not among them the level is unknown."""
        for trace in traces:
            known = levels.get(trace.device_id, {})
            backend = trace.backend
            level = None if backend is None or backend == "cloud" else known.get(backend)
            ring = self._rings.get(trace.device_id)
            if ring is None:
                ring = self._rings[trace.device_id] = ScoreRing()
            ring.add(trace, math.nan if level is None else level.score_raise)

    def last(self, device_id: str) -> tuple[int, float, float] | None:
        """The newest point's second, score and level."""
        ring = self._rings.get(device_id)
        return None if ring is None else ring.last

    def since(self, device_id: str, second: int) -> Scores | None:
        """The device's points of ``second`` and later; None: it has had no score."""
        ring = self._rings.get(device_id)
        return None if ring is None else ring.since(second)


def _log10(p: float) -> float:
    return math.log10(p) if p > 0 else MIN_LOG_P


def _short(values: NDArray[np.float32]) -> list[float]:
    """Four digits: a pixel is coarser."""
    wide = values.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        digits = 10.0 ** (3 - np.floor(np.log10(np.abs(wide))))
        short = np.round(wide * digits) / digits
    told: list[float] = np.where(np.isfinite(short), short, wide).tolist()
    return told
