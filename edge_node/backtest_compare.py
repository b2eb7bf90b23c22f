"""Two models on the same recorded signal: what each made of it, and in what they differ. Pure.

Strategy: an alert of one model is the other's too where that had one of its kind, on that device, at the time: ids tell
episodes apart that begin a window later, and nobody would call those changed. p-values are counted in bins of
``BINS_A_DECADE`` a decade, so quantiles are known to that and memory is bounded.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_node.settling import Trace
from models.backtest import MAX_IDS, QUANTILES, Side
from models.messages import Alert
from models.requests import AlertLabel

BINS_A_DECADE = 100
_DECADES = 12  # p-values below 1e-12 are counted there
_KINDS = ("machine", "drift")  # what a model has a say in


@dataclass(slots=True)
class Episode:
    """An alert; ``counted``: it was raised in the replay, not before."""

    alert_id: str
    device: str
    kind: str
    start_ns: int
    end_ns: int
    counted: bool


@dataclass(slots=True)
class Made:
    """What one model has made of the signal so far."""

    episodes: dict[str, Episode] = field(default_factory=dict)
    n_windows: int = 0
    n_by_device: Counter[str] = field(default_factory=Counter)
    _bins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS_A_DECADE * _DECADES + 1, np.int64))

    def alert(self, alert: Alert) -> None:
        """``alert`` was said."""
        if alert.kind not in _KINDS:
            return
        known = self.episodes.get(alert.alert_id)
        if known is None:
            raised = alert.state == "raised"
            self.episodes[alert.alert_id] = Episode(
                alert.alert_id, alert.device, alert.kind, alert.start_ns, alert.end_ns, raised
            )
        else:
            known.end_ns = max(known.end_ns, alert.end_ns)

    def trace(self, trace: Trace) -> None:
        """Windows were scored."""
        p = trace.p[np.isfinite(trace.p)]
        if not p.size:
            return
        self.n_windows += p.size
        self.n_by_device[trace.device_id] += p.size
        at = np.clip(-np.log10(np.maximum(p, 1e-300)) * BINS_A_DECADE, 0, self._bins.size - 1)
        self._bins += np.bincount(at.astype(np.int64), minlength=self._bins.size)

    @property
    def counted(self) -> list[Episode]:
        """Alerts that were raised in the replay, in order of their beginning."""
        return sorted(
            (e for e in self.episodes.values() if e.counted), key=lambda e: (e.start_ns, e.alert_id)
        )

    def quantiles(self) -> dict[str, float]:
        """Of the p-values: each to the upper end of its bin."""
        if not self.n_windows:
            return {}
        rising = np.cumsum(self._bins[::-1])  # from the smallest p
        found = {}
        for q in QUANTILES:
            i = int(np.searchsorted(rising, max(1, math.ceil(q * self.n_windows))))
            found[f"q{q:g}"] = float(f"{10.0 ** (-(self._bins.size - 1 - i) / BINS_A_DECADE):.4g}")
        return found

    def side(self, invoke_us: float, n_failed: int) -> Side:
        """It as it is answered."""
        counted = self.counted
        by_device = Counter(e.device for e in counted).most_common(1)
        device, most = by_device[0] if by_device else (None, 0)
        return Side(
            n_windows=self.n_windows,
            n_alerts=len(counted),
            n_failed=n_failed,
            p_quantiles=self.quantiles(),
            invoke_us=round(invoke_us, 3),
            most_alerts_device=device,
            most_alerts=most,
        )


@dataclass(frozen=True, slots=True)
class Changes:
    """Alerts that only one of the two has, and how many of those in service both have; see :class:`models.backtest.Backtest`."""

    n_kept: int
    n_gained: int
    n_lost: int
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    n_lost_true: int
    lost_true: tuple[str, ...]
    n_lost_false: int
    n_kept_true: int


def changes(served: Made, candidate: Made, labels: Mapping[str, AlertLabel]) -> Changes:
    """In what the two differ; ``labels``: what operators called alerts of the model in service."""
    ours, theirs = served.counted, candidate.counted
    lost = _alone(ours, candidate.episodes.values())
    gained = _alone(theirs, served.episodes.values())
    alone = {e.alert_id for e in lost}
    lost_true = [e.alert_id for e in lost if labels.get(e.alert_id) == "true_alarm"]
    return Changes(
        n_kept=len(ours) - len(lost),
        n_gained=len(gained),
        n_lost=len(lost),
        gained=_ids(e.alert_id for e in gained),
        lost=_ids(e.alert_id for e in lost),
        n_lost_true=len(lost_true),
        lost_true=_ids(lost_true),
        n_lost_false=sum(labels.get(e.alert_id) == "false_alarm" for e in lost),
        n_kept_true=sum(labels.get(e.alert_id) == "true_alarm" for e in ours if e.alert_id not in alone),
    )


def _alone(episodes: Iterable[Episode], others: Collection[Episode]) -> list[Episode]:
    """Those that none of ``others`` overlaps."""
    by: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for e in sorted(others, key=lambda e: e.start_ns):
        spans = by.setdefault((e.device, e.kind), [])
        latest = max(e.end_ns, spans[-1][1] if spans else e.end_ns)  # the end of any that began by then
        spans.append((e.start_ns, latest))
    found = []
    for e in episodes:
        spans = by.get((e.device, e.kind), [])
        i = bisect_right(spans, (e.end_ns, 1 << 63))
        if not i or spans[i - 1][1] < e.start_ns:
            found.append(e)
    return found


def _ids(ids: Iterable[str]) -> tuple[str, ...]:
    """The newest of them."""
    return tuple(ids)[-MAX_IDS:]
